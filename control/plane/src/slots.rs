//! Decides which partner may have another of a lane's flow slots.
//!
//! A partner gets a slot only while it has fewer than are free, so each partner leaves as many as
//! it has for the next. A further transfer of a partner that already has flows gets its first one
//! only while enough slots are left for partners that have none.

use culvert_link::layout::FLOWS_PER_LANE;

use crate::error::DataPlaneError;
use crate::events::EventSender;

/// Flow slots of a lane kept for partners that have none when another partner begins a further
/// transfer.
pub const FLOWS_RESERVED_PER_LANE: usize = FLOWS_PER_LANE as usize / 4;

/// The owner of a lane's slot, and where its events go.
#[derive(Debug)]
pub(super) enum SlotOwner<E> {
    Free,
    Taken { tag: usize, holder: u32, events: EventSender<E> },
}

/// A flow that a transfer wants.
#[derive(Clone, Copy, Debug)]
pub struct WantedFlow {
    /// The transfer's number for the flow, which comes with each of its events.
    pub tag: usize,
    /// The partner.
    pub holder: u32,
    /// Whether the transfer already has flows and can do without this one.
    pub has_others: bool,
}

/// Takes a free slot of a lane.
pub(super) fn take_slot<E>(
    slots: &mut [SlotOwner<E>],
    wanted: WantedFlow,
    events: &EventSender<E>,
) -> Result<u16, DataPlaneError> {
    let WantedFlow { tag, holder, has_others } = wanted;
    let free = slots.iter().filter(|slot| matches!(slot, SlotOwner::Free)).count();
    let is_own = |slot: &&SlotOwner<E>| matches!(slot, SlotOwner::Taken { holder: of, .. } if *of == holder);
    let own = slots.iter().filter(is_own).count();
    let may_have = match (has_others, own) {
        (_, 0) => true,
        (false, _) => free > FLOWS_RESERVED_PER_LANE,
        (true, _) => own < free,
    };
    if !may_have {
        return Err(DataPlaneError::NoRoom("flow of this partner"));
    }
    let at = slots.iter().position(|slot| matches!(slot, SlotOwner::Free)).ok_or(DataPlaneError::NoRoom("flow"))?;
    slots[at] = SlotOwner::Taken { tag, holder, events: events.clone() };
    Ok(at as u16)
}

#[cfg(test)]
mod tests {
    use culvert_link::layout::FLOWS_PER_LANE;

    use super::*;
    use crate::events::{SendEvent, event_queue};

    fn take(slots: &mut [SlotOwner<SendEvent>], holder: u32, flows: usize) -> usize {
        let events = event_queue().0;
        let wanted = |at: usize| WantedFlow { tag: at, holder, has_others: at > 0 };
        (0..flows).take_while(|&at| take_slot(slots, wanted(at), &events).is_ok()).count()
    }

    #[test]
    fn each_partner_leaves_half_of_the_free_flows_and_every_partner_gets_one() {
        let mut slots: Vec<SlotOwner<SendEvent>> = (0..FLOWS_PER_LANE).map(|_| SlotOwner::Free).collect();
        assert_eq!(take(&mut slots, 1, 256), 128);
        assert_eq!(take(&mut slots, 1, 256), 1, "its next transfer has one");
        assert_eq!((2..6).map(|holder| take(&mut slots, holder, 256)).collect::<Vec<_>>(), [64, 32, 16, 8]);
        assert_eq!(take(&mut slots, 1, 1), 0, "what is left is for others");
        assert_eq!((6..13).map(|holder| take(&mut slots, holder, 256)).collect::<Vec<_>>(), [4, 2, 1, 0, 0, 0, 0]);
    }
}
