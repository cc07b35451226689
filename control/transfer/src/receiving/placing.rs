//! Flows to their lanes' queues: source ports asked for before a flow begins, and again when it
//! arrives elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use culvert_link::commands::Command;
use culvert_plane::placement::Placement;
use culvert_protocol::control::{MOVES_SINCE, Message};

use crate::TransferContext;
use crate::addresses::canonical;
use crate::error::TransferError;
use crate::receiving::inbound::Inbound;
use crate::receiving::random::random_u32;

/// A flow is asked to move so often at most. Guesses are right once in as many times as there are
/// lanes; a flow that arrives by another interface will never be.
const MOVES_MAX: u32 = 32;
/// Packets in flight come from the old port for a round trip, and the lane looks every tenth of a
/// second: judged earlier, a flow would be judged by its past.
const SETTLING: Duration = Duration::from_millis(250);

impl Inbound {
    /// Asks for source ports by which the flows will arrive on their lanes' queues, where the NIC's
    /// hash can be computed.
    pub(super) async fn place_flows(&mut self, context: &TransferContext) -> Result<(), TransferError> {
        let Some(hash) = movable(context).and_then(Placement::hash) else { return Ok(()) };
        for tag in 0..self.flows.len() {
            let Some(placement) = movable(context) else { break };
            let flow = &self.flows[tag];
            let destination = SocketAddr::new(canonical(context.connection.local_address.ip()), flow.place.port);
            let port = placement.better_port(&hash, flow.place.source, destination, flow.lane, flow.place.nth);
            if let Some(port) = port {
                self.move_flow(context, tag, port).await?;
            }
        }
        Ok(())
    }

    /// Most of a flow arrived through the kernel lately: it is moved if other lanes' queues are the
    /// reason.
    pub(super) async fn astray(&mut self, context: &TransferContext, tag: usize) -> Result<(), TransferError> {
        let place = self.flows[tag].place;
        let settling = SETTLING + 2 * self.rtt;
        if movable(context).is_none()
            || place.moves >= MOVES_MAX
            || place.moved_at.is_some_and(|at| at.elapsed() < settling)
        {
            return Ok(());
        }
        // An interface that is down, or a way that does not lead over it, is no reason.
        let Some(census) = context.plane.census().await else { return Ok(()) };
        let wrong_queue = census.queues.iter().fold(0u64, |sum, queue| sum.saturating_add(queue.wrong_queue));
        if std::mem::replace(&mut self.wrong_queue_seen, wrong_queue) == wrong_queue {
            return Ok(());
        }
        self.move_flow(context, tag, Placement::guessed_port(random_u32())).await
    }

    async fn move_flow(
        &mut self,
        context: &TransferContext,
        tag: usize,
        source_port: u16,
    ) -> Result<(), TransferError> {
        let flow = &mut self.flows[tag];
        flow.place.moves += 1;
        flow.place.moved_at = Some(Instant::now());
        let flow_id = flow.id;
        context.plane.command(flow.lane, &Command::ExpectFrom { flow: flow.slot, port: source_port });
        context.plane.note_move();
        context.connection.writer.send(Message::MoveFlow { flow_id, source_port }).await?;
        Ok(())
    }
}

/// The queues, if there are several to choose from and the sender knows how to move.
fn movable(context: &TransferContext) -> Option<&Placement> {
    let knows = context.connection.version >= MOVES_SINCE;
    context.plane.placement().filter(|placement| knows && placement.is_choice())
}
