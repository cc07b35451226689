//! The server of TWAMP-Control over TCP.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use aws_lc_rs::rand;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{ResponderConfig, ResponderCounters, canonical, reflect_on};
use crate::clock::now_ns;
use crate::socket::ProbeSocket;
use crate::stamp::{Authentication, Reflector, ReflectorLimits};
use crate::timestamp::{TimestampFormat, encode};
use crate::twamp::messages::{Accept, SessionRequest, accept_session, greeting, server_start, start_ack};
use crate::twamp::server::{ServerConnection, Step};

/// How long a client may take for the handshake.
const INTRODUCTION: Duration = Duration::from_secs(30);
/// How long a client may say nothing (SERVWAIT, RFC 5357 3.1).
const SERVER_WAIT: Duration = Duration::from_secs(900);
/// How long a session may last, whatever its client does.
const SESSION_MAX: Duration = Duration::from_secs(7 * 86_400);
/// How long reflectors go on after Stop-Sessions at most.
const STOP_TIMEOUT_MAX: Duration = Duration::from_secs(10);
/// Sessions of one control connection.
const SESSIONS_PER_CONNECTION: u32 = 16;
/// Control connections at once.
const CONNECTIONS_MAX: usize = 64;
/// Bytes of the longest test packet.
const PACKET_BYTES_MAX: u32 = 65_000;

/// Serves TWAMP-Control on a listener until it fails.
///
/// # Errors
/// The operating system's.
pub async fn serve_control(
    listener: TcpListener,
    config: ResponderConfig,
    counters: Arc<ResponderCounters>,
) -> io::Result<()> {
    let config = Arc::new(config);
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let sessions = Arc::new(Semaphore::new(config.sessions));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return Ok(()) };
        let (stream, client) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if !config.allow.is_empty() && !config.allow.iter().any(|network| network.contains(client.ip())) {
            continue;
        }
        let (config, counters, sessions) = (config.clone(), counters.clone(), sessions.clone());
        tokio::spawn(async move {
            let control = Control {
                stream,
                client: canonical(client),
                config,
                counters,
                sessions,
                reflectors: JoinSet::new(),
                stop: watch::channel(None).0,
            };
            // A client that is gone, or breaks the protocol, ends its sessions and nothing else.
            let _ = control.run().await;
            drop(place);
        });
    }
}

struct Control {
    stream: TcpStream,
    client: SocketAddr,
    config: Arc<ResponderConfig>,
    counters: Arc<ResponderCounters>,
    sessions: Arc<Semaphore>,
    reflectors: JoinSet<()>,
    /// Becomes the time-out when the sessions are stopped.
    stop: watch::Sender<Option<Duration>>,
}

fn random() -> [u8; 16] {
    let mut bytes = [0; 16];
    // Without randomness the values are zero, which the unauthenticated mode does not mind.
    let _ = rand::fill(&mut bytes);
    bytes
}

impl Control {
    async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        self.stream.write_all(&greeting(random(), random())).await?;
        let mut server = ServerConnection::new(self.client.ip(), SESSIONS_PER_CONNECTION, PACKET_BYTES_MAX);
        let mut patience = INTRODUCTION;
        loop {
            let Some(message) = self.next_message(&server, patience).await? else { return Ok(()) };
            patience = SERVER_WAIT;
            match server.on_message(&message) {
                Step::Welcome => {
                    let started = encode(now_ns(), TimestampFormat::Ntp);
                    self.stream.write_all(&server_start(Accept::Ok, random(), started)).await?;
                }
                Step::TurnAway(accept) => {
                    self.stream.write_all(&server_start(accept, [0; 16], [0; 8])).await?;
                    return Ok(());
                }
                Step::Open(request) => {
                    let answer = match self.open(&request) {
                        Ok(port) => accept_session(Accept::Ok, port, random()),
                        Err(accept) => accept_session(accept, 0, [0; 16]),
                    };
                    self.stream.write_all(&answer).await?;
                }
                Step::Refuse(accept) => self.stream.write_all(&accept_session(accept, 0, [0; 16])).await?,
                Step::Start => self.stream.write_all(&start_ack(Accept::Ok)).await?,
                Step::Stop => {
                    let old = std::mem::replace(&mut self.stop, watch::channel(None).0);
                    old.send_replace(Some(Duration::ZERO));
                }
                Step::Close(_) => return Ok(()),
            }
        }
    }

    /// The next whole message; none if the client says nothing for too long, or something that is no message.
    async fn next_message(&mut self, server: &ServerConnection, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        // While reflectors answer, silence is what clients do; the end of the connection ends them.
        let patience = if server.is_running() { SESSION_MAX } else { patience };
        let Ok(first) = timeout(patience, self.stream.read_u8()).await else { return Ok(None) };
        let first = first?;
        let Some(bytes) = server.message_bytes(first) else { return Ok(None) };
        let mut message = vec![0; bytes];
        message[0] = first;
        match timeout(INTRODUCTION, self.stream.read_exact(&mut message[1..])).await {
            Ok(read) => read.map(|_| Some(message)),
            Err(_) => Ok(None),
        }
    }

    /// Opens a reflector; returns its port.
    fn open(&mut self, request: &SessionRequest) -> Result<u16, Accept> {
        let Ok(place) = self.sessions.clone().try_acquire_owned() else { return Err(Accept::TemporaryLimit) };
        let local = self.stream.local_addr().map_err(|_| Accept::Internal)?;
        let socket = self.bind(local.ip().to_canonical(), request.receiver_port)?;
        let port = socket.local_address().map_err(|_| Accept::Internal)?.port();
        let _ = socket.set_traffic_class(request.dscp << 2);
        let limits = ReflectorLimits {
            allow: Vec::new(),
            sessions: 1,
            packets_per_second: self.config.packets_per_second,
            // The client's address is proved by its control connection.
            answers_short_requests: true,
            is_twamp: true,
        };
        let reflector = Reflector::new(Authentication::Open, None, limits);
        let partner = SocketAddr::new(self.client.ip(), request.sender_port);
        let counters = self.counters.clone();
        let mut stop = self.stop.subscribe();
        let stop_timeout = request.timeout().min(STOP_TIMEOUT_MAX);
        self.reflectors.spawn(async move {
            counters.sessions.fetch_add(1, Ordering::Relaxed);
            let stopped = async {
                // Packets that are under way when the client stops are still answered.
                if stop.wait_for(Option::is_some).await.is_ok() {
                    tokio::time::sleep(stop_timeout).await;
                }
            };
            tokio::select! {
                _ = reflect_on(socket, reflector, &counters, Some(partner)) => {}
                () = stopped => {}
                () = tokio::time::sleep(SESSION_MAX) => {}
            }
            counters.sessions.fetch_sub(1, Ordering::Relaxed);
            drop(place);
        });
        Ok(port)
    }

    /// Binds the port that the client suggests if it is in the range, or any of the range.
    fn bind(&self, address: IpAddr, suggested: u16) -> Result<ProbeSocket, Accept> {
        let bind = |port| ProbeSocket::bind(SocketAddr::new(address, port));
        let Some((first, last)) = self.config.test_ports else { return bind(0).map_err(|_| Accept::Internal) };
        if (first..=last).contains(&suggested)
            && let Ok(socket) = bind(suggested)
        {
            return Ok(socket);
        }
        (first..=last).find_map(|port| bind(port).ok()).ok_or(Accept::TemporaryLimit)
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let running = self.reflectors.len() as u64;
        self.reflectors.abort_all();
        // Those that were aborted do not count themselves out.
        let _ = self
            .counters
            .sessions
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |open| Some(open.saturating_sub(running)));
    }
}
