//! Answers measurements of other hosts: STAMP and TWAMP-Light on a UDP port, TWAMP-Control on a TCP
//! port. All limits hold for the node as a whole.

mod control;
mod slots;

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use tokio::time::{Instant, timeout_at};

use crate::clock::{ClockQuality, now_ns};
use crate::socket::ProbeSocket;
use crate::sources::Permitted;
use crate::stamp::Authentication;
use crate::stamp::limits::{PACKETS_PER_SECOND, Rates, ReflectorLimits, ReflectorPorts, Refused, SharedRates};
use crate::stamp::reflector::{REQUEST_BYTES_MAX, Reflector};

use slots::{Full, Slot, SlotPool};

/// The most control connections at once.
const CONNECTIONS_MAX: usize = 64;
/// The most control connections of one host: twice what perfSONAR's tests from one host to another
/// have at once.
const CONNECTIONS_OF_HOST: usize = 16;
/// One host has at most one in this many of the sessions.
const SESSIONS_PART: usize = 4;

/// The configuration of a responder.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// The hosts that may measure.
    pub permitted: Permitted,
    /// The most sessions at once, of all clients.
    pub sessions: usize,
    /// The most packets answered to one host in a second.
    pub packets_per_second: u32,
    /// UDP ports of TWAMP-Test; none for any.
    pub test_ports: Option<(u16, u16)>,
    /// Other UDP ports on which this node, and probably its partners' nodes, answer: no request may
    /// come from them.
    pub reflector_ports: Vec<u16>,
    /// The key of authenticated STAMP; none for unauthenticated STAMP and TWAMP-Light.
    pub stamp_key: Option<Vec<u8>>,
}

impl Default for ResponderConfig {
    fn default() -> Self {
        // perfSONAR's own range of test ports.
        Self {
            permitted: Permitted::default(),
            sessions: 100,
            packets_per_second: PACKETS_PER_SECOND,
            test_ports: Some((18_760, 19_960)),
            reflector_ports: Vec::new(),
            stamp_key: None,
        }
    }
}

/// Why a client of TWAMP-Control was turned away, or left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum TurnedAway {
    /// The host may not measure.
    #[error("source_not_allowed")]
    Source,
    /// The host is at its limit of connections.
    #[error("connections_of_host")]
    ConnectionsOfHost,
    /// All connections are taken.
    #[error("connections")]
    Connections,
    /// The host is at its limit of sessions.
    #[error("sessions_of_host")]
    SessionsOfHost,
    /// All sessions are taken.
    #[error("sessions")]
    Sessions,
    /// The client sent nothing, or read nothing, for too long.
    #[error("silent")]
    Silent,
}

/// The counters of a responder.
#[derive(Debug, Default)]
pub struct ResponderCounters {
    /// Packets answered.
    pub reflected: AtomicU64,
    /// TWAMP sessions open.
    pub sessions: AtomicU64,
    refused: Mutex<BTreeMap<Refused, u64>>,
    turned_away: Mutex<BTreeMap<TurnedAway, u64>>,
}

