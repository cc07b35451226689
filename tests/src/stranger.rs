//! A partner that speaks the protocol by hand, to say what no honest node says.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use culvert_engine::tls::TlsConfigs;
use culvert_protocol::control::{
    FrameReader, Message, Options, Overwrite, PROTOCOL_VERSION, Refusal, Request, RequestedAction, TransferId,
    encode_entry,
};
use culvert_protocol::identity::Identity;
use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
use culvert_protocol::rate_control::Mode;
use culvert_protocol::seal::Cipher;
use culvert_state::StateDirectory;

use crate::node::PATIENCE;

/// Connects to a port of this host from another of its addresses, 127.0.0.`last`, as an unknown
/// host.
///
/// # Errors
/// The operating system's.
pub fn connect_from(last: u8, port: u16) -> std::io::Result<TcpStream> {
    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
    bind(&socket, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(127, 0, 0, last), 0))?;
    connect(&socket, &std::net::SocketAddrV4::new(std::net::Ipv4Addr::LOCALHOST, port))?;
    Ok(socket.into())
}

/// A connection on which anything can be sent.
#[derive(Debug)]
pub struct Stranger {
    stream: rustls::StreamOwned<rustls::ClientConnection, TcpStream>,
    frames: FrameReader,
}

impl Stranger {
    /// Connects with the key of a state directory. The introduction is left to the caller.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn connect(state: &Path, port: u16) -> Self {
        let identity = StateDirectory::open(state).expect("the state opens").identity().expect("there is a key");
        let tcp = TcpStream::connect(("127.0.0.1", port)).expect("the node listens");
        Self::over(tcp, &identity)
    }

    /// Connects from 127.0.0.`last` with a key that nobody has seen.
    ///
    /// # Errors
    /// The operating system's.
    pub fn fresh_from(last: u8, port: u16) -> std::io::Result<Self> {
        connect_from(last, port).map(|tcp| Self::over(tcp, &Identity::generate()))
    }

    /// A connection that presents a key.
    ///
    /// # Panics
    /// If its timeout cannot be set.
    #[must_use]
    pub fn over(tcp: TcpStream, identity: &Identity) -> Self {
        let configs = TlsConfigs::new(identity);
        let name = rustls::pki_types::ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let client = rustls::ClientConnection::new(configs.client, name).expect("the configuration is valid");
        tcp.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout can be set");
        Self { stream: rustls::StreamOwned::new(client, tcp), frames: FrameReader::default() }
    }

    /// As [`Stranger::connect`], with the introduction of an honest node.
    ///
    /// # Panics
    /// If the node does not introduce itself.
    #[must_use]
    pub fn introduced(state: &Path, port: u16) -> Self {
        Self::introduced_as(state, port, PROTOCOL_VERSION)
    }

    /// As [`Stranger::introduced`], but as a program that speaks another version.
    ///
    /// # Panics
    /// If the node does not introduce itself.
    #[must_use]
    pub fn introduced_as(state: &Path, port: u16, version: u16) -> Self {
        let mut stranger = Self::connect(state, port);
        stranger.say(&hello(version));
        let answer = stranger.hear();
        assert!(matches!(answer, Some(Message::Hello { .. })), "{answer:?}");
        stranger
    }

    /// Sends the first flight of the handshake, and nothing more.
    ///
    /// # Errors
    /// The operating system's.
    pub fn only_say_client_hello(&mut self) -> std::io::Result<()> {
        while self.stream.conn.wants_write() {
            self.stream.conn.write_tls(&mut self.stream.sock)?;
        }
        Ok(())
    }

    /// Introduces itself; returns the node's next message, or none if it closes the connection
    /// first.
    pub fn introduce(&mut self) -> Option<Message> {
        let mut frame = Vec::new();
        hello(PROTOCOL_VERSION).write_frame(&mut frame);
        self.say_bytes(&frame).ok()?;
        self.hear_in_time().ok()?
    }

    /// What flow keys are derived from.
    ///
    /// # Panics
    /// If the handshake is not complete.
    #[must_use]
    pub fn secret(&self) -> culvert_protocol::keys::Secret {
        culvert_engine::tls::keys_of(&self.stream.conn, &self.stream.conn).expect("the handshake is complete").1
    }

    /// Sends a message.
    ///
    /// # Panics
    /// If the connection is closed.
    pub fn say(&mut self, message: &Message) {
        let mut frame = Vec::new();
        message.write_frame(&mut frame);
        self.say_bytes(&frame).expect("the node listens");
    }

    /// Sends bytes, whatever they mean.
    ///
    /// # Errors
    /// If the connection is closed.
    pub fn say_bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.write_all(bytes)?;
        self.stream.flush()
    }

    /// The next message; none when the node has closed the connection.
    ///
    /// # Panics
    /// If the node says nothing for 20 s, or sends something that is not a message.
    pub fn hear(&mut self) -> Option<Message> {
        match self.hear_in_time() {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("the node says nothing"),
            heard => heard.ok().flatten(),
        }
    }

    /// As [`Stranger::hear`], without waiting long: also none if there is no message right now.
    ///
    /// # Panics
    /// If the node sends something that is not a message.
    pub fn hear_if_there_is(&mut self) -> Option<Message> {
        let patience = self.stream.sock.read_timeout().expect("a timeout can be read");
        self.stream.sock.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout can be set");
        let heard = self.hear_in_time().ok().flatten();
        self.stream.sock.set_read_timeout(patience).expect("a timeout can be set");
        heard
    }

    fn hear_in_time(&mut self) -> std::io::Result<Option<Message>> {
        let mut bytes = [0; 4_096];
        loop {
            if let Some(message) = self.frames.next_message().expect("the node speaks the protocol") {
                return Ok(Some(message));
            }
            match self.read(&mut bytes)? {
                0 => return Ok(None),
                count => self.frames.push(&bytes[..count]),
            }
        }
    }

    /// Reads without first writing what could not be written before: the node's last words can be
    /// read even if it no longer listens.
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let rustls::StreamOwned { conn, sock } = &mut self.stream;
        if conn.is_handshaking() {
            conn.complete_io(sock)?;
        }
        loop {
            match conn.reader().read(bytes) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if conn.read_tls(sock)? == 0 {
                return Ok(0);
            }
            conn.process_new_packets().map_err(std::io::Error::other)?;
        }
    }

    /// Listens until the node refuses to continue.
    ///
    /// # Panics
    /// If the connection ends without a refusal.
    pub fn hear_refusal(&mut self) -> Refusal {
        let began = std::time::Instant::now();
        while began.elapsed() < PATIENCE {
            match self.hear() {
                Some(Message::Refused(refusal)) => return refusal,
                Some(_) => {}
                None => break,
            }
        }
        panic!("the node ended the connection without a reason");
    }

    /// Listens until the node has closed the connection.
    pub fn hear_the_end(&mut self) {
        while self.hear().is_some() {}
    }
}

