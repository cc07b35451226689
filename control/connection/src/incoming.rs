//! Incoming connections, in two steps: waiting for the ClientHello costs this node only a
//! descriptor; the handshake costs a millisecond of cryptography. A node limits the two apart.

use std::net::SocketAddr;

use tokio::net::TcpStream;
use tokio_rustls::server::StartHandshake;
use tokio_rustls::{LazyConfigAcceptor, TlsStream};

use crate::connection::{Connection, INTRODUCTION_TIMEOUT};
use crate::error::{ConnectionError, handshake_error};
use crate::tls::{TlsConfigs, keys_of};

/// A connection whose ClientHello has arrived whole.
pub struct ClientHelloReceived {
    start: StartHandshake<TcpStream>,
    address: SocketAddr,
}

impl std::fmt::Debug for ClientHelloReceived {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientHelloReceived").field("address", &self.address).finish_non_exhaustive()
    }
}

impl ClientHelloReceived {
    /// Waits for the ClientHello. The caller limits the time.
    ///
    /// # Errors
    /// [`ConnectionError`] if something else arrives.
    pub async fn hear(tcp: TcpStream, address: SocketAddr) -> Result<Self, ConnectionError> {
        let hello = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), tcp).await;
        let start = hello.map_err(|error| handshake_error(address, &error))?;
        Ok(Self { start, address })
    }

    /// Completes the TLS handshake and introduces this node as `name`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn accept(self, configs: &TlsConfigs, name: &str) -> Result<Connection, ConnectionError> {
        let Self { start, address } = self;
        let stream = tokio::time::timeout(INTRODUCTION_TIMEOUT, start.into_stream(configs.server.clone()))
            .await
            .map_err(|_| handshake_error(address, &"it takes too long"))?
            .map_err(|error| handshake_error(address, &error))?;
        let keys = keys_of(stream.get_ref().1, stream.get_ref().1);
        Connection::introduce(TlsStream::Server(stream), keys, address, name).await
    }
}
