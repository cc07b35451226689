//! Makes the kernel look for neighbours. It resolves and verifies a neighbour when it has a packet
//! for it, and what goes through rings it never sees. So it gets one: an empty datagram to the
//! partner's discard port with a hop limit of 1. That takes the partner's route, needs exactly the
//! neighbour that the lanes need, and goes no further than to that. It takes no privilege.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, sockopt};

/// The service that throws everything away (RFC 863).
const DISCARD_PORT: u16 = 9;
/// A partner is asked after no more often: the kernel itself repeats a question after a second.
const REPEAT: Duration = Duration::from_secs(1);
/// Questions in a row, and how long it takes until one more is free.
const BURST: u32 = 16;
const REFILL: Duration = Duration::from_millis(100);

/// Asks after neighbours, at a bounded rate.
#[derive(Debug)]
pub struct NeighborProber {
    port: u16,
    /// Free questions, and since when they have been so many.
    tokens: u32,
    since: Instant,
    last: HashMap<IpAddr, Instant>,
}

impl NeighborProber {
    /// An asker whose questions are all free.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self { port: DISCARD_PORT, tokens: BURST, since: now, last: HashMap::new() }
    }

    /// Asks after the neighbour on the way to a partner. Returns whether it did: not if it did
    /// lately, or asks too much as it is.
    pub fn ask(&mut self, partner: IpAddr, now: Instant) -> bool {
        self.last.retain(|_, asked| now.duration_since(*asked) < REPEAT);
        if self.last.contains_key(&partner) || !self.take_token(now) {
            return false;
        }
        self.last.insert(partner, now);
        // No route, no memory: the next look tries again.
        datagram(SocketAddr::new(partner, self.port)).is_ok()
    }

    fn take_token(&mut self, now: Instant) -> bool {
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

/// Sends an empty datagram that the next hop does not pass on.
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
    fn a_question_is_one_empty_datagram() {
        for address in [IpAddr::from([127, 0, 0, 1]), Ipv6Addr::LOCALHOST.into()] {
            let Ok(partner) = UdpSocket::bind((address, 0)) else {
                eprintln!("skipped: {address} is not on this host");
                continue;
            };
            partner.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let now = Instant::now();
            let mut asker = NeighborProber { port: partner.local_addr().unwrap().port(), ..NeighborProber::new(now) };
            assert!(asker.ask(address, now));
            let (bytes, from) = partner.recv_from(&mut [0; 16]).unwrap();
            assert_eq!((bytes, from.ip()), (0, address));
            assert!(!asker.ask(address, now + REPEAT / 2), "it was asked just now");
            assert!(asker.ask(address, now + REPEAT));
        }
    }

    #[test]
    fn many_partners_are_asked_after_at_a_bounded_rate() {
        let began = Instant::now();
        let mut asker = NeighborProber::new(began);
        let mut ask = |number: u32, now| asker.ask(IpAddr::from((0x7f00_0000u32 + number).to_be_bytes()), now);
        assert_eq!((1..=100).filter(|&number| ask(number, began)).count(), BURST as usize);
        assert_eq!((101..=200).filter(|&number| ask(number, began + REFILL * 3 / 2)).count(), 1);
        // The half that was left counts.
        assert_eq!((201..=300).filter(|&number| ask(number, began + REFILL * 2)).count(), 1);
        assert_eq!((301..=400).filter(|&number| ask(number, began + REFILL * 1_000)).count(), BURST as usize);
    }
}
