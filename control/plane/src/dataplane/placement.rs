//! Which of the NIC's queues a flow arrives on, and the source port that brings it to its lane's.
//!
//! A lane on AF_XDP sees only its own queues; what arrives on another lane's takes the slow way
//! through the kernel. The NIC chooses the queue by a hash over addresses and ports. Everything in
//! it is given but the port that the sender sends from, so the receiver asks for one
//! (`docs/wire.md` W-48): computed where the NIC tells its hash, guessed where it does not or where
//! the computation turned out wrong, because of a translated address for instance.

use std::net::SocketAddr;

use culvert_host::receive_hash::ReceiveHash;

/// Ports that a receiver may request: the dynamic range (RFC 6335, 6).
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// The queues of an interface and their lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    interface: String,
    queues: u32,
    lanes: u32,
    /// Whether rules in the NIC decide, and not its hash.
    is_ruled: bool,
}

impl Placement {
    /// Of an interface with so many queues, lane after lane having one, and again from the first.
    #[must_use]
    pub const fn new(interface: String, queues: u32, lanes: u32) -> Self {
        Self { interface, queues, lanes, is_ruled: false }
    }

    /// The same where rules in the NIC lead each lane's port to its queue, or do not.
    #[must_use]
    pub fn with_rules(self, is_ruled: bool) -> Self {
        Self { is_ruled, ..self }
    }

    /// Whether it can matter from which port a flow is sent.
    #[must_use]
    pub const fn is_choice(&self) -> bool {
        self.lanes > 1
    }

    /// What the NIC hashes at present, if that decides; it may be reconfigured at any time.
    #[must_use]
    pub fn hash(&self) -> Option<ReceiveHash> {
        ReceiveHash::read(&self.interface).ok().filter(|_| !self.is_ruled)
    }

    /// The port that a flow should be sent from instead of `source`'s, so that it arrives on its
    /// lane's `nth` queue; `None` if it does, or if no port would change that.
    #[must_use]
    pub fn better_port(
        &self,
        hash: &ReceiveHash,
        source: SocketAddr,
        destination: SocketAddr,
        lane: u16,
        nth: u32,
    ) -> Option<u16> {
        let wanted = self.queue_of_lane(lane, nth);
        let arrives_on = |port: u16| hash.queue_of(SocketAddr::new(source.ip(), port), destination);
        if !hash.counts_ports(source.ip()) || arrives_on(source.port())? == wanted {
            return None;
        }
        // Begin at another place for each flow, so that two of them do not want the same port.
        let begin = destination.port() ^ source.port().rotate_left(8) ^ (nth as u16).wrapping_mul(251);
        ports_from(begin).find(|&port| arrives_on(port) == Some(wanted))
    }

    /// A port to try where nothing can be computed.
    #[must_use]
    pub fn guessed_port(random: u32) -> u16 {
        ports_from(random as u16).next().unwrap_or(*SOURCE_PORTS.start())
    }

    /// The lane's queues are every so-manieth; the flows of a lane take them in turn.
    const fn queue_of_lane(&self, lane: u16, nth: u32) -> u32 {
        let of_lane = (self.queues.saturating_sub(lane as u32)).div_ceil(self.lanes);
        lane as u32 + self.lanes * if of_lane == 0 { 0 } else { nth % of_lane }
    }
}

/// All of [`SOURCE_PORTS`], from one of them on.
fn ports_from(begin: u16) -> impl Iterator<Item = u16> {
    let count = SOURCE_PORTS.len() as u16;
    (0..count).map(move |step| SOURCE_PORTS.start() + (begin % count + step) % count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(queues: u32) -> ReceiveHash {
        // The default key of many drivers, repeated bytes as the kernel's netdev_rss_key_fill would
        // not give, but a key.
        let key = (0..40u8).map(|at| at.wrapping_mul(37) ^ 0x5a).collect();
        ReceiveHash::new(key, (0..128).map(|entry| entry % queues).collect())
    }

    #[test]
    fn every_flow_finds_a_port_for_its_lanes_queue() {
        for (queues, lanes) in [(2, 2), (8, 8), (8, 2), (5, 3), (64, 64)] {
            let (placement, hash) = (Placement::new("nic0".into(), queues, lanes), hash(queues));
            for (at, lane) in (0..256u32).map(|at| (at, (at % lanes) as u16)) {
                let nth = at / lanes;
                let source = SocketAddr::from(([10, 0, 0, 1], 7_273 + at as u16));
                let destination = SocketAddr::from(([10, 0, 0, 2], 7_273 + lane));
                let port = placement.better_port(&hash, source, destination, lane, nth);
                assert!(port.is_none_or(|port| SOURCE_PORTS.contains(&port)));
                let source = SocketAddr::new(source.ip(), port.unwrap_or(source.port()));
                let queue = hash.queue_of(source, destination).unwrap();
                assert_eq!(queue % lanes, u32::from(lane), "{queues} queues, {lanes} lanes, flow {at}");
                assert!(queue < queues);
            }
        }
    }

    #[test]
    fn a_flow_that_arrives_where_it_should_stays() {
        let (placement, hash) = (Placement::new("nic0".into(), 1, 1), hash(1));
        let at = |port| SocketAddr::from(([10, 0, 0, 1], port));
        assert_eq!(placement.better_port(&hash, at(1), at(2), 0, 0), None);
        assert!(!placement.is_choice());
    }

    #[test]
    fn guesses_are_ports_that_may_be_asked_for() {
        for random in [0, 1, 16_383, 16_384, 65_535, u32::MAX] {
            assert!(SOURCE_PORTS.contains(&Placement::guessed_port(random)));
        }
        let all: std::collections::HashSet<u16> = ports_from(60_000).collect();
        assert_eq!(all.len(), SOURCE_PORTS.len());
    }
}
