//! Which lanes have flows to which partners, and the next hop that each lane was told. A way is
//! followed for as long as a flow needs it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::kernel_bypass::NextHop;

/// Ways that are followed. Beyond them, lanes use their UDP sockets.
const WAYS_MAX: usize = 1_024;

/// A flow of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowSlot {
    /// A sending one.
    Send(SendSlot),
    /// A receiving one.
    Receive(ReceiveSlot),
}

#[derive(Debug)]
struct TrackedRoute {
    hop: Option<NextHop>,
    flows: u32,
}

/// The ways of all lanes.
#[derive(Debug, Default)]
pub struct TrackedRoutes {
    ways: HashMap<(u16, IpAddr), TrackedRoute>,
    flows: HashMap<(u16, FlowSlot), IpAddr>,
}

impl TrackedRoutes {
    /// A lane's flow needs the way to a partner. Returns whether that is followed: not if there are
    /// too many.
    pub fn begin(&mut self, lane: u16, flow: FlowSlot, to: IpAddr) -> bool {
        if self.ways.len() >= WAYS_MAX && !self.ways.contains_key(&(lane, to)) {
            return false;
        }
        self.flows.insert((lane, flow), to);
        self.ways.entry((lane, to)).or_insert(TrackedRoute { hop: None, flows: 0 }).flows += 1;
        true
    }

    /// A lane's flow has ended. Returns the partner to which the lane has no more flows.
    pub fn end(&mut self, lane: u16, flow: FlowSlot) -> Option<IpAddr> {
        let to = self.flows.remove(&(lane, flow))?;
        let way = self.ways.get_mut(&(lane, to))?;
        way.flows -= 1;
        if way.flows > 0 {
            return None;
        }
        self.ways.remove(&(lane, to));
        Some(to)
    }

    /// The partners to which there are flows.
    #[must_use]
    pub fn partners(&self) -> HashSet<IpAddr> {
        self.ways.keys().map(|&(_, to)| to).collect()
    }

    /// Sets the current next hop to a partner. Calls `tell` for each lane that has a different one.
    pub fn update(&mut self, to: IpAddr, hop: Option<NextHop>, mut tell: impl FnMut(u16)) {
        for (&(lane, _), way) in self.ways.iter_mut().filter(|((_, partner), way)| *partner == to && way.hop != hop) {
            way.hop = hop;
            tell(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn partner(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn sending(slot: u16) -> FlowSlot {
        FlowSlot::Send(SendSlot(slot))
    }

    fn hop(last: u8) -> Option<NextHop> {
        let mac = [2, 0, 0, 0, 0, last];
        Some(NextHop { source_mac: [2; 6], destination_mac: mac, vlan: None, source: partner(1), mtu: 1_500 })
    }

    fn told(followed: &mut TrackedRoutes, to: IpAddr, hop: Option<NextHop>) -> Vec<u16> {
        let mut lanes = Vec::new();
        followed.update(to, hop, |lane| lanes.push(lane));
        lanes.sort_unstable();
        lanes
    }

    #[test]
    fn lanes_are_told_what_is_new_to_them() {
        let mut followed = TrackedRoutes::default();
        for (lane, slot, to) in [(0, 0, 2), (1, 0, 2), (1, 1, 3)] {
            assert!(followed.begin(lane, sending(slot), partner(to)));
        }
        assert_eq!(followed.partners(), HashSet::from([partner(2), partner(3)]));
        assert_eq!(told(&mut followed, partner(2), hop(1)), [0, 1]);
        assert_eq!(told(&mut followed, partner(2), hop(1)), [0u16; 0]);
        assert_eq!(told(&mut followed, partner(3), hop(1)), [1]);
        // A lane that comes later does not know what the others do.
        assert!(followed.begin(2, sending(0), partner(2)));
        assert_eq!(told(&mut followed, partner(2), hop(1)), [2]);
        assert_eq!(told(&mut followed, partner(2), None), [0, 1, 2]);
    }

    #[test]
    fn a_way_is_followed_until_its_last_flow_ends() {
        let mut followed = TrackedRoutes::default();
        let receiving = FlowSlot::Receive(ReceiveSlot(0));
        assert!(followed.begin(0, sending(0), partner(2)) && followed.begin(0, receiving, partner(2)));
        assert_eq!(followed.end(0, sending(0)), None);
        assert_eq!(followed.end(0, sending(0)), None, "it has ended already");
        assert_eq!(followed.end(1, receiving), None, "another lane's");
        assert_eq!(followed.end(0, receiving), Some(partner(2)));
        assert!(followed.partners().is_empty());
    }

    #[test]
    fn there_are_at_most_so_many_ways() {
        let mut followed = TrackedRoutes::default();
        let to = |number: usize| IpAddr::from((0x0a00_0000 + number as u32).to_be_bytes());
        let lane = |number: usize| (number / 256) as u16;
        let begun = (0..2_000).filter(|&number| followed.begin(lane(number), sending(number as u16), to(number)));
        assert_eq!(begun.count(), WAYS_MAX);
        assert!(followed.begin(0, sending(5_000), to(0)), "a way that is followed takes more flows");
        for number in 0..2_000 {
            followed.end(lane(number), sending(number as u16));
        }
        assert_eq!(followed.end(0, sending(5_000)), Some(to(0)));
        assert!(followed.ways.is_empty() && followed.flows.is_empty());
    }
}
