//! Connects to another node: resolves its name, then TCP, TLS, and `Hello`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::connection::{Connection, INTRODUCTION_TIMEOUT};
use crate::error::{ConnectionError, handshake_error, handshake_reason, lookup_error};
use crate::tls::{TlsConfigs, keys_of};

/// Attempts at one address.
const CONNECT_TRIES: u32 = 3;
/// No further attempt is made once this has passed. The kernel takes three seconds to find that an
/// address has no host.
const CONNECT_TRIES_WITHIN: Duration = Duration::from_secs(1);
/// An address that has not answered for this long is reported to the caller, which still waits.
pub const UNANSWERED_NOTICE: Duration = Duration::from_secs(3);
/// The callback that reports an address that does not answer.
pub type Unanswered<'a> = dyn Fn(SocketAddr) + Sync + 'a;

impl Connection {
    /// Connects to `address` and introduces this node as `name`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn connect(configs: &TlsConfigs, address: SocketAddr, name: &str) -> Result<Self, ConnectionError> {
        Self::connect_telling(configs, address, name, &|_| ()).await
    }

    /// As [`Connection::connect`]; calls `unanswered` if the address has not answered within
    /// [`UNANSWERED_NOTICE`].
    async fn connect_telling(
        configs: &TlsConfigs,
        address: SocketAddr,
        name: &str,
        unanswered: &Unanswered<'_>,
    ) -> Result<Self, ConnectionError> {
        let no_answer = |_| ConnectionError::NoAnswer { address: address.to_string(), port: address.port() };
        let mut connecting = std::pin::pin!(connect_despite_icmp(address));
        let connected = match tokio::time::timeout(UNANSWERED_NOTICE, &mut connecting).await {
            Ok(connected) => connected,
            Err(_) => {
                unanswered(address);
                let left = INTRODUCTION_TIMEOUT.saturating_sub(UNANSWERED_NOTICE);
                tokio::time::timeout(left, connecting).await.map_err(no_answer)?
            }
        };
        let tcp = connected.map_err(|error| ConnectionError::Connect { address: address.to_string(), error })?;
        let connector = TlsConnector::from(configs.client.clone());
        // The key identifies the partner; its name is not verified.
        let server_name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let handshake = connector.connect(server_name, tcp);
        let stream = tokio::time::timeout(INTRODUCTION_TIMEOUT, handshake)
            .await
            .map_err(|_| ConnectionError::Silent { address })?
            .map_err(|error| handshake_error(address, &handshake_reason(&error)))?;
        let keys = keys_of(stream.get_ref().1, stream.get_ref().1);
        Self::introduce(TlsStream::Client(stream), keys, address, name).await
    }
}

/// Connects to the first address of `host` that accepts, trying them in the resolver's order.
///
/// # Errors
/// The last address's error, or [`ConnectionError::UnknownHost`] if the name has no address.
pub async fn connect_to_host(
    configs: &Arc<TlsConfigs>,
    host: &str,
    port: u16,
    name: &str,
) -> Result<Connection, ConnectionError> {
    connect_to_host_telling(configs, host, port, name, &|_| ()).await
}

/// As [`connect_to_host`]; calls `unanswered` for each address that has not answered within
/// [`UNANSWERED_NOTICE`].
///
/// # Errors
/// As [`connect_to_host`].
pub async fn connect_to_host_telling(
    configs: &Arc<TlsConfigs>,
    host: &str,
    port: u16,
    name: &str,
    unanswered: &Unanswered<'_>,
) -> Result<Connection, ConnectionError> {
    let looked_up = tokio::net::lookup_host((host, port)).await;
    let addresses: Vec<SocketAddr> = looked_up.map_err(|error| lookup_error(host, error))?.collect();
    let mut last = None;
    for address in addresses {
        match Connection::connect_telling(configs, address, name, unanswered).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    Err(last.unwrap_or_else(|| ConnectionError::UnknownHost { host: host.to_owned() }))
}

/// Connects. Retries an attempt that fails at once, because a single forged or stale ICMP message
/// can cause that. A host that does not exist fails every time.
async fn connect_despite_icmp(address: SocketAddr) -> std::io::Result<TcpStream> {
    let began = tokio::time::Instant::now();
    let mut tries = CONNECT_TRIES;
    loop {
        tries = tries.saturating_sub(1);
        match connect_once(address).await {
            Err(_) if tries > 0 && began.elapsed() < CONNECT_TRIES_WITHIN => {}
            done => return done,
        }
    }
}

/// As [`TcpStream::connect`], except for the test of success: `SO_ERROR` also returns ICMP errors
/// from a handshake that succeeded despite them ("soft" errors, RFC 5461). A peer address exists
/// only after success.
async fn connect_once(address: SocketAddr) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &address) {
        Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
        Err(error) => return Err(error.into()),
    }
    let tcp = TcpStream::from_std(std::net::TcpStream::from(socket))?;
    loop {
        tcp.writable().await?;
        if tcp.peer_addr().is_ok() {
            return Ok(tcp);
        }
        if let Some(error) = tcp.take_error()? {
            return Err(error);
        }
        // A spurious wakeup: the socket is neither connected nor refused.
        let _ = tcp.try_io(tokio::io::Interest::WRITABLE, || -> std::io::Result<()> {
            Err(std::io::ErrorKind::WouldBlock.into())
        });
    }
}
