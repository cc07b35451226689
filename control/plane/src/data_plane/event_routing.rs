//! Hands the lanes' events to the transfers whose flows they concern.

use std::sync::Weak;

use culvert_link::commands::{Event, ReceiveSlot, SendSlot};
use culvert_link::handles::LentBuffer;
use culvert_link::plane_handle::Events;
use tokio::net::UnixStream;

use crate::data_plane::{DataPlane, lock};
use crate::events::{ReceiveEvent, SendEvent};
use crate::slots::SlotOwner;

/// The reason for ending a data plane that reports about a slot without a flow.
const NO_SUCH_FLOW: &str = "an event of a flow that it does not have";

/// Hands the lanes' events to the transfers, for as long as anybody uses this run of the process.
pub(super) async fn route_events(mut events: Events, bell: UnixStream, plane: Weak<DataPlane>) {
    /// Events handed out before other tasks get their turn.
    const BATCH: usize = 256;
    loop {
        let Some(alive) = plane.upgrade() else { return };
        let drained = events.drain(BATCH, |lane, event, lent| route(&alive, lane, &event, lent));
        alive.commands.flush();
        match drained {
            Ok(0) if events.prepare_to_sleep() => {
                // While it sleeps, this task must not keep the process alive.
                drop(alive);
                // The bell's other end is gone with the process.
                if bell.readable().await.is_err() || matches!(bell.try_read(&mut [0; 64]), Ok(0)) {
                    return;
                }
                events.awake();
            }
            Ok(_) => tokio::task::yield_now().await,
            // A lane that wrote one invalid event cannot be believed any more.
            Err(_) => {
                // The transfers learn it from `DataPlane::lost`.
                let _ = alive.nonsense("a lane's ring contains an invalid event");
                return;
            }
        }
    }
}

fn route(plane: &DataPlane, lane: usize, event: &Event<'_>, lent: Option<LentBuffer>) {
    let to_send = |slot: SendSlot, event: SendEvent| {
        let slots = lock(&plane.slots);
        match slots[lane].sends.get(usize::from(slot.0)) {
            Some(SlotOwner::Taken { tag, events, .. }) => events.send((*tag, event)),
            // A lane reports nothing about a flow before it was opened, or after it was closed.
            _ => drop(plane.nonsense(NO_SUCH_FLOW)),
        }
    };
    let to_receive = |slot: ReceiveSlot, event: ReceiveEvent| {
        let slots = lock(&plane.slots);
        match slots[lane].receives.get(usize::from(slot.0)) {
            Some(SlotOwner::Taken { tag, events, .. }) => events.send((*tag, event)),
            _ => drop(plane.nonsense(NO_SUCH_FLOW)),
        }
    };
    match (*event, lent) {
        (Event::PathOpen { flow, stride, rtt_us }, _) => to_send(flow, SendEvent::PathOpen { stride, rtt_us }),
        (Event::PathClosed { flow, errno }, _) => to_send(flow, SendEvent::PathClosed { errno }),
        (Event::Fill { flow, chunk, .. }, Some(buffer)) => to_send(flow, SendEvent::Fill { chunk, buffer }),
        (Event::Hashed { flow, chunk, hash }, _) => to_send(flow, SendEvent::Hashed { chunk, hash }),
        (Event::Delivered { flow, chunk, times }, _) => to_send(flow, SendEvent::Delivered { chunk, times }),
        (Event::ReadFailed { flow, chunk, error }, _) => to_send(flow, SendEvent::ReadFailed { chunk, error }),
        (Event::Withdrawn { flow, chunk }, _) => to_send(flow, SendEvent::Withdrawn { chunk }),
        (Event::PlacementNeeded { flow, chunk, chunk_bytes }, _) => {
            to_receive(flow, ReceiveEvent::PlacementNeeded { chunk, chunk_bytes });
        }
        (Event::Lend { flow, chunk, .. }, Some(buffer)) => to_receive(flow, ReceiveEvent::Lend { chunk, buffer }),
        (Event::Written { flow, chunk, hash, times }, _) => {
            to_receive(flow, ReceiveEvent::Written { chunk, hash, times });
        }
        (Event::WriteFailed { flow, chunk, error }, _) => {
            to_receive(flow, ReceiveEvent::WriteFailed { chunk, error });
        }
        (Event::Report { flow, bytes }, _) => to_receive(flow, ReceiveEvent::Report(bytes.to_vec())),
        (Event::Astray { flow }, _) => to_receive(flow, ReceiveEvent::Astray),
        (Event::Checked { token, result }, _) => {
            if let Some(waiter) = lock(&plane.waiters).checks.remove(&token) {
                let _ = waiter.send(result);
            }
        }
        (Event::SendClosed { flow }, _) => {
            to_send(flow, SendEvent::Closed);
            plane.give_send_slot_back(lane as u16, flow);
        }
        (Event::ReceiveClosed { flow }, _) => {
            to_receive(flow, ReceiveEvent::Closed);
            plane.give_receive_slot_back(lane as u16, flow);
        }
        (Event::OthersWaitForSend { flow, held }, _) => to_send(flow, SendEvent::OthersWait { held }),
        (Event::OthersWaitForReceive { flow, incomplete, whole }, _) => {
            to_receive(flow, ReceiveEvent::OthersWait { incomplete, whole });
        }
        (Event::Fill { .. } | Event::Lend { .. }, None) => {}
    }
}
