//! The control process's part for lanes on AF_XDP: it configures how packets move, tells the lanes
//! the next hops to their partners as long as they have flows there, and reads what the steering
//! program has counted.

use std::net::IpAddr;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use culvert_link::kernel_bypass::{NextHop, ProgramCounters};
use culvert_link::messages::ToDataPlane;
use tokio::sync::oneshot;

use crate::dataplane::followed::FlowSlot;
use crate::dataplane::life::{DataPlane, lock};
use crate::dataplane::placement::Placement;
use crate::next_hop::Tables;
use crate::next_hop::asking::NeighborProber;
use crate::next_hop::events::Changes;

/// Changes come in groups (an address, its routes, its neighbours): so long is waited for the rest.
const GATHER: Duration = Duration::from_millis(10);
/// Looking takes at most one in so many parts of this task's time, however many changes there are.
const REST: u32 = 9;
/// Not every change is announced, and a neighbour grows old without one.
const SWEEP: Duration = Duration::from_secs(5);
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

    /// What the steering program has counted; `None` without AF_XDP, or if the process does not
    /// answer.
    pub async fn census(&self) -> Option<ProgramCounters> {
        self.af_xdp?;
        let (answer, answered) = oneshot::channel();
        lock(&self.waiters).censuses.push(answer);
        self.tell(&ToDataPlane::TakeCensus, &[]).ok()?;
        tokio::time::timeout(CENSUS_PATIENCE, self.confirmed(answered)).await.ok()?.ok()
    }

    /// Tells a lane the next hop towards a flow's partner, now and whenever it changes while the
    /// flow lives.
    pub(super) fn follow(&self, lane: u16, flow: FlowSlot, to: IpAddr) {
        let Some((_, interface)) = self.af_xdp else { return };
        // IPv4 as the lanes' sockets say it.
        let to = to.to_canonical();
        let hop = Tables::open().and_then(|tables| tables.next_hop(to, interface)).ok().flatten();
        let mut followed = lock(&self.followed);
        if followed.begin(lane, flow, to) {
            followed.update(to, hop, |lane| self.tell_hop(lane, to, hop));
        }
    }

    /// A flow has ended.
    pub(super) fn unfollow(&self, lane: u16, flow: FlowSlot) {
        let mut followed = lock(&self.followed);
        if let Some(to) = followed.end(lane, flow) {
            // The lane has room for a number of them only.
            self.tell_hop(lane, to, None);
        }
    }

    /// Without a hop the lane uses its UDP socket; if the process is gone, the next message shows
    /// it.
    fn tell_hop(&self, lane: u16, to: IpAddr, hop: Option<NextHop>) {
        let _ = self.tell(&ToDataPlane::SetNextHop { lane, to, hop }, &[]);
    }

    /// Looks up all next hops again, tells the lanes what changed, and triggers resolution of
    /// neighbors that have been silent.
    fn refresh_next_hops(&self, asker: &mut NeighborProber) {
        let Some((_, interface)) = self.af_xdp else { return };
        let partners = lock(&self.followed).partners();
        if partners.is_empty() {
            return;
        }
        let Ok(tables) = Tables::open() else { return };
        for to in partners {
            // A table that cannot be read now says nothing.
            let Ok(way) = tables.way(to, interface) else { continue };
            lock(&self.followed).update(to, way.hop, |lane| self.tell_hop(lane, to, way.hop));
            if way.wants_asking {
                asker.ask(to, Instant::now());
            }
        }
    }
}

/// Follows the kernel's tables for as long as the data plane lives: a gateway that changes, a
/// neighbour that is found or lost, a link that goes down.
pub(super) async fn follow_next_hops(plane: Weak<DataPlane>) {
    let mut asker = NeighborProber::new(Instant::now());
    let mut changes = Changes::subscribe().ok();
    loop {
        let change = async {
            match &changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        let has_failed = matches!(tokio::time::timeout(SWEEP, change).await, Ok(Err(_)));
        tokio::time::sleep(GATHER).await;
        // What came meanwhile is answered by the same look.
        if has_failed || changes.as_ref().is_none_or(|changes| changes.take().is_err()) {
            changes = Changes::subscribe().ok();
        }
        let Some(plane) = plane.upgrade().filter(|plane| plane.is_alive()) else { return };
        let began = Instant::now();
        plane.refresh_next_hops(&mut asker);
        drop(plane);
        tokio::time::sleep(began.elapsed() * REST).await;
    }
}
