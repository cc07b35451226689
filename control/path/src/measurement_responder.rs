//! Starts the STAMP and TWAMP responder if `[responder]` configures it.

use std::net::SocketAddr;

use culvert_model::profile::NamedProfile;
use culvert_perfsonar::responder::Responder;
use culvert_perfsonar::socket::ProbeSocket;
use culvert_system::os_error;
use tokio::net::TcpListener;

use crate::service::PathService;

/// Starts the reflectors that `[responder]` names. They answer the partners whose profiles
/// `profiles` reads, and the hosts of `[psconfig]`.
///
/// # Errors
/// In words: an address that cannot be bound, a file that cannot be read.
pub async fn start(
    service: &PathService,
    profiles: impl Fn() -> Vec<NamedProfile> + Send + 'static,
) -> Result<(), String> {
    let settings = service.settings();
    let Some(table) = &settings.responder else { return Ok(()) };
    let config = table.config(service.port())?;
    let hosts = settings.psconfig.as_ref().map(|psconfig| psconfig.hosts.clone());
    service.measurement_peers.start(profiles, config.permitted.clone(), hosts.unwrap_or_default())?;
    let responder = Responder::new(config, service.counters.clone());
    if let Some(address) = table.stamp {
        let socket = ProbeSocket::bind(address)
            .map_err(|error| cannot_listen("STAMP and TWAMP-Light", "stamp", address, &error))?;
        let responder = responder.clone();
        tokio::spawn(async move {
            if let Err(error) = responder.serve_stamp(socket).await {
                say_aside!("culvert: the STAMP responder has stopped: {error}");
            }
        });
    }
    if let Some(address) = table.twamp {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|error| cannot_listen("TWAMP-Control", "twamp", address, &error))?;
        tokio::spawn(responder.serve_control(listener));
    }
    Ok(())
}

fn cannot_listen(what: &str, key: &str, address: SocketAddr, error: &std::io::Error) -> String {
    let hint = match error.kind() {
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the capability net_bind_service, or choose a higher one"
        }
        std::io::ErrorKind::AddrInUse => "another program uses it (ss -lnp shows it)",
        _ => "choose another address",
    };
    let why = os_error::words_or_hint(error, hint);
    format!("cannot listen for {what} on {address}: {why} ([responder] {key} in culvert.toml)")
}
