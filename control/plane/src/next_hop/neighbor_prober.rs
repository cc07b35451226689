//! Makes the kernel resolve neighbors.
//!
//! The kernel resolves and verifies a neighbor when it sends a packet to it, but it never sees the
//! packets that lanes send through rings. The prober therefore sends an empty datagram to the
//! partner's discard port with a hop limit of 1. It takes the partner's route, needs the same
//! neighbor that the lanes need, and goes no further. It needs no privileges.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

/// The discard service (RFC 863).
const DISCARD_PORT: u16 = 9;
/// The shortest time between two probes to a partner: the kernel itself repeats a solicitation
/// after a second.
const REPEAT: Duration = Duration::from_secs(1);
/// The token bucket's size in probes, and the time in which it earns one.
const BURST: u32 = 16;
const REFILL: Duration = Duration::from_millis(100);

/// Sends probes that make the kernel resolve neighbors, at a bounded rate.
#[derive(Debug)]
pub struct NeighborProber {
    port: u16,
    /// Tokens in the bucket, and the time up to which they were earned.
    tokens: u32,
    since: Instant,
    last: HashMap<IpAddr, Instant>,
}

impl NeighborProber {
    /// A prober with a full bucket.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { port: DISCARD_PORT, tokens: BURST, since: now, last: HashMap::new() }
    }

    /// Probes the next hop towards a partner. Returns false if it was probed just now, if the rate
    /// is exhausted, or if the datagram could not be sent.
    pub fn probe(&mut self, partner: IpAddr, now: Instant) -> bool {
        self.last.retain(|_, probed| now.duration_since(*probed) < REPEAT);
        if self.last.contains_key(&partner) || !self.take_token(now) {
            return false;
        }
        self.last.insert(partner, now);
        // An error (no route, no memory) needs no handling: the next refresh tries again.
        datagram(SocketAddr::new(partner, self.port)).is_ok()
    }

    fn take_token(&mut self, now: Instant) -> bool {
        // Invariant I-plane-probe-burst: The neighbor prober never has more than 16 tokens.
        assert!(self.tokens <= BURST, "{} tokens", self.tokens);
        let earned = now.duration_since(self.since).as_millis().checked_div(REFILL.as_millis()).unwrap_or(0);
        let earned = u32::try_from(earned).unwrap_or(BURST);
        self.tokens = self.tokens.saturating_add(earned).min(BURST);
        self.since = match self.since.checked_add(REFILL.saturating_mul(earned)) {
            Some(since) if self.tokens < BURST => since,
            _ => now,
        };
        self.tokens = match self.tokens.checked_sub(1) {
            Some(left) => left,
            None => return false,
        };
        true
    }
}

/// Sends an empty datagram that the next hop does not forward.
fn datagram(to: SocketAddr) -> io::Result<()> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket: OwnedFd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
    if to.is_ipv4() {
        sockopt::set_ip_ttl(&socket, 1)?;
    } else {
        sockopt::set_ipv6_unicast_hops(&socket, Some(1))?;
    }
    rustix::net::sendto(&socket, &[], SendFlags::empty(), &to)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv6Addr, UdpSocket};

    use super::*;

    #[test]
    fn a_probe_is_one_empty_datagram() {
        for address in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            let Ok(partner) = UdpSocket::bind((address, 0)) else {
                eprintln!("skipped: {address} is not on this host");
                continue;
            };
            partner.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let now = Instant::now();
            let mut prober = NeighborProber { port: partner.local_addr().unwrap().port(), ..NeighborProber::new(now) };
            assert!(prober.probe(address, now));
            let (bytes, from) = partner.recv_from(&mut [0; 16]).unwrap();
            assert_eq!((bytes, from.ip()), (0, address));
            assert!(!prober.probe(address, now + REPEAT / 2), "it was probed just now");
            assert!(prober.probe(address, now + REPEAT));
        }
    }

    #[test]
    fn many_partners_are_probed_at_a_bounded_rate() {
        let began = Instant::now();
        let mut prober = NeighborProber::new(began);
        let mut probe = |number: u32, now| prober.probe(IpAddr::from((0x7f00_0000u32 + number).to_be_bytes()), now);
        assert_eq!((1..=100).filter(|&number| probe(number, began)).count(), BURST as usize);
        assert_eq!((101..=200).filter(|&number| probe(number, began + REFILL * 3 / 2)).count(), 1);
        // The half of a token that was left counts.
        assert_eq!((201..=300).filter(|&number| probe(number, began + REFILL * 2)).count(), 1);
        assert_eq!((301..=400).filter(|&number| probe(number, began + REFILL * 1_000)).count(), BURST as usize);
    }
}
