//! A control connection: framed messages over TLS over TCP, with a fast lane for feedback.
//!
//! Reports must not wait behind a manifest of a million entries. So a task of its own writes the
//! connection, and takes urgent messages before the others whenever it comes to a message's end.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

pub mod incoming;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use culvert_protocol::control::{
    FrameError, FrameReader, Message, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Refusal, RefusalCode,
};
use culvert_protocol::identity::PublicKey;
use culvert_protocol::keys::Secret;
use culvert_system::os_error;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::{TlsConnector, TlsStream};

use crate::tls::{TlsConfigs, keys_of};

/// How long connecting, the handshake and each step of the introduction may take.
pub const INTRODUCTION_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection is tried so often …
const CONNECT_TRIES: u32 = 3;
/// … while not more time than this has passed: an address without a host takes the kernel three
/// seconds.
const CONNECT_TRIES_WITHIN: Duration = Duration::from_secs(1);
/// Ordinary messages that may wait to be written; then their senders wait.
const QUEUE_LENGTH: usize = 32;
/// Urgent messages that may wait to be written. A partner that does not read for so long is given
/// up.
const URGENT_QUEUE_LENGTH: usize = 1 << 15;
/// How often an end that is busy with something long says that it lives.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(2);
/// A connection over which nothing has come for so long is dead: partners ping each other far more
/// often.
pub const SILENCE_TIMEOUT: Duration = Duration::from_millis(SILENCE_MS as u64);
const SILENCE_MS: u32 = 30_000;

/// The longest name of a node or of its software: each stands on one line of a list.
const NAME_CHARACTERS_MAX: usize = 64;

/// How long the end that asked for a transfer waits for the other's record of it. Longer than a
/// disk takes for the few flushes; and everything is stored and signed by then, so nothing is lost
/// if it waits in vain.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(5);
/// A host that has not answered for this long is reported. It is not an error yet.
pub const UNANSWERED_NOTICE: Duration = Duration::from_secs(3);
/// Who is told of it.
pub type Unanswered<'a> = dyn Fn(SocketAddr) + Sync + 'a;
/// How long a connection that this end gave up is still read.
const LINGER: Duration = Duration::from_secs(2);
/// How much is read of it: more than one message in each direction of every buffer between the two.
const LINGER_BYTES: u64 = 8 << 20;

/// Why a connection is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It could not be made.
    #[error("cannot connect to {address}: {error}; {}", connect_remedy(error))]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// No host has the name.
    #[error("there is no host '{host}': check the spelling, or give the host's address")]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// Whether a host has the name cannot be told now.
    #[error("cannot resolve '{host}': {error}; check this host's name servers (/etc/resolv.conf)")]
    Lookup {
        /// The name.
        host: String,
        /// Why not.
        error: std::io::Error,
    },
    /// There was no answer in time.
    #[error("{address} does not answer: is a Culvert node running there, and is TCP port {port} open in its firewall?")]
    NoAnswer {
        /// Where to.
        address: String,
        /// The port.
        port: u16,
    },
    /// Its host accepts connections, but nothing on it responds.
    #[error("{address} accepts connections but does not answer: its process is stopped, or its host is overloaded")]
    Silent {
        /// The address.
        address: SocketAddr,
    },
    /// The handshake failed.
    #[error("cannot establish a secure connection with {address}: {reason}")]
    Handshake {
        /// With whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// The partner does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// It was cut.
    #[error("the control connection to {address} was cut ({reason})")]
    Cut {
        /// To whom.
        address: SocketAddr,
        /// How.
        reason: String,
    },
}

impl ConnectionError {
    /// Whether this process only lacked descriptors or memory.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Connect { error, .. } | Self::Lookup { error, .. } if os_error::errno_of(error).is_some_and(os_error::is_shortage))
    }
}

/// The reading end.
///
/// When it is dropped, what the partner still sends is read and thrown away for a moment: a socket
/// that is closed with unread bytes resets the connection, and the reset overtakes this end's last
/// message, which is the one that says why.
#[derive(Debug)]
pub struct MessageReader {
    /// There until it is dropped.
    stream: Option<ReadHalf<TlsStream<TcpStream>>>,
    frames: FrameReader,
    address: SocketAddr,
    /// Whether the partner announced that it closes the connection. Only TLS distinguishes that
    /// from a process or host that is gone.
    is_closed: bool,
}

