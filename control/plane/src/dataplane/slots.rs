//! The slots of a lane: which flow has which, and which partner may have another.
//!
//! A partner gets at most half of the free slots, so each leaves as much for the next. A transfer
//! of a partner that already has some gets its first flow only while enough are left for partners
//! that have none.

use culvert_link::layout::FLOWS_PER_LANE;

use crate::dataplane::error::DataPlaneError;
use crate::dataplane::events::EventSender;

/// Flows of a lane that are kept for partners that have none, when another's next transfer comes.
pub const FLOWS_RESERVED_PER_LANE: usize = FLOWS_PER_LANE as usize / 4;

/// Whose a slot of a lane is.
#[derive(Debug)]
pub(super) enum Route<E> {
    Free,
    Taken { tag: usize, holder: u32, events: EventSender<E> },
}

/// A flow that a transfer wants.
#[derive(Clone, Copy, Debug)]
pub struct WantedFlow {
    /// What its events are told by.
    pub tag: usize,
    /// Whose it is.
    pub holder: u32,
    /// Whether the transfer has flows already, so that it can do without this one.
    pub has_others: bool,
}

/// Takes a free slot of a lane: by partner first, then by transfer, so that each leaves room for
/// the next.
pub(super) fn take_slot<E>(
    slots: &mut [Route<E>],
    wanted: WantedFlow,
    events: &EventSender<E>,
) -> Result<u16, DataPlaneError> {
    let WantedFlow { tag, holder, has_others } = wanted;
    let free = slots.iter().filter(|route| matches!(route, Route::Free)).count();
    let is_own = |route: &&Route<E>| matches!(route, Route::Taken { holder: of, .. } if *of == holder);
    let own = slots.iter().filter(is_own).count();
    let may_have = match (has_others, own) {
        (_, 0) => true,
        (false, _) => free > FLOWS_RESERVED_PER_LANE,
        (true, _) => own < free,
    };
    if !may_have {
        return Err(DataPlaneError::NoRoom("flow of this partner"));
    }
    let at = slots.iter().position(|route| matches!(route, Route::Free)).ok_or(DataPlaneError::NoRoom("flow"))?;
    slots[at] = Route::Taken { tag, holder, events: events.clone() };
    Ok(at as u16)
}

#[cfg(test)]
mod tests {
    use culvert_link::layout::FLOWS_PER_LANE;

    use super::*;
    use crate::dataplane::events::{SendEvent, event_queue};

    fn take(slots: &mut [Route<SendEvent>], holder: u32, flows: usize) -> usize {
        let events = event_queue().0;
        let wanted = |at: usize| WantedFlow { tag: at, holder, has_others: at > 0 };
        (0..flows).take_while(|&at| take_slot(slots, wanted(at), &events).is_ok()).count()
    }

    #[test]
    fn each_partner_leaves_half_of_the_free_flows_and_every_partner_gets_one() {
        let mut slots: Vec<Route<SendEvent>> = (0..FLOWS_PER_LANE).map(|_| Route::Free).collect();
        assert_eq!(take(&mut slots, 1, 256), 128);
        assert_eq!(take(&mut slots, 1, 256), 1, "its next transfer has one");
        assert_eq!((2..6).map(|holder| take(&mut slots, holder, 256)).collect::<Vec<_>>(), [64, 32, 16, 8]);
        assert_eq!(take(&mut slots, 1, 1), 0, "what is left is for others");
        assert_eq!((6..13).map(|holder| take(&mut slots, holder, 256)).collect::<Vec<_>>(), [4, 2, 1, 0, 0, 0, 0]);
    }
}
