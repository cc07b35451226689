//! An open connection: both ends have proved their keys and exchanged `Hello`.

use std::net::SocketAddr;
use std::time::Duration;

use culvert_protocol::control::{Message, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Refusal, RefusalCode};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::keys::Secret;
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::error::{ConnectionError, handshake_error};
use crate::reading::{MessageReader, SILENCE_MS};
use crate::writing::MessageWriter;

/// The time limit of each step: connecting, the TLS handshake, the exchange of `Hello`.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest name of a node or of its software: lists show each on one line.
const NAME_CHARACTERS_MAX: usize = 64;

/// A connection whose two ends have exchanged `Hello`.
#[derive(Debug)]
pub struct Connection {
    /// The partner's key, which the TLS handshake has proved.
    pub partner: PublicKey,
    /// The partner's address.
    pub address: SocketAddr,
    /// This end's address.
    pub local_address: SocketAddr,
    /// The exported secret from which flow keys are derived.
    pub secret: Secret,
    /// The name that the partner gave itself.
    pub partner_name: String,
    /// The partner's software and its version.
    pub partner_software: String,
    /// The newest protocol version that both speak.
    pub version: u16,
    /// The reading end.
    pub reader: MessageReader,
    /// The writing end.
    pub writer: MessageWriter,
    /// The task that writes; `None` once [`Connection::pending_close`] has handed it out.
    writing: Option<tokio::task::JoinHandle<()>>,
}

/// A dropped connection whose last messages are still being written.
#[derive(Debug)]
pub struct PendingClose {
    writing: Option<tokio::task::JoinHandle<()>>,
}

impl PendingClose {
    /// Waits until every queued message is written; drop all [`MessageWriter`]s first. Waits no
    /// longer than [`INTRODUCTION_TIMEOUT`] for a partner that has stopped reading.
    pub async fn wait(self) {
        if let Some(mut writing) = self.writing
            && tokio::time::timeout(INTRODUCTION_TIMEOUT, &mut writing).await.is_err()
        {
            // The task holds the connection's descriptor.
            writing.abort();
        }
    }
}

impl Connection {
    /// Exchanges `Hello` over a connection whose TLS handshake is complete.
    pub(crate) async fn introduce(
        stream: TlsStream<TcpStream>,
        keys: Result<(PublicKey, Secret), String>,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, ConnectionError> {
        let (partner, secret) = keys.map_err(|reason| handshake_error(address, &reason))?;
        let tcp = stream.get_ref().0;
        let local_address = tcp.local_addr().unwrap_or(address);
        // Reports are small and must not wait for Nagle's algorithm.
        let _ = tcp.set_nodelay(true);
        detect_dead_partner(tcp);
        let (reading, writing) = tokio::io::split(stream);
        let mut reader = MessageReader::new(reading, address);
        let (writer, writing) = MessageWriter::start(writing);
        //= W-33
        //# Both ends start with `Hello` (oldest and newest protocol version, software, name).
        let hello = Message::Hello {
            version_min: PROTOCOL_VERSION_MIN,
            version_max: PROTOCOL_VERSION,
            software: concat!("culvert ", env!("CARGO_PKG_VERSION")).to_owned(),
            name: name.chars().take(NAME_CHARACTERS_MAX).collect(),
        };
        let _ = writer.send(hello).await;
        let answer = tokio::time::timeout(INTRODUCTION_TIMEOUT, reader.next())
            .await
            .map_err(|_| handshake_error(address, &"the partner did not introduce itself"))??;
        let Message::Hello { version_min, version_max, software, name } = answer else {
            return Err(handshake_error(address, &"the partner did not introduce itself"));
        };
        //= W-33
        //# If there is no common version, the end with the newer version sends a refusal that names
        //# both versions, and closes.
        if version_max < PROTOCOL_VERSION_MIN || version_min > PROTOCOL_VERSION {
            let software: String = software.chars().take(NAME_CHARACTERS_MAX).collect();
            let text = format!(
                "'{software}' speaks versions {version_min} to {version_max} of the protocol, this \
                 program {PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}: update the older one"
            );
            let _ = writer.send(Message::Refused(Refusal::new(RefusalCode::Version, text.clone()))).await;
            return Err(handshake_error(address, &text));
        }
        Ok(Self {
            partner,
            address,
            local_address,
            secret,
            partner_name: name.chars().take(NAME_CHARACTERS_MAX).collect(),
            version: version_max.min(PROTOCOL_VERSION),
            partner_software: software.chars().take(NAME_CHARACTERS_MAX).collect(),
            reader,
            writer,
            writing: Some(writing),
        })
    }

    /// The handle to wait for after the connection has been dropped. A second call returns one that
    /// waits for nothing.
    pub fn pending_close(&mut self) -> PendingClose {
        PendingClose { writing: self.writing.take() }
    }

    /// Writes the queued messages, then closes the connection.
    pub async fn close(mut self) {
        let pending_close = self.pending_close();
        drop(self);
        pending_close.wait().await;
    }
}

/// Refuses, and closes the connection once the refusal is written.
pub async fn refuse(connection: Connection, refusal: Refusal) {
    let _ = connection.writer.send(Message::Refused(refusal)).await;
    connection.close().await;
}

/// Makes the kernel detect a partner host that is gone or unreachable, even while both ends are
/// silent.
fn detect_dead_partner(tcp: &TcpStream) {
    use rustix::net::sockopt;
    // Failures are harmless: SILENCE_TIMEOUT still applies to every read during a transfer.
    let _ = sockopt::set_socket_keepalive(tcp, true);
    let _ = sockopt::set_tcp_keepidle(tcp, Duration::from_millis((SILENCE_MS / 3).into()));
    let _ = sockopt::set_tcp_keepintvl(tcp, Duration::from_millis((SILENCE_MS / 6).into()));
    let _ = sockopt::set_tcp_keepcnt(tcp, 4);
    let _ = sockopt::set_tcp_user_timeout(tcp, SILENCE_MS);
}
