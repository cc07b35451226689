//! Next hops for a datapath that needs them; without a measurement the control process supplies
//! them.

use std::fmt;
use std::net::IpAddr;

use culvert_link::clock::monotonic_ns;
use culvert_link::kernel_bypass::NextHop;

use crate::datapath::Datapath;

/// How often to look for a next hop that is not known yet.
const LOOK_NS: u64 = 10_000_000;

/// Finds the next hop towards an address, if it is known by now.
pub type FindHop = Box<dyn FnMut(IpAddr) -> Option<NextHop> + Send>;

/// Next hops for a datapath that needs them.
pub(super) struct Hops {
    pub(super) find: Option<FindHop>,
    pub(super) next_ns: u64,
}

impl fmt::Debug for Hops {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hops").field("wanted", &self.find.is_some()).finish_non_exhaustive()
    }
}

impl Hops {
    /// Gives the datapath the next hop to the partner, once it is known. Until then its datagrams
    /// go through the kernel, which finds it.
    pub(super) fn look(&mut self, datapath: &mut impl Datapath, to: IpAddr) {
        let Some(find) = &mut self.find else { return };
        let now_ns = monotonic_ns();
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + LOOK_NS;
        if let Some(hop) = find(to) {
            datapath.set_next_hop(to, Some(&hop));
            self.find = None;
        }
    }
}
