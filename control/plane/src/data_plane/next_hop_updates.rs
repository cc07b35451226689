//! Tells lanes on AF_XDP the next hops to their partners, for as long as they have flows there.

use std::net::IpAddr;
use std::sync::Weak;
use std::time::{Duration, Instant};

use culvert_link::kernel_bypass::NextHop;
use culvert_link::messages::ToDataPlane;

use crate::data_plane::{DataPlane, lock};
use crate::next_hop::Tables;
use crate::next_hop::neighbor_prober::NeighborProber;
use crate::next_hop::table_changes::TableChanges;
use crate::tracked_routes::FlowSlot;

/// Changes come in groups (an address, its routes, its neighbors): how long to wait for the rest.
const GATHER: Duration = Duration::from_millis(10);
/// After each lookup this task rests this many times as long as the lookup took, however many
/// changes there are.
const REST: u32 = 9;
/// Not every change is announced, and a neighbor grows stale without an announcement.
const SWEEP: Duration = Duration::from_secs(5);

/// Tells a lane the next hop towards a flow's partner, now and whenever it changes while the flow
/// lives.
pub(super) fn track(plane: &DataPlane, lane: u16, flow: FlowSlot, to: IpAddr) {
    let Some((_, interface)) = plane.kernel_bypass.af_xdp else { return };
    // The lanes' sockets report IPv4 addresses unmapped.
    let to = to.to_canonical();
    let hop = Tables::open().and_then(|tables| tables.next_hop(to, interface)).ok().flatten();
    let mut routes = lock(&plane.kernel_bypass.routes);
    if routes.begin(lane, flow, to) {
        routes.update(to, hop, |lane| tell_hop(plane, lane, to, hop));
    }
}

/// Forgets the route of a flow that has ended.
pub(super) fn untrack(plane: &DataPlane, lane: u16, flow: FlowSlot) {
    let mut routes = lock(&plane.kernel_bypass.routes);
    if let Some(to) = routes.end(lane, flow) {
        // A lane's table of next hops is bounded: an unused entry must go.
        tell_hop(plane, lane, to, None);
    }
}

/// Follows the kernel's tables for as long as the data plane lives: a gateway that changes, a
/// neighbor that is found or lost, a link that goes down.
pub(super) async fn follow_tables(plane: Weak<DataPlane>) {
    let mut prober = NeighborProber::new(Instant::now());
    let mut changes = TableChanges::subscribe().ok();
    loop {
        let change = async {
            match &changes {
                Some(changes) => changes.next().await,
                None => std::future::pending().await,
            }
        };
        let has_failed = matches!(tokio::time::timeout(SWEEP, change).await, Ok(Err(_)));
        tokio::time::sleep(GATHER).await;
        // The same lookup serves the changes that came meanwhile.
        if has_failed || changes.as_ref().is_none_or(|changes| changes.take().is_err()) {
            changes = TableChanges::subscribe().ok();
        }
        let Some(plane) = plane.upgrade().filter(|plane| plane.is_alive()) else { return };
        let began = Instant::now();
        refresh(&plane, &mut prober);
        drop(plane);
        tokio::time::sleep(began.elapsed() * REST).await;
    }
}

/// Looks up all next hops again, tells the lanes what changed, and makes the kernel resolve
/// neighbors that have been silent.
fn refresh(plane: &DataPlane, prober: &mut NeighborProber) {
    let Some((_, interface)) = plane.kernel_bypass.af_xdp else { return };
    let partners = lock(&plane.kernel_bypass.routes).partners();
    if partners.is_empty() {
        return;
    }
    let Ok(tables) = Tables::open() else { return };
    for to in partners {
        // A table that cannot be read now changes nothing.
        let Ok(route) = tables.next_hop_route(to, interface) else { continue };
        lock(&plane.kernel_bypass.routes).update(to, route.hop, |lane| tell_hop(plane, lane, to, route.hop));
        if route.needs_probe {
            prober.probe(to, Instant::now());
        }
    }
}

/// Without a hop the lane uses its UDP socket. If the process is gone, the next message shows it.
fn tell_hop(plane: &DataPlane, lane: u16, to: IpAddr, hop: Option<NextHop>) {
    let _ = plane.tell(&ToDataPlane::SetNextHop { lane, to, hop }, &[]);
}