impl MessageReader {
    /// The next message of a partner that must send at least a ping within [`SILENCE_TIMEOUT`].
    /// Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no use.
    pub async fn next_in_time(&mut self) -> Result<Message, ConnectionError> {
        let address = self.address;
        let silent = |_| ConnectionError::Cut {
            address,
            reason: format!("nothing was received from the partner for {} s", SILENCE_TIMEOUT.as_secs()),
        };
        tokio::time::timeout(SILENCE_TIMEOUT, self.next()).await.map_err(silent)?
    }

    /// The next message. Cancelling the future loses nothing.
    ///
    /// # Errors
    /// [`ConnectionError`]; the connection is then of no use.
    pub async fn next(&mut self) -> Result<Message, ConnectionError> {
        let cut = |reason: String| ConnectionError::Cut { address: self.address, reason };
        let mut bytes = [0; 16 << 10];
        loop {
            if let Some(message) = self.frames.next_message()? {
                return Ok(message);
            }
            let Some(stream) = &mut self.stream else { return Err(cut("this end closed it".to_owned())) };
            match stream.read(&mut bytes).await {
                Ok(0) => {
                    self.is_closed = true;
                    return Err(cut("the partner closed it".to_owned()));
                }
                Ok(count) => self.frames.push(bytes.get(..count).unwrap_or_default()),
                // An orderly end is announced by TLS.
                Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                    return Err(cut("the partner's process or its host went down".to_owned()));
                }
                Err(error) => return Err(cut(error.to_string())),
            }
        }
    }
}

impl MessageReader {
    /// Takes the reading end out of a connection that is of no other use any more.
    #[must_use]
    pub fn take(&mut self) -> Self {
        Self { stream: self.stream.take(), frames: FrameReader::default(), address: self.address, is_closed: false }
    }

    /// Waits until the partner closes the connection, which it does when it has written down what
    /// came of the transfer (W-56). False if the connection was cut before: it may never write that
    /// down. One that keeps it open does not keep this end for long.
    pub async fn wait_for_goodbye(mut self) -> bool {
        let goodbye = async {
            while self.next().await.is_ok() {}
            self.is_closed
        };
        tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await.unwrap_or(true)
    }
}

impl Drop for MessageReader {
    fn drop(&mut self) {
        if let (Some(stream), Ok(runtime)) = (self.stream.take(), tokio::runtime::Handle::try_current()) {
            runtime.spawn(async move {
                let mut left = stream.take(LINGER_BYTES);
                let _ = tokio::time::timeout(LINGER, tokio::io::copy(&mut left, &mut tokio::io::sink())).await;
            });
        }
    }
}

/// The writing end; clones write to the same connection.
#[derive(Clone, Debug)]
pub struct MessageWriter {
    urgent: mpsc::Sender<Message>,
    ordinary: mpsc::Sender<Message>,
}

/// The connection cannot be written any more; the reader says why. Or the partner reads so little
/// that what it should know by now fills the queue.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the control connection is closed, or the partner does not read from it")]
pub struct Closed;

impl MessageWriter {
    /// Sends a message in its order; waits while too many wait already.
    ///
    /// # Errors
    /// [`Closed`].
    pub async fn send(&self, message: Message) -> Result<(), Closed> {
        self.ordinary.send(message).await.map_err(|_| Closed)
    }

    /// Sends a message before all ordinary ones. For feedback and other small things whose order
    /// does not matter.
    ///
    /// # Errors
    /// [`Closed`].
    pub fn send_urgent(&self, message: Message) -> Result<(), Closed> {
        self.urgent.try_send(message).map_err(|_| Closed)
    }

    /// Does work that may take long, and keeps telling the partner that this end is alive.
    pub async fn keep_alive<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        let mut tick = tokio::time::interval(SIGN_OF_LIFE_INTERVAL);
        loop {
            tokio::select! {
                done = &mut work => return done,
                // Whether the connection is closed shows when it is used.
                _ = tick.tick() => drop(self.send_urgent(Message::Ping(0))),
            }
        }
    }
}