impl ResponderCounters {
    fn note_refused(&self, refused: Refused) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(refused).or_insert(0) += 1;
    }

    fn note_turned_away(&self, why: TurnedAway) {
        *self.turned_away.lock().unwrap_or_else(PoisonError::into_inner).entry(why).or_insert(0) += 1;
    }

    /// Packets not answered, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<Refused, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Clients of TWAMP-Control that were turned away or left, by reason.
    #[must_use]
    pub fn turned_away(&self) -> BTreeMap<TurnedAway, u64> {
        self.turned_away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A node's responder. Its limits hold for all ports together.
#[derive(Debug)]
pub struct Responder {
    config: ResponderConfig,
    counters: Arc<ResponderCounters>,
    rates: Arc<SharedRates>,
    connections: Arc<SlotPool>,
    sessions: Arc<SlotPool>,
}

impl Responder {
    /// A responder that serves no port yet.
    #[must_use]
    pub fn new(config: ResponderConfig, counters: Arc<ResponderCounters>) -> Arc<Self> {
        Arc::new(Self {
            rates: Rates::shared(config.packets_per_second),
            connections: SlotPool::new(CONNECTIONS_MAX, CONNECTIONS_OF_HOST),
            sessions: SlotPool::new(config.sessions, config.sessions / SESSIONS_PART),
            config,
            counters,
        })
    }

    /// Answers STAMP and TWAMP-Light on a bound socket until the socket fails.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn serve_stamp(self: Arc<Self>, socket: ProbeSocket) -> io::Result<()> {
        let key = self.config.stamp_key.as_deref();
        let authentication = key.map_or(Authentication::Open, Authentication::with_secret);
        let tlv_key = key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key));
        let mut ports = self.config.reflector_ports.clone();
        ports.push(socket.local_address()?.port());
        let limits = ReflectorLimits {
            permitted: self.config.permitted.clone(),
            ports: ReflectorPorts::new(ports, self.config.test_ports),
            sessions: self.config.sessions,
            packets_per_second: self.config.packets_per_second,
            answers_short_requests: false,
            is_twamp: false,
        };
        let reflector = Reflector::new(authentication, tlv_key, limits, self.rates.clone());
        reflect_on(socket, reflector, &self.counters, None).await
    }

    /// A slot for a control connection.
    fn connection_slot(&self, client: IpAddr) -> Result<Slot, TurnedAway> {
        if !self.config.permitted.contains(client) {
            return Err(TurnedAway::Source);
        }
        self.connections.take(client).map_err(|full| match full {
            Full::OfHost => TurnedAway::ConnectionsOfHost,
            Full::All => TurnedAway::Connections,
        })
    }

    /// A slot for a session.
    fn session_slot(&self, client: IpAddr) -> Result<Slot, TurnedAway> {
        self.sessions.take(client).map_err(|full| match full {
            Full::OfHost => TurnedAway::SessionsOfHost,
            Full::All => TurnedAway::Sessions,
        })
    }

    /// The reflector of a TWAMP session. Clients may send from the range of test ports, because
    /// they use the same range; reflections are recognized by their content.
    fn session_reflector(&self) -> Reflector {
        let networks = ["0.0.0.0/0", "::/0"].into_iter().filter_map(|network| network.parse().ok());
        let limits = ReflectorLimits {
            // `reflect_on` ignores packets of all but the session's client.
            permitted: Permitted::networks(networks.collect()),
            ports: self.session_ports(),
            sessions: 1,
            packets_per_second: self.config.packets_per_second,
            // The client's address is proved by its control connection.
            answers_short_requests: true,
            is_twamp: true,
        };
        Reflector::new(Authentication::Open, None, limits, self.rates.clone())
    }

    fn session_ports(&self) -> ReflectorPorts {
        ReflectorPorts::new(self.config.reflector_ports.clone(), None)
    }
}

/// The client of a TWAMP session, the only one that the session's reflector answers.
#[derive(Clone, Copy, Debug)]
struct Client {
    address: SocketAddr,
    /// How long it may be silent.
    silence_max: Duration,
}

/// Reflects packets that arrive at a socket. If `client` is given, answers only that client, and
/// returns when it is silent.
async fn reflect_on(
    socket: ProbeSocket,
    mut reflector: Reflector,
    counters: &ResponderCounters,
    client: Option<Client>,
) -> io::Result<()> {
    let local = socket.local_address()?;
    let socket = socket.with_runtime()?;
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut packet = Vec::new();
    let (mut quality, mut quality_at) = (ClockQuality::here(), now_ns());
    let mut class = 0;
    let mut heard = Instant::now();
    loop {
        let received = match client {
            None => socket.receive(&mut buffer).await,
            Some(client) => match timeout_at(heard + client.silence_max, socket.receive(&mut buffer)).await {
                Ok(received) => received,
                Err(_) => return Ok(()),
            },
        };
        // An error is an ICMP report about an earlier answer; the socket keeps working.
        let Ok(received) = received else { continue };
        if client.is_some_and(|client| client.address != canonical(received.from)) {
            counters.note_refused(Refused::Source);
            continue;
        }
        heard = Instant::now();
        if received.at_ns.saturating_sub(quality_at).saturating_abs() > 1_000_000_000 {
            (quality, quality_at) = (ClockQuality::here(), received.at_ns);
        }
        packet.clear();
        packet.extend_from_slice(buffer.get(..received.bytes).unwrap_or_default());
        match reflector.reflect(&mut packet, &received, local, quality, now_ns()) {
            Ok(wanted) => {
                let socket = socket.get();
                if wanted != class && socket.set_traffic_class(wanted).is_ok() {
                    class = wanted;
                }
                // If the kernel has no room, the answer is lost, as it may be on the path.
                let _ = socket.send_to(&packet, received.from);
                counters.reflected.fetch_add(1, Ordering::Relaxed);
            }
            Err(refused) => counters.note_refused(refused),
        }
    }
}

fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