/// An introduction that knows one version of the protocol.
#[must_use]
pub fn hello(version: u16) -> Message {
    Message::Hello {
        version_min: version,
        version_max: version,
        software: "a test".to_owned(),
        name: "stranger".to_owned(),
    }
}

/// A request with ordinary options.
#[must_use]
pub fn request(wish: RequestedAction) -> Message {
    let options = Options {
        chunk_bytes: 4 << 20,
        checksum: true,
        cipher: Cipher::Aes256Gcm,
        overwrite: Overwrite::Never,
        preserve: false,
        flows: 1,
        mode: Mode::Fair,
        rate_bits_per_second: None,
        dry_run: false,
    };
    // A refused one may stay under way for a moment longer, while its files are put away.
    static REQUESTS: AtomicU32 = AtomicU32::new(0);
    let number = u128::from(REQUESTS.fetch_add(1, Ordering::Relaxed));
    let process = rustix::process::getpid().as_raw_nonzero().get() as u128;
    let transfer = TransferId::new(1, number << 32 | process);
    Message::Request(Request { transfer, wish, options, lane_ports: vec![9], datagram_bytes_max: 1_472 })
}

/// A push, with a manifest up to its end.
///
/// # Panics
/// If the node does not accept the request.
pub fn push_manifest(stranger: &mut Stranger, destination: &Path, entries: &[Entry<'_>]) {
    use std::os::unix::ffi::OsStrExt as _;
    stranger.say(&request(RequestedAction::Push { destination: destination.as_os_str().as_bytes().to_vec() }));
    let answer = stranger.hear();
    assert!(matches!(answer, Some(Message::Accepted(_))), "{answer:?}");
    let mut part = Vec::new();
    entries.iter().for_each(|entry| encode_entry(entry, &mut part));
    stranger.say(&Message::ManifestPart(part));
}

/// A file's entry.
#[must_use]
pub const fn file(name: &[u8], bytes: u64) -> Entry<'_> {
    let modified = FileTime { seconds: 0, nanoseconds: 0 };
    Entry { name, kind: EntryKind::File { bytes, is_sparse: false }, target: b"", mode: 0o644, modified }
}

/// A symlink's entry.
#[must_use]
pub const fn symlink<'a>(name: &'a [u8], target: &'a [u8]) -> Entry<'a> {
    let modified = FileTime { seconds: 0, nanoseconds: 0 };
    Entry { name, kind: EntryKind::Symlink, target, mode: 0o777, modified }
}