/// A connection whose ends have introduced themselves to each other.
#[derive(Debug)]
pub struct Connection {
    /// The partner's key, proved.
    pub partner: PublicKey,
    /// The partner's address.
    pub address: SocketAddr,
    /// This end's address.
    pub local_address: SocketAddr,
    /// What flow keys are made of.
    pub secret: Secret,
    /// What the partner calls itself.
    pub partner_name: String,
    /// What software it runs.
    pub partner_software: String,
    /// The newest protocol version that both speak.
    pub version: u16,
    /// The reading end.
    pub reader: MessageReader,
    /// The writing end.
    pub writer: MessageWriter,
    writing: Option<tokio::task::JoinHandle<()>>,
}

/// What is left to do when a connection is not needed any more: to wait until its last messages are
/// written.
#[derive(Debug)]
pub struct PendingClose {
    writing: Option<tokio::task::JoinHandle<()>>,
}

impl PendingClose {
    /// Waits until everything is written, after the last [`MessageWriter`] is gone. A partner that
    /// reads nothing any more does not keep this node.
    pub async fn wait(self) {
        if let Some(mut writing) = self.writing
            && tokio::time::timeout(INTRODUCTION_TIMEOUT, &mut writing).await.is_err()
        {
            // It holds the connection's descriptor.
            writing.abort();
        }
    }
}

impl Connection {
    /// Connects to `address` and introduces this node as `name`.
    ///
    /// # Errors
    /// [`ConnectionError`].
    pub async fn connect(configs: &TlsConfigs, address: SocketAddr, name: &str) -> Result<Self, ConnectionError> {
        Self::connect_telling(configs, address, name, &|_| ()).await
    }

    /// As [`Connection::connect`]; `unanswered` is told of an address whose host has not answered
    /// for a while, long before it is given up.
    async fn connect_telling(
        configs: &TlsConfigs,
        address: SocketAddr,
        name: &str,
        unanswered: &Unanswered<'_>,
    ) -> Result<Self, ConnectionError> {
        let no_answer = |_| ConnectionError::NoAnswer { address: address.to_string(), port: address.port() };
        let mut connecting = std::pin::pin!(connect_in_spite_of_icmp(address));
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
        // No name is verified: the key identifies the partner.
        let server_name = rustls::pki_types::ServerName::IpAddress(address.ip().into());
        let handshake = connector.connect(server_name, tcp);
        let stream = tokio::time::timeout(INTRODUCTION_TIMEOUT, handshake)
            .await
            .map_err(|_| ConnectionError::Silent { address })?
            .map_err(|error| handshake_error(address, &handshake_reason(&error)))?;
        let keys = keys_of(stream.get_ref().1, stream.get_ref().1);
        Self::introduce(TlsStream::Client(stream), keys, address, name).await
    }

    async fn introduce(
        stream: TlsStream<TcpStream>,
        keys: Result<(PublicKey, Secret), String>,
        address: SocketAddr,
        name: &str,
    ) -> Result<Self, ConnectionError> {
        let (partner, secret) = keys.map_err(|reason| handshake_error(address, &reason))?;
        let tcp = stream.get_ref().0;
        let local_address = tcp.local_addr().unwrap_or(address);
        // Reports are small and must go at once.
        let _ = tcp.set_nodelay(true);
        notice_a_dead_partner(tcp);
        let (reading, writing) = tokio::io::split(stream);
        let (urgent, urgent_queue) = mpsc::channel(URGENT_QUEUE_LENGTH);
        let (ordinary, ordinary_queue) = mpsc::channel(QUEUE_LENGTH);
        let writing = tokio::spawn(write_messages(writing, urgent_queue, ordinary_queue));
        let mut reader =
            MessageReader { stream: Some(reading), frames: FrameReader::default(), address, is_closed: false };
        let writer = MessageWriter { urgent, ordinary };
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

    /// What to wait for when the connection has been dropped.
    pub fn farewell(&mut self) -> PendingClose {
        PendingClose { writing: self.writing.take() }
    }

    /// Writes what waits, and closes.
    pub async fn close(mut self) {
        let farewell = self.farewell();
        drop(self);
        farewell.wait().await;
    }
}

/// Resolves the first address of `host` that can be connected to, trying one after the other.
///
/// # Errors
/// The last address's error, or that the name has none.
pub async fn connect_to_host(
    configs: &Arc<TlsConfigs>,
    host: &str,
    port: u16,
    name: &str,
) -> Result<Connection, ConnectionError> {
    connect_to_host_telling(configs, host, port, name, &|_| ()).await
}

/// As [`connect_to_host`]; `unanswered` is told of each address that does not answer, long before
/// it is given up.
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

/// Says no, and waits until it is said.
pub async fn refuse(connection: Connection, refusal: Refusal) {
    let _ = connection.writer.send(Message::Refused(refusal)).await;
    connection.close().await;
}

/// What to do about a connection that cannot be made.
fn connect_remedy(error: &std::io::Error) -> String {
    if let Some(remedy) = os_error::errno_of(error).and_then(os_error::remedy) {
        return remedy;
    }
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "is 'culvert node' running there, and does it listen on this port?",
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
            "check the address, this host's routes, and the partner's network"
        }
        _ => "check the address, and the network between the hosts",
    };
    text.to_owned()
}

