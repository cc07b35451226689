//! Finds the source port from which a flow arrives on a receive queue of its own lane.
//!
//! A lane on AF_XDP sees only its own queues; packets that arrive on another lane's queue take the
//! slow path through the kernel. The NIC chooses the queue by a hash over addresses and ports. Of
//! these only the sender's port can be changed, so the receiver asks for another one (W-48): a
//! computed one if the NIC reveals its hash, a guess if it does not or if the computation turned
//! out wrong, for instance because of a translated address.

use std::net::SocketAddr;

use culvert_host::receive_hash::ReceiveHash;

/// Ports that a receiver may request: the dynamic range (RFC 6335, 6).
//= W-48
//# Since version 4, the receiver may send `MoveFlow` to request that a flow be sent from another
//# UDP port of the sender, 49152 or above.
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=u16::MAX;

/// The queues of an interface and their lanes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    interface: String,
    queues: u32,
    lanes: u32,
    /// Whether rules in the NIC choose the queue, and not its hash.
    has_rules: bool,
}

impl Placement {
    /// The placement on an interface whose queues are dealt to the lanes in turn.
    #[must_use]
    pub const fn new(interface: String, queues: u32, lanes: u32) -> Self {
        Self { interface, queues, lanes, has_rules: false }
    }

    /// The same, but says whether rules in the NIC steer each lane's port to its queue.
    #[must_use]
    pub fn with_rules(self, has_rules: bool) -> Self {
        Self { has_rules, ..self }
    }

    /// Whether the port that a flow is sent from can matter.
    #[must_use]
    pub const fn is_choice(&self) -> bool {
        self.lanes > 1
    }

    /// The NIC's present hash, if the hash chooses the queue. It may be reconfigured at any time.
    #[must_use]
    pub fn hash(&self) -> Option<ReceiveHash> {
        ReceiveHash::read(&self.interface).ok().filter(|_| !self.has_rules)
    }

    /// The port that a flow should be sent from instead of `source`'s, so that it arrives on its
    /// lane's `nth` queue; `None` if it already does, or if no port would change that.
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
        // Each flow begins its search at a different port, so that two do not want the same one.
        let begin = destination.port() ^ source.port().rotate_left(8) ^ (nth as u16).wrapping_mul(251);
        ports_from(begin).find(|&port| arrives_on(port) == Some(wanted))
    }

    /// A port to try if none can be computed.
    #[must_use]
    pub fn guessed_port(random: u32) -> u16 {
        ports_from(random as u16).next().unwrap_or(*SOURCE_PORTS.start())
    }

    /// Every `lanes`-th queue is the lane's; the flows of a lane take them in turn.
    const fn queue_of_lane(&self, lane: u16, nth: u32) -> u32 {
        let of_lane = (self.queues.saturating_sub(lane as u32)).div_ceil(self.lanes);
        lane as u32 + self.lanes * if of_lane == 0 { 0 } else { nth % of_lane }
    }
}

/// All of [`SOURCE_PORTS`] once, beginning with one that `begin` selects.
fn ports_from(begin: u16) -> impl Iterator<Item = u16> {
    let count = SOURCE_PORTS.len() as u16;
    (0..count).map(move |step| {
        let port = SOURCE_PORTS.start() + (begin % count + step) % count;
        // Invariant I-plane-source-port: A receiver asks for no source port below 49152.
        assert!(SOURCE_PORTS.contains(&port), "port {port} may not be asked for");
        port
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(queues: u32) -> ReceiveHash {
        // Any key will do.
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
        //= W-48
        //# Since version 4, the receiver may send `MoveFlow` to request that a flow be sent from
        //# another UDP port of the sender, 49152 or above.
        for random in [0, 1, 16_383, 16_384, 65_535, u32::MAX] {
            assert!(SOURCE_PORTS.contains(&Placement::guessed_port(random)));
        }
        let all: std::collections::HashSet<u16> = ports_from(60_000).collect();
        assert_eq!(all.len(), SOURCE_PORTS.len());
    }
}
