//! `culvert profile verify`: whether two nodes know each other, and what each permits the other.

use std::sync::Arc;
use std::time::Duration;

use culvert_engine::connection::{Connection, connect_to_host};
use culvert_engine::tls::TlsConfigs;
use culvert_engine::transfer::error::TransferError;
use culvert_model::address::split_host_port;
use culvert_model::exit_code::ExitCode;
use culvert_model::profile::{Permission, PermissionSummary, PermittedRoot, Profile};
use culvert_node::profiles::Profiles;
use culvert_node::settings::Settings;
use culvert_objects::fs::reach::permitted::{Obstacle, leaves_of, obstacle};
use culvert_protocol::control::{Message, PermissionAnswer, RefusalCode};
use culvert_protocol::foreign_text::plain_lines;
use culvert_state::StateDirectory;
use culvert_system::accounts::may_not;
use culvert_system::os_error;

use crate::exit::CommandError;
use crate::report::{print_json, say};

/// How long the partner may take to answer; it searches its profiles and tests directories.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects to a partner, compares its key, and asks whether it knows this node's.
pub async fn run(
    profiles: &Profiles,
    state: &StateDirectory,
    settings: &Settings,
    name: &str,
    json: bool,
) -> Result<ExitCode, CommandError> {
    let profile = profiles.get(name)?;
    let tls = Arc::new(TlsConfigs::new(&state.identity()?));
    let mut last = CommandError::new(
        ExitCode::NotFound,
        format!("the profile '{name}' has no address: add one with 'culvert profile edit {name} --address HOST:PORT'"),
    );
    for address in &profile.addresses {
        let Some((host, port)) = split_host_port(address) else { continue };
        let mut connection = match connect_to_host(&tls, host, port, &settings.name.value).await {
            Ok(connection) => connection,
            Err(error) => {
                last = TransferError::from(error).into();
                continue;
            }
        };
        let found = connection.partner;
        if found != profile.key {
            let (found, known) = (found.fingerprint(), profile.key.fingerprint());
            connection.close().await;
            let text = format!(
                "{address} presented the key {found}, not the one of '{name}' ({known}); either its \
                 node was reinstalled, or somebody is impersonating it. Ask its admin before you \
                 run 'culvert profile edit {name} --key …'"
            );
            return Err(CommandError::new(ExitCode::KeyChanged, text));
        }
        let software = connection.partner_software.clone();
        let answer = ask(&mut connection).await;
        connection.close().await;
        let there = answer.map_err(|error| CommandError {
            text: format!("{address} is '{name}', but {}", plain_lines(&error.text)),
            ..error
        })?;
        let both = BothSides { name, there, here: leaves_of(&profile.permit) };
        if json {
            print_json(&serde_json::json!({
                "name": name, "address": address, "software": software, "verified": true, "knows_this_node": true,
                "permitted_there": both.there, "permitted_here": both.here, "remedies": both.remedies(&profile),
            }))?;
        } else {
            say(&format!("{address} is '{name}': {software}, {}; it knows this node", found.fingerprint()))?;
            say(&both.lines(&profile).join("\n"))?;
        }
        return Ok(ExitCode::Done);
    }
    Err(last)
}

/// No directory is permitted.
const NOTHING: PermissionSummary = PermissionSummary { store: PermissionAnswer::No, fetch: PermissionAnswer::No };

/// What each side permits the other.
struct BothSides<'a> {
    name: &'a str,
    /// What this node may do there; none if the partner does not report it.
    there: Option<PermissionSummary>,
    /// What the partner may do here.
    here: PermissionSummary,
}

