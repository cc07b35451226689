//! Pending keys, and the invitation with this node's own key.

use culvert_model::address::DEFAULT_PORT;
use culvert_model::profile::PendingKey;
use culvert_node::profiles::{Profiles, is_name};
use culvert_node::settings::Settings;
use culvert_protocol::identity::PublicKey;

use crate::exit::CommandError;
use crate::report::{print_json, say};

/// A pending key as `--json` prints it.
#[derive(serde::Serialize)]
struct PendingJson<'a> {
    fingerprint: String,
    words: String,
    #[serde(flatten)]
    pending: &'a PendingKey,
}

/// Lists the pending keys.
pub fn pending(profiles: &Profiles, json: bool) -> Result<(), CommandError> {
    let pending = profiles.pending()?;
    if json {
        let shown: Vec<PendingJson<'_>> = pending
            .iter()
            .map(|pending| PendingJson { fingerprint: pending.key.fingerprint(), words: pending.key.words(), pending })
            .collect();
        return print_json(&shown);
    }
    if pending.is_empty() {
        return say("no keys are waiting for approval");
    }
    pending.iter().try_for_each(|key| say(&text(key)))
}

/// Notes that a profile's address is a guess: an incoming connection does not show where the
/// partner's node listens.
pub fn report_guessed_address(name: &str, address: &str) {
    say_aside!(
        "culvert: '{name}' asked from there, so its node is assumed to listen at {address}; if it does not, \
         'culvert profile edit {name} --address HOST:PORT' corrects it"
    );
}

/// Prints the command with which the partner's admin adds a profile of this node.
pub fn invite(
    settings: &Settings,
    key: PublicKey,
    name: Option<String>,
    mut addresses: Vec<String>,
    json: bool,
    quiet: bool,
) -> Result<(), CommandError> {
    let name = name.unwrap_or_else(|| settings.name.value.clone());
    if !is_name(&name) {
        return Err(CommandError::usage(format!(
            "'{name}' is not a valid profile name at the partner: choose another with --name"
        )));
    }
    if addresses.is_empty() {
        addresses.push(own_address(settings));
        if !quiet {
            say_aside!(
                "culvert: the address is this host's own name; if the partner reaches it by another \
                 name, give it with --address HOST"
            );
        }
    }
    let options: String = addresses.iter().map(|address| format!(" --address {address}")).collect();
    let command = format!("culvert profile add {name} --key {key}{options}");
    let (fingerprint, words) = (key.fingerprint(), key.words());
    if json {
        return print_json(&serde_json::json!({
            "command": command, "name": name, "key": key, "fingerprint": fingerprint, "words": words,
            "addresses": addresses,
        }));
    }
    say(&command)?;
    if !quiet {
        say_aside!("culvert: the partner runs this command; it must print the fingerprint {fingerprint}, {words}");
    }
    Ok(())
}

fn text(pending: &PendingKey) -> String {
    let PendingKey { key, name, address, first_seen_unix, last_seen_unix } = pending;
    let how = if pending.is_guest() { "asked from" } else { "was found at" };
    format!(
        "{}\n  words  {}\n  name   calls itself '{name}', {how} {address}\n  times  first {}, last {}",
        key.fingerprint(),
        key.words(),
        when(*first_seen_unix),
        when(*last_seen_unix)
    )
}

fn when(unix: u64) -> String {
    let time = i64::try_from(unix).ok().and_then(|unix| jiff::Timestamp::from_second(unix).ok());
    time.map_or_else(|| "-".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

/// This host's name with the port on which the node listens.
fn own_address(settings: &Settings) -> String {
    let port = match settings.listen.value.port() {
        0 => DEFAULT_PORT,
        port => port,
    };
    format!("{}:{port}", culvert_system::descriptors::host_name())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_key_is_shown_with_times_and_without_an_ephemeral_port() {
        let key = PublicKey([7; 32]);
        let guest = PendingKey {
            key,
            name: "lab-c".to_owned(),
            address: "10.78.0.1".to_owned(),
            first_seen_unix: 1_764_500_000,
            last_seen_unix: 1_764_500_061,
        };
        let shown = text(&guest);
        assert!(shown.starts_with(&key.fingerprint()) && shown.contains(&key.words()), "{shown}");
        assert!(shown.contains("calls itself 'lab-c', asked from 10.78.0.1\n"), "{shown}");
        assert!(shown.contains("first 2025-11-30 10:53:20 UTC, last 2025-11-30 10:54:21 UTC"), "{shown}");
        assert_eq!(guest.node_address(), "10.78.0.1:7272");
        let found = PendingKey { address: "dtn.example.org:99".to_owned(), ..guest };
        assert!(text(&found).contains("was found at dtn.example.org:99"));
        assert_eq!(found.node_address(), "dtn.example.org:99");
    }
}
