//! `culvert profile verify`: whether two nodes know each other.

use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::control::{Message, RefusalCode};
use culvert_protocol::foreign_text::plain_lines;

use crate::cli::exit::{CommandError, ExitCode};
use crate::cli::report::{print_json, say};
use crate::connection::{Connection, connect_to_host};
use crate::profiles::Profiles;
use crate::request::split_host_port;
use crate::settings::Settings;
use crate::state::StateDirectory;
use crate::tls::TlsConfigs;
use crate::transfer::TransferError;

/// How long the partner may take to say whether it knows this node: it looks through its profiles.
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
        format!(
            "the profile '{name}' names no address: add one with 'culvert profile edit {name} --address HOST:PORT'"
        ),
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
                "{address} shows the key {found}, not the one of '{name}' ({known}); either its node was set up anew, \
                 or somebody is in between. Ask its admin, and only then type 'culvert profile edit {name} --key …'"
            );
            return Err(CommandError::new(ExitCode::KeyChanged, text));
        }
        let software = connection.partner_software.clone();
        let knows = ask(&mut connection).await;
        connection.close().await;
        knows.map_err(|error| CommandError {
            text: format!("{address} is '{name}', but {}", plain_lines(&error.text)),
            ..error
        })?;
        if json {
            print_json(&serde_json::json!({
                "name": name, "address": address, "software": software, "verified": true, "knows_this_node": true,
            }))?;
        } else {
            say(&format!("{address} is '{name}': {software}, {}; it knows this node", found.fingerprint()))?;
        }
        return Ok(ExitCode::Done);
    }
    Err(last)
}

/// Asks for the smallest of answers. A partner refuses whom it does not know before it looks at what they say, and
/// answers others, be it that this is nothing to ask for (versions of before answer so).
async fn ask(connection: &mut Connection) -> Result<(), CommandError> {
    // Whoever refuses may have closed the connection already: what it said is still there to be read.
    let _ = connection.writer.send(Message::Ping(1)).await;
    let answer = tokio::time::timeout(ANSWER_TIMEOUT, connection.reader.next()).await;
    match answer {
        Ok(Ok(Message::Refused(refusal))) if refusal.code == RefusalCode::Protocol => Ok(()),
        Ok(Ok(Message::Refused(refusal))) => {
            let code = match refusal.code {
                RefusalCode::UnknownKey | RefusalCode::NotPermitted => ExitCode::NotPermitted,
                RefusalCode::Temporary => ExitCode::Temporary,
                _ => ExitCode::Failed,
            };
            Err(CommandError::told(code, format!("refuses this node: {}", refusal.text)))
        }
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            Err(CommandError::new(ExitCode::Temporary, format!("does not say whether it knows this node: {error}")))
        }
        Err(_) => Err(CommandError::new(
            ExitCode::Temporary,
            format!("does not say within {} s whether it knows this node", ANSWER_TIMEOUT.as_secs()),
        )),
    }
}