impl BothSides<'_> {
    fn lines(&self, profile: &Profile) -> Vec<String> {
        let there = self.there.map_or_else(
            || "its version does not report what this node may do there".to_owned(),
            |there| format!("this node may {} there", words(there)),
        );
        let mut lines = vec![
            format!("  there      {there}"),
            format!("  here       '{}' may {} here", self.name, words(self.here)),
        ];
        lines.extend(self.remedies(profile).iter().map(|remedy| format!("  to change  {remedy}")));
        lines
    }

    /// The obstacles to transfers, with the remedy and the host on which to apply it. Permission in
    /// only one direction is no obstacle: most nodes are set up that way.
    fn remedies(&self, profile: &Profile) -> Vec<String> {
        let name = self.name;
        let mut remedies = Vec::new();
        if let Some(there) = self.there {
            if there == NOTHING {
                remedies.push(format!(
                    "on the host of '{name}': this node may do nothing there: 'culvert profile edit NAME --permit DIRECTORY:write' \
                     lets it store files (:read lets it fetch; NAME is this node's name there)"
                ));
                if self.here == NOTHING {
                    remedies.push(format!(
                        "on this host: '{name}' may do nothing here either, so that no transfer between the two is possible: \
                         'culvert profile edit {name} --permit DIRECTORY:write' lets it store files (:read lets it fetch)"
                    ));
                }
            }
            for (verb, leave) in [("store in", there.store), ("fetch from", there.fetch)] {
                if leave == PermissionAnswer::Unusable {
                    remedies.push(format!(
                        "on the host of '{name}': no directory that this node is permitted to {verb} there can be \
                         used by the node's account: 'culvert profile show NAME' there names them"
                    ));
                }
            }
        }
        for root in &profile.permit {
            if let Some(obstacle) = obstacle(root, root.permission.writes()) {
                remedies.push(remedy_of(root, obstacle, name));
            }
        }
        remedies
    }
}

/// An obstacle to using a directory permitted here, and its remedy.
fn remedy_of(root: &PermittedRoot, obstacle: Obstacle, name: &str) -> String {
    let path = root.path.display();
    let (problem, mend) = match obstacle {
        Obstacle::Opening(error) => (format!("cannot be opened ({})", os_error::words(error)), "create it"),
        Obstacle::Entering => (format!("cannot be used: {}", may_not("enter it")), "give it that right"),
        Obstacle::Writing => (format!("cannot be stored in: {}", may_not("write to it")), "give it that right"),
    };
    let less = if obstacle == Obstacle::Writing && root.permission == Permission::Both {
        format!("permit only to fetch from it with 'culvert profile edit {name} --permit {path}:read'")
    } else {
        format!("revoke the permission with 'culvert profile edit {name} --forbid {path}'")
    };
    format!("on this host: {path} is permitted to '{name}' and {problem}: {mend}, or {less}")
}

/// What can be done now; unusable permissions are reported by [`BothSides::remedies`].
fn words(leaves: PermissionSummary) -> &'static str {
    let may = |leave| leave == PermissionAnswer::Yes;
    match (may(leaves.store), may(leaves.fetch)) {
        (true, true) => "store and fetch files",
        (true, false) => "store files but not fetch any",
        (false, true) => "fetch files but not store any",
        (false, false) => "neither store nor fetch files",
    }
}

/// Asks a partner whether it knows this node. Returns what it permits, if it reports that.
//= W-35
//# An end that only wants to check whether it is known sends `Ping` instead, receives `Pong`, and
//# the connection is closed. A node that does not know it refuses as in W-34. Programs from before
//# November 2026 refuse a `Ping` under a known key with `protocol`.
async fn ask(connection: &mut Connection) -> Result<Option<PermissionSummary>, CommandError> {
    // If the partner has refused and closed the connection already, its refusal can still be read.
    let _ = connection.writer.send(Message::Ping(1)).await;
    let mut permits = None;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, async {
        loop {
            match connection.reader.next().await {
                //= W-60
                //# it sends it at most once and at no other time
                Ok(Message::Permits { store, fetch }) if permits.is_none() => {
                    permits = Some(PermissionSummary { store, fetch });
                }
                answer => return answer,
            }
        }
    });
    match answer.await {
        Ok(Ok(Message::Refused(refusal))) if refusal.code == RefusalCode::Protocol => Ok(None),
        Ok(Ok(Message::Refused(refusal))) => {
            let code = match refusal.code {
                RefusalCode::UnknownKey | RefusalCode::NotPermitted => ExitCode::NotPermitted,
                RefusalCode::Temporary => ExitCode::Temporary,
                _ => ExitCode::Failed,
            };
            Err(CommandError::from_other_process(code, format!("refuses this node: {}", refusal.text)))
        }
        Ok(Ok(_)) => Ok(permits),
        Ok(Err(error)) => {
            Err(CommandError::new(ExitCode::Temporary, format!("does not say whether it knows this node: {error}")))
        }
        Err(_) => Err(CommandError::new(
            ExitCode::Temporary,
            format!("does not say within {} s whether it knows this node", ANSWER_TIMEOUT.as_secs()),
        )),
    }
}
