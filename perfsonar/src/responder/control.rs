//! Serves TWAMP-Control over TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::slots::Slot;
use super::{Client, Responder, ResponderCounters, TurnedAway, canonical, reflect_on};
use crate::clock::now_ns;
use crate::socket::ProbeSocket;
use crate::timestamp::{TimestampFormat, encode};
use crate::twamp::messages::{
    Accept, SessionRequest, accept_session, closed_greeting, greeting, server_start, start_ack,
};
use crate::twamp::server::{ServerConnection, Step};

/// How long a client may take for its first message, for the rest of each message, and to read an
/// answer: a few round trips around the world, plus retransmissions.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client without running sessions may be silent (SERVWAIT; RFC 5357 3.1 proposes 900
/// s). Programs make their requests immediately.
const SERVER_WAIT: Duration = Duration::from_secs(60);
/// How long the client of a session may send no packet (REFWAIT, RFC 5357 4.2: 900 s).
const REFLECTOR_WAIT: Duration = Duration::from_secs(900);
/// How long a session may last, whatever its client does.
const SESSION_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The longest time that reflectors run after Stop-Sessions.
const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// The most sessions of one control connection.
const SESSIONS_PER_CONNECTION: u32 = 16;
/// Bytes of the longest test packet.
const PACKET_BYTES_MAX: u32 = 65_000;

impl Responder {
    /// Serves TWAMP-Control on a listener until it fails.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn serve_control(self: Arc<Self>, listener: TcpListener) -> io::Result<()> {
        loop {
            let (mut stream, client) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let slot = match self.connection_slot(client.ip()) {
                Ok(slot) => slot,
                Err(why) => {
                    self.counters.note_turned_away(why);
                    // A greeting without modes means "not now" (RFC 4656 3.1). It fits into the
                    // socket's buffer, so writing does not block.
                    if why != TurnedAway::Source {
                        let _ = timeout(Duration::ZERO, stream.write_all(&closed_greeting())).await;
                    }
                    continue;
                }
            };
            let control = Control {
                stream,
                client: canonical(client),
                responder: self.clone(),
                reflectors: JoinSet::new(),
                stop: watch::channel(None).0,
            };
            tokio::spawn(async move {
                // An error of one client ends its own sessions and nothing else.
                let _ = control.run().await;
                drop(slot);
            });
        }
    }
}

struct Control {
    stream: TcpStream,
    client: SocketAddr,
    responder: Arc<Responder>,
    /// The sessions' reflectors, which end with this connection.
    reflectors: JoinSet<()>,
    /// Set when the sessions are stopped.
    stop: watch::Sender<Option<Duration>>,
}

/// A session, counted while it is open.
struct OpenSession {
    counters: Arc<ResponderCounters>,
    _slot: Slot,
}

impl OpenSession {
    fn new(counters: Arc<ResponderCounters>, slot: Slot) -> Self {
        counters.sessions.fetch_add(1, Ordering::Relaxed);
        Self { counters, _slot: slot }
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.counters.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without randomness the values are zero, which is harmless in the unauthenticated mode.
    let _ = rand::fill(&mut bytes);
    bytes
}

impl Control {
    async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.say(&greeting(random(), random())).await?;
        let mut server = ServerConnection::new(
            self.client.ip(),
            self.responder.session_ports(),
            SESSIONS_PER_CONNECTION,
            PACKET_BYTES_MAX,
        );
        let mut silence_max = STEP_TIMEOUT;
        loop {
            let Some(message) = self.next_message(&server, silence_max).await? else { return Ok(()) };
            silence_max = SERVER_WAIT;
            match server.on_message(&message) {
                Step::Welcome => {
                    let started = encode(now_ns(), TimestampFormat::Ntp);
                    self.say(&server_start(Accept::Ok, random(), started)).await?;
                }
                Step::TurnAway(accept) => {
                    self.say(&server_start(accept, [0; 16], [0; 8])).await?;
                    return Ok(());
                }
                Step::Open(request) => {
                    let answer = match self.open(&request) {
                        Ok(port) => accept_session(Accept::Ok, port, random()),
                        Err(accept) => accept_session(accept, 0, [0; 16]),
                    };
                    self.say(&answer).await?;
                }
                Step::Refuse(accept) => self.say(&accept_session(accept, 0, [0; 16])).await?,
                Step::Start => self.say(&start_ack(Accept::Ok)).await?,
                Step::Stop => {
                    let old = std::mem::replace(&mut self.stop, watch::channel(None).0);
                    old.send_replace(Some(Duration::ZERO));
                }
                Step::Close(_) => return Ok(()),
            }
        }
    }

