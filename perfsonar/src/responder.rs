//! Answers measurements: STAMP and TWAMP-Light on a UDP port, TWAMP-Control on a TCP port. Off unless configured, and bounded.

mod control;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::hmac;

use crate::clock::{ClockQuality, now_ns};
use crate::socket::ProbeSocket;
use crate::sources::Network;
use crate::stamp::reflector::{REQUEST_BYTES_MAX, Refused};
use crate::stamp::{Authentication, Reflector, ReflectorLimits};

pub use control::serve_control;

/// What a responder bears.
#[derive(Clone, Debug)]
pub struct ResponderConfig {
    /// Who may measure; empty for everybody.
    pub allow: Vec<Network>,
    /// Sessions at once, of all clients.
    pub sessions: usize,
    /// Packets of one source in a second.
    pub packets_per_second: u32,
    /// UDP ports of TWAMP-Test; none for any.
    pub test_ports: Option<(u16, u16)>,
    /// The key of authenticated STAMP; none for unauthenticated STAMP and TWAMP-Light.
    pub stamp_key: Option<Vec<u8>>,
}

impl Default for ResponderConfig {
    fn default() -> Self {
        // perfSONAR's own range of test ports.
        Self {
            allow: Vec::new(),
            sessions: 100,
            packets_per_second: 10_000,
            test_ports: Some((18_760, 19_960)),
            stamp_key: None,
        }
    }
}

impl ResponderConfig {
    fn limits(&self) -> ReflectorLimits {
        ReflectorLimits {
            allow: self.allow.clone(),
            sessions: self.sessions,
            packets_per_second: self.packets_per_second,
            answers_short_requests: false,
            is_twamp: false,
        }
    }
}

/// What responders counted.
#[derive(Debug, Default)]
pub struct ResponderCounters {
    /// Packets answered.
    pub reflected: AtomicU64,
    /// TWAMP sessions open.
    pub sessions: AtomicU64,
    refused: Mutex<BTreeMap<Refused, u64>>,
}

impl ResponderCounters {
    fn note_refused(&self, refused: Refused) {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner).entry(refused).or_insert(0) += 1;
    }

    /// Packets not answered, by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<Refused, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Answers STAMP and TWAMP-Light on a bound socket until the socket fails.
///
/// # Errors
/// The operating system's.
pub async fn serve_stamp(
    socket: ProbeSocket,
    config: &ResponderConfig,
    counters: Arc<ResponderCounters>,
) -> io::Result<()> {
    let key = config.stamp_key.as_deref();
    let authentication = key.map_or(Authentication::Open, Authentication::with_secret);
    let tlv_key = key.map(|key| hmac::Key::new(hmac::HMAC_SHA256, key));
    reflect_on(socket, Reflector::new(authentication, tlv_key, config.limits()), &counters, None).await
}

/// Reflects what comes to a socket, only from `partner` if one is named.
async fn reflect_on(
    socket: ProbeSocket,
    mut reflector: Reflector,
    counters: &ResponderCounters,
    partner: Option<SocketAddr>,
) -> io::Result<()> {
    let local = socket.local_address()?;
    let socket = socket.with_runtime()?;
    let mut buffer = vec![0; REQUEST_BYTES_MAX];
    let mut packet = Vec::new();
    let (mut quality, mut quality_at) = (ClockQuality::here(), now_ns());
    let mut class = 0;
    loop {
        // An error is ICMP's about an earlier answer; the socket goes on.
        let Ok(received) = socket.receive(&mut buffer).await else { continue };
        if partner.is_some_and(|partner| partner != canonical(received.from)) {
            counters.note_refused(Refused::Source);
            continue;
        }
        if received.at_ns - quality_at > 1_000_000_000 {
            (quality, quality_at) = (ClockQuality::here(), received.at_ns);
        }
        packet.clear();
        packet.extend_from_slice(&buffer[..received.bytes]);
        match reflector.reflect(&mut packet, &received, local, quality, now_ns()) {
            Ok(wanted) => {
                let socket = socket.get();
                if wanted != class && socket.set_traffic_class(wanted).is_ok() {
                    class = wanted;
                }
                // An answer that the kernel has no room for is lost like any other.
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