/// Connects, and retries if the attempt fails at once with an error that a single ICMP message can
/// cause. A host that does not exist fails every time.
async fn connect_in_spite_of_icmp(address: SocketAddr) -> std::io::Result<TcpStream> {
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

/// Like [`TcpStream::connect`], which reads `SO_ERROR` to see whether it succeeded. That also
/// returns ICMP errors from a handshake that succeeded all the same ("soft" errors, RFC 5461);
/// checking for a peer address does not.
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
        // Woken too early: it is neither connected nor refused.
        let _ = tcp.try_io(tokio::io::Interest::WRITABLE, || -> std::io::Result<()> {
            Err(std::io::ErrorKind::WouldBlock.into())
        });
    }
}

/// Lets the kernel find out that the partner's host is gone or unreachable, also while neither end
/// has anything to say.
fn notice_a_dead_partner(tcp: &TcpStream) {
    use rustix::net::sockopt;
    // Where one of them cannot be had, silence is noticed while data move.
    let _ = sockopt::set_socket_keepalive(tcp, true);
    let _ = sockopt::set_tcp_keepidle(tcp, Duration::from_millis((SILENCE_MS / 3).into()));
    let _ = sockopt::set_tcp_keepintvl(tcp, Duration::from_millis((SILENCE_MS / 6).into()));
    let _ = sockopt::set_tcp_keepcnt(tcp, 4);
    let _ = sockopt::set_tcp_user_timeout(tcp, SILENCE_MS);
}

/// Why a handshake failed, for people.
fn handshake_reason(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS: is it Culvert, and is this its TCP port?".to_owned()
        }
        _ => error.to_string(),
    }
}

fn handshake_error(address: SocketAddr, reason: &dyn std::fmt::Display) -> ConnectionError {
    ConnectionError::Handshake { address: address.to_string(), reason: reason.to_string() }
}

/// Writes messages until both queues are closed, the urgent ones first.
async fn write_messages<S: AsyncRead + AsyncWrite>(
    mut stream: WriteHalf<S>,
    mut urgent: mpsc::Receiver<Message>,
    mut ordinary: mpsc::Receiver<Message>,
) {
    /// Bytes gathered for one write, unless nothing more waits.
    const GATHERED_BYTES: usize = 64 << 10;
    let mut bytes = Vec::with_capacity(2 * GATHERED_BYTES);
    loop {
        let message = tokio::select! {
            biased;
            Some(message) = urgent.recv() => message,
            Some(message) = ordinary.recv() => message,
            else => break,
        };
        message.write_frame(&mut bytes);
        while bytes.len() < GATHERED_BYTES {
            let Some(message) = urgent.try_recv().ok().or_else(|| ordinary.try_recv().ok()) else { break };
            message.write_frame(&mut bytes);
        }
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        bytes.clear();
    }
    let _ = stream.shutdown().await;
}

/// Why a name has no address. The resolver's reasons reach this program as words only; they are in
/// English, since it sets no locale. What is not known to be final is taken for temporary.
fn lookup_error(host: &str, error: std::io::Error) -> ConnectionError {
    /// Of the GNU C library and of musl: `EAI_NONAME` and `EAI_NODATA`.
    const FINAL: [&str; 4] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ];
    let text = error.to_string();
    let host = host.to_owned();
    if FINAL.iter().any(|words| text.contains(words)) {
        return ConnectionError::UnknownHost { host };
    }
    ConnectionError::Lookup { host, error }
}
