//! What the control process does for lanes on AF_XDP: it says how packets move, tells the lanes the next hops to their partners for as
//! long as they change, and asks what the steering program has counted.

use std::net::IpAddr;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_dataplane::datapath::af_xdp::steering::Census;
use culvert_dataplane::link::messages::ToDataPlane;
use tokio::sync::oneshot;

use super::placement::Placement;
use super::{DataPlane, lock};
use crate::next_hop::Tables;

/// Ways to partners that are followed. Beyond them, lanes use their UDP sockets.
const NEXT_HOPS_MAX: usize = 1_024;
/// How often they are looked up: what a changed gateway costs at most, beside the kernel's own time to notice.
const NEXT_HOP_INTERVAL: Duration = Duration::from_millis(250);
/// A data plane that takes longer to count hangs.
const CENSUS_PATIENCE: Duration = Duration::from_secs(2);

impl DataPlane {
    /// How packets move: `af_xdp` or `udp`.
    #[must_use]
    pub const fn datapath(&self) -> &'static str {
        if self.af_xdp.is_some() { "af_xdp" } else { "udp" }
    }

    /// The mode of AF_XDP: `zerocopy`, `copy` or `skb`.
    #[must_use]
    pub fn af_xdp_mode(&self) -> Option<&'static str> {
        self.af_xdp.map(|(mode, _)| mode.name())
    }

    /// What a better datapath lacks, in words.
    #[must_use]
    pub fn refusals(&self) -> &[String] {
        &self.refusals
    }

    /// The queues that flows should arrive on; `None` without AF_XDP.
    #[must_use]
    pub const fn placement(&self) -> Option<&Placement> {
        self.placement.as_ref()
    }

    /// A flow was asked to move to its lane's queue.
    pub fn note_move(&self) {
        self.moves.fetch_add(1, Ordering::Relaxed);
    }

    /// How often that happened.
    #[must_use]
    pub fn moves(&self) -> u64 {
        self.moves.load(Ordering::Relaxed)
    }

    /// What the steering program has counted; `None` without AF_XDP, or if the process does not answer.
    pub async fn census(&self) -> Option<Census> {
        self.af_xdp?;
        let (answer, answered) = oneshot::channel();
        lock(&self.waiters).censuses.push(answer);
        self.tell(&ToDataPlane::TakeCensus, &[]).ok()?;
        tokio::time::timeout(CENSUS_PATIENCE, self.confirmed(answered)).await.ok()?.ok()
    }

    /// Tells a lane the next hop towards a partner, now and whenever it changes.
    pub(super) fn follow(&self, lane: u16, to: IpAddr) {
        let Some((_, interface)) = self.af_xdp else { return };
        // IPv4 as the lanes' sockets say it.
        let to = to.to_canonical();
        let hop = Tables::open().and_then(|tables| tables.next_hop(to, interface)).ok().flatten();
        let mut followed = lock(&self.next_hops);
        if followed.len() >= NEXT_HOPS_MAX {
            // Those without a way now cost least: they are looked up again with their next flow.
            followed.retain(|_, hop| hop.is_some());
        }
        if followed.len() < NEXT_HOPS_MAX {
            followed.insert((lane, to), hop);
            // Without the hop the lane uses its UDP socket; if the process is gone, the next message shows it.
            let _ = self.tell(&ToDataPlane::SetNextHop { lane, to, hop }, &[]);
        }
    }

    /// Looks all next hops up again and tells the lanes what changed.
    fn refresh_next_hops(&self) {
        let Some((_, interface)) = self.af_xdp else { return };
        let Ok(tables) = Tables::open() else { return };
        for (&(lane, to), known) in lock(&self.next_hops).iter_mut() {
            // A table that cannot be read now says nothing.
            let Ok(hop) = tables.next_hop(to, interface) else { continue };
            if hop != *known {
                *known = hop;
                let _ = self.tell(&ToDataPlane::SetNextHop { lane, to, hop }, &[]);
            }
        }
    }
}

/// Follows the kernel's tables for as long as the data plane lives: a gateway that changes, a neighbour that is found or lost, a link
/// that goes down.
pub(super) async fn follow_next_hops(plane: Weak<DataPlane>) {
    loop {
        tokio::time::sleep(NEXT_HOP_INTERVAL).await;
        let Some(plane) = plane.upgrade().filter(|plane| plane.is_alive()) else { return };
        plane.refresh_next_hops();
    }
}
