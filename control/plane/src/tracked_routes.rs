//! Which lanes have flows to which partners, and the next hop that each lane was told. A route is
//! tracked for as long as a flow needs it.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use culvert_link::commands::{ReceiveSlot, SendSlot};
use culvert_link::kernel_bypass::NextHop;

/// Routes that are tracked. Flows beyond them use their lanes' UDP sockets.
const ROUTES_MAX: usize = 1_024;

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

/// The routes of all lanes, by lane and partner.
#[derive(Debug, Default)]
pub struct TrackedRoutes {
    routes: HashMap<(u16, IpAddr), TrackedRoute>,
    flows: HashMap<(u16, FlowSlot), IpAddr>,
}

impl TrackedRoutes {
    /// Tracks the route from a lane to a flow's partner. Returns false if there are too many.
    pub fn begin(&mut self, lane: u16, flow: FlowSlot, to: IpAddr) -> bool {
        if self.routes.len() >= ROUTES_MAX && !self.routes.contains_key(&(lane, to)) {
            return false;
        }
        self.flows.insert((lane, flow), to);
        self.routes.entry((lane, to)).or_insert(TrackedRoute { hop: None, flows: 0 }).flows += 1;
        // Invariant I-plane-routes: No more than 1,024 routes are tracked.
        assert!(self.routes.len() <= ROUTES_MAX, "{} routes are tracked", self.routes.len());
        true
    }

    /// A lane's flow has ended. Returns the partner to which the lane has no more flows.
    pub fn end(&mut self, lane: u16, flow: FlowSlot) -> Option<IpAddr> {
        let to = self.flows.remove(&(lane, flow))?;
        let route = self.routes.get_mut(&(lane, to))?;
        // Invariant I-plane-route-flows: A tracked route has at least one flow.
        assert!(route.flows > 0, "a route without flows is tracked");
        route.flows -= 1;
        if route.flows > 0 {
            return None;
        }
        self.routes.remove(&(lane, to));
        Some(to)
    }

    /// The partners to which there are flows.
    #[must_use]
    pub fn partners(&self) -> HashSet<IpAddr> {
        self.routes.keys().map(|&(_, to)| to).collect()
    }

    /// Sets the current next hop to a partner. Calls `tell` for each lane that has a different one.
    pub fn update(&mut self, to: IpAddr, hop: Option<NextHop>, mut tell: impl FnMut(u16)) {
        let outdated = |((_, partner), route): &(&(u16, IpAddr), &mut TrackedRoute)| *partner == to && route.hop != hop;
        for (&(lane, _), route) in self.routes.iter_mut().filter(outdated) {
            route.hop = hop;
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

    fn told(routes: &mut TrackedRoutes, to: IpAddr, hop: Option<NextHop>) -> Vec<u16> {
        let mut lanes = Vec::new();
        routes.update(to, hop, |lane| lanes.push(lane));
        lanes.sort_unstable();
        lanes
    }

    #[test]
    fn lanes_are_told_what_is_new_to_them() {
        let mut routes = TrackedRoutes::default();
        for (lane, slot, to) in [(0, 0, 2), (1, 0, 2), (1, 1, 3)] {
            assert!(routes.begin(lane, sending(slot), partner(to)));
        }
        assert_eq!(routes.partners(), HashSet::from([partner(2), partner(3)]));
        assert_eq!(told(&mut routes, partner(2), hop(1)), [0, 1]);
        assert_eq!(told(&mut routes, partner(2), hop(1)), [0u16; 0]);
        assert_eq!(told(&mut routes, partner(3), hop(1)), [1]);
        // A lane that comes later does not know what the others do.
        assert!(routes.begin(2, sending(0), partner(2)));
        assert_eq!(told(&mut routes, partner(2), hop(1)), [2]);
        assert_eq!(told(&mut routes, partner(2), None), [0, 1, 2]);
    }

    #[test]
    fn a_route_is_tracked_until_its_last_flow_ends() {
        let mut routes = TrackedRoutes::default();
        let receiving = FlowSlot::Receive(ReceiveSlot(0));
        assert!(routes.begin(0, sending(0), partner(2)) && routes.begin(0, receiving, partner(2)));
        assert_eq!(routes.end(0, sending(0)), None);
        assert_eq!(routes.end(0, sending(0)), None, "it has ended already");
        assert_eq!(routes.end(1, receiving), None, "another lane's");
        assert_eq!(routes.end(0, receiving), Some(partner(2)));
        assert!(routes.partners().is_empty());
    }

    #[test]
    fn the_number_of_routes_is_bounded() {
        let mut routes = TrackedRoutes::default();
        let to = |number: usize| IpAddr::from((0x0a00_0000 + number as u32).to_be_bytes());
        let lane = |number: usize| (number / 256) as u16;
        let begun = (0..2_000).filter(|&number| routes.begin(lane(number), sending(number as u16), to(number)));
        assert_eq!(begun.count(), ROUTES_MAX);
        assert!(routes.begin(0, sending(5_000), to(0)), "a tracked route takes more flows");
        for number in 0..2_000 {
            routes.end(lane(number), sending(number as u16));
        }
        assert_eq!(routes.end(0, sending(5_000)), Some(to(0)));
        assert!(routes.routes.is_empty() && routes.flows.is_empty());
    }
}
