//! Connects to the target of a request, and verifies that the partner has the expected key.

use culvert_model::address::{join_host_port, split_host_port};
use culvert_model::request::Target;
use culvert_protocol::control::RefusalCode;
use culvert_protocol::identity::PublicKey;

use crate::connection::{Connection, ConnectionError, Unanswered, connect_to_host, connect_to_host_telling};
use crate::engine::Engine;
use crate::records::LiveTransfer;
use crate::transfer::blocking;
use crate::transfer::error::TransferError;
use crate::transfer::tcp_path::ClosedTcp;

/// As [`connect`]. If TCP gets no answer from a far end, the transfer's progress says so while
/// connecting goes on.
///
/// # Errors
/// [`TransferError`].
pub async fn connect_and_tell(
    engine: &Engine,
    target: &Target,
    was_reached: bool,
    live: &LiveTransfer,
) -> Result<Connection, TransferError> {
    let Target::FarEnd { .. } = target else { return connect(engine, target, was_reached).await };
    let unanswered = |address| {
        // A far end that answered before has been stopped, or its network is interrupted: no
        // firewall is to blame.
        let closed = if was_reached { None } else { ClosedTcp::unanswered(&engine.name, address) };
        if let Some(closed) = closed {
            live.progress.send_modify(|progress| progress.notice = Some(closed.to_string()));
        }
    };
    connect_telling(engine, target, was_reached, &unanswered).await
}

/// Connects to the partner and verifies its key. `was_reached` says that an earlier attempt of the
/// same transfer had a connection.
///
/// # Errors
/// [`TransferError`].
pub async fn connect(engine: &Engine, target: &Target, was_reached: bool) -> Result<Connection, TransferError> {
    connect_telling(engine, target, was_reached, &|_| ()).await
}

/// As [`connect`]; calls `unanswered` for each of a far end's addresses that does not answer.
async fn connect_telling(
    engine: &Engine,
    target: &Target,
    was_reached: bool,
    unanswered: &Unanswered<'_>,
) -> Result<Connection, TransferError> {
    match target {
        Target::Profile(name) => {
            let (partners, wanted) = (engine.partners.clone(), name.clone());
            let profile = blocking(move || partners.named(&wanted)).await.map_err(TransferError::Here)?;
            let mut last = TransferError::here(
                RefusalCode::NotFound,
                format!(
                    "the profile '{name}' has no address: add one with 'culvert profile edit {name} \
                     --address HOST:PORT'"
                ),
            );
            for address in &profile.addresses {
                let Some((host, port)) = split_host_port(address) else { continue };
                match connect_to_host(&engine.tls, host, port, &engine.name).await {
                    Ok(connection) => return check_key(connection, profile.key, name),
                    Err(error) => last = error.into(),
                }
            }
            Err(last)
        }
        Target::Address { host, port } => {
            let connection = connect_to_host(&engine.tls, host, *port, &engine.name).await?;
            let address = join_host_port(host, *port);
            let (partners, partner, wanted) = (engine.partners.clone(), connection.partner, address.clone());
            let found = blocking(move || {
                let named = partners.with_address(&wanted)?;
                let keyed = if named.is_none() { partners.with_key(partner)? } else { None };
                Ok((named, keyed.is_some()))
            });
            match found.await.map_err(TransferError::Here)? {
                (Some((name, profile)), _) => return check_key(connection, profile.key, &name),
                (None, true) => return Ok(connection),
                (None, false) => {}
            }
            let fingerprint = connection.partner.fingerprint();
            // If the table is full or cannot be written, the refusal below still says what to do.
            let (partners, name, at) = (engine.partners.clone(), connection.partner_name.clone(), address.clone());
            blocking(move || partners.note_stranger(partner, &name, &at)).await;
            Err(TransferError::here(
                RefusalCode::UnknownKey,
                format!(
                    "{address} presented a key that this node does not know ({fingerprint}): \
                     compare it with what 'culvert identity' prints there, then run 'culvert \
                     profile approve {fingerprint} --name NAME'"
                ),
            ))
        }
        Target::FarEnd { hosts, port, key } => {
            let mut last = None;
            for host in hosts {
                match connect_to_host_telling(&engine.tls, host, *port, &engine.name, unanswered).await {
                    Ok(connection) => return check_key(connection, *key, host),
                    // A shortage on this host affects every address.
                    Err(error) if error.is_shortage() => return Err(error.into()),
                    Err(error) => last = Some(error),
                }
            }
            Err(last.map_or_else(
                || TransferError::here(RefusalCode::Failed, "the far end has no address"),
                |error| unreachable_far_end(&engine.name, &error, *port, was_reached),
            ))
        }
    }
}

/// The error of a far end, started over ssh, that cannot be connected to.
fn unreachable_far_end(here: &str, error: &ConnectionError, port: u16, was_reached: bool) -> TransferError {
    match error {
        ConnectionError::Silent { .. } => {
            TransferError::here(RefusalCode::Temporary, format!("the far end at {error}"))
        }
        // ssh has just started it, and no attempt has reached it: whatever blocks the port will
        // keep blocking it.
        _ if !was_reached => TransferError::Closed(ClosedTcp::because(here, error).map_or_else(
            || format!("{error}; ssh reaches the host, and data need TCP port {port} to be open between the hosts"),
            |closed| closed.to_string(),
        )),
        // Only that far end would listen on its port, so another attempt is useless.
        ConnectionError::Connect { address, error } if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            TransferError::here(RefusalCode::Failed, format!("the far end at {address} no longer listens"))
        }
        ConnectionError::NoAnswer { address, .. } => TransferError::here(
            RefusalCode::Temporary,
            format!(
                "the far end at {address} has stopped answering: its process is stopped, its host \
                 is overloaded or down, or the network is interrupted"
            ),
        ),
        error => TransferError::here(RefusalCode::Temporary, format!("the far end can no longer be reached: {error}")),
    }
}

fn check_key(connection: Connection, expected: PublicKey, who: &str) -> Result<Connection, TransferError> {
    if connection.partner == expected {
        return Ok(connection);
    }
    Err(TransferError::KeyChanged(format!(
        "the key of '{who}' has CHANGED: expected {}, found {} at {}; either its node was \
         reinstalled, or somebody is impersonating it. Ask its admin before you run 'culvert \
         profile edit {who} --key …'",
        expected.fingerprint(),
        connection.partner.fingerprint(),
        connection.address
    )))
}