    /// Writes a message. The connection is closed if the client does not read it.
    async fn say(&mut self, message: &[u8]) -> io::Result<()> {
        match timeout(STEP_TIMEOUT, self.stream.write_all(message)).await {
            Ok(written) => written,
            Err(_) => {
                self.responder.counters.note_turned_away(TurnedAway::Silent);
                Err(io::ErrorKind::TimedOut.into())
            }
        }
    }

    /// The next whole message; none if the client is silent for too long, or sends an unknown
    /// command.
    async fn next_message(&mut self, server: &ServerConnection, silence_max: Duration) -> io::Result<Option<Vec<u8>>> {
        // While reflectors answer, clients are silent on this connection. Then only the end of the
        // last session, or of the connection, ends the wait.
        let is_running = server.is_running();
        let reflectors = &mut self.reflectors;
        let silence_ends = async {
            if is_running {
                while reflectors.join_next().await.is_some() {}
            } else {
                tokio::time::sleep(silence_max).await;
            }
        };
        let first = tokio::select! {
            first = self.stream.read_u8() => first?,
            () = silence_ends => {
                self.responder.counters.note_turned_away(TurnedAway::Silent);
                return Ok(None);
            }
        };
        let Some(bytes) = server.message_bytes(first) else { return Ok(None) };
        let mut message = vec![0; bytes];
        let Some((place, rest)) = message.split_first_mut() else { return Ok(None) };
        *place = first;
        match timeout(STEP_TIMEOUT, self.stream.read_exact(rest)).await {
            Ok(read) => read.map(|_| Some(message)),
            Err(_) => {
                self.responder.counters.note_turned_away(TurnedAway::Silent);
                Ok(None)
            }
        }
    }

    /// Opens a reflector; returns its port.
    fn open(&mut self, request: &SessionRequest) -> Result<u16, Accept> {
        // Results of ended reflectors are collected here, so that they do not accumulate.
        while self.reflectors.try_join_next().is_some() {}
        let counters = self.responder.counters.clone();
        let slot = self.responder.session_slot(self.client.ip()).map_err(|why| {
            counters.note_turned_away(why);
            Accept::TemporaryLimit
        })?;
        let local = self.stream.local_addr().map_err(|_| Accept::Internal)?;
        let socket = self.bind(local.ip().to_canonical(), request.receiver_port)?;
        let port = socket.local_address().map_err(|_| Accept::Internal)?.port();
        let _ = socket.set_traffic_class(request.dscp << 2);
        let reflector = self.responder.session_reflector();
        let address = SocketAddr::new(self.client.ip(), request.sender_port);
        let client = Client { address, silence_max: REFLECTOR_WAIT };
        let mut stop = self.stop.subscribe();
        let stop_timeout = request.timeout().min(STOP_TIMEOUT_MAX);
        let open = OpenSession::new(counters.clone(), slot);
        self.reflectors.spawn(async move {
            let stopped = async {
                // Packets in flight when the client stops are still answered.
                if stop.wait_for(Option::is_some).await.is_ok() {
                    tokio::time::sleep(stop_timeout).await;
                }
            };
            tokio::select! {
                _ = reflect_on(socket, reflector, &counters, Some(client)) => {}
                () = stopped => {}
                () = tokio::time::sleep(SESSION_MAX) => {}
            }
            drop(open);
        });
        Ok(port)
    }

    /// Binds the port that the client suggests if it is in the range and free, or any of the range.
    fn bind(&self, address: IpAddr, suggested: u16) -> Result<ProbeSocket, Accept> {
        let bind = |port| ProbeSocket::bind(SocketAddr::new(address, port));
        let Some((first, last)) = self.responder.config.test_ports else {
            return bind(0).map_err(|_| Accept::Internal);
        };
        if (first..=last).contains(&suggested)
            && let Ok(socket) = bind(suggested)
        {
            return Ok(socket);
        }
        (first..=last).find_map(|port| bind(port).ok()).ok_or(Accept::TemporaryLimit)
    }
}
