//! The flows of one direction in a lane, by slot.

use culvert_link::invariant;
use culvert_link::layout::FLOWS_PER_LANE;

/// Position of a slot that is not in use.
const NOWHERE: u16 = u16::MAX;
const _: () = assert!(FLOWS_PER_LANE < NOWHERE);

/// Flows in the order in which they came, each with its slot, and where the flow of a slot stands.
/// A turn visits only flows that exist; a datagram finds its flow with two loads.
#[derive(Debug)]
pub(super) struct Slots<F> {
    flows: Vec<(u16, Box<F>)>,
    positions: Box<[u16]>,
}

impl<F> Slots<F> {
    /// No flows yet, with memory for all that a lane can have.
    pub(super) fn new() -> Self {
        let count = usize::from(FLOWS_PER_LANE);
        Self { flows: Vec::with_capacity(count), positions: vec![NOWHERE; count].into_boxed_slice() }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    pub(super) const fn len(&self) -> usize {
        self.flows.len()
    }

    /// Puts a flow into its slot. Gives it back if that is not possible.
    pub(super) fn insert(&mut self, slot: u16, flow: Box<F>) -> Result<(), Box<F>> {
        let place = self.positions.get_mut(usize::from(slot)).filter(|place| **place == NOWHERE);
        // Invariant I-lane-slot-empty: a flow is delivered to a lane only into an empty slot.
        invariant!(place.is_some(), "a flow is delivered only into an empty slot");
        let Some(place) = place else { return Err(flow) };
        *place = self.flows.len() as u16;
        self.flows.push((slot, flow));
        Ok(())
    }

    /// Takes the flow out of a slot.
    pub(super) fn remove(&mut self, slot: u16) -> Option<Box<F>> {
        let position = self.position(slot)?;
        let (_, flow) = self.flows.remove(position);
        self.positions[usize::from(slot)] = NOWHERE;
        for (at, (slot, _)) in self.flows.iter().enumerate().skip(position) {
            self.positions[usize::from(*slot)] = at as u16;
        }
        Some(flow)
    }

    #[inline]
    pub(super) fn get_mut(&mut self, slot: u16) -> Option<&mut F> {
        let position = self.position(slot)?;
        self.flows.get_mut(position).map(|(_, flow)| &mut **flow)
    }

    /// The flow at a position below [`Slots::len`].
    pub(super) fn at_mut(&mut self, position: usize) -> Option<&mut F> {
        self.flows.get_mut(position).map(|(_, flow)| &mut **flow)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &F> {
        self.flows.iter().map(|(_, flow)| &**flow)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut F> {
        self.flows.iter_mut().map(|(_, flow)| &mut **flow)
    }

    /// Checks that every slot in use leads to its flow; costs a few loads for each flow.
    pub(super) fn check(&self) {
        for (position, (slot, _)) in self.flows.iter().enumerate() {
            // Invariant I-lane-slot-flow: a slot in use leads to the flow of that slot.
            invariant!(self.position(*slot) == Some(position), "a slot in use leads to its flow");
        }
    }

    #[inline]
    fn position(&self, slot: u16) -> Option<usize> {
        self.positions.get(usize::from(slot)).filter(|&&place| place != NOWHERE).map(|&place| usize::from(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_keep_their_slots_when_others_leave() {
        let mut slots = Slots::new();
        for slot in [7, 0, FLOWS_PER_LANE - 1] {
            slots.insert(slot, Box::new(slot)).unwrap();
        }
        assert_eq!(slots.remove(7), Some(Box::new(7)));
        assert_eq!((slots.remove(7), slots.len()), (None, 2));
        assert_eq!(slots.get_mut(7), None);
        assert_eq!(slots.get_mut(0), Some(&mut 0));
        assert_eq!(slots.get_mut(FLOWS_PER_LANE - 1), Some(&mut (FLOWS_PER_LANE - 1)));
        assert_eq!(slots.get_mut(FLOWS_PER_LANE), None);
        slots.check();
        slots.insert(7, Box::new(8)).unwrap();
        assert_eq!(slots.iter().copied().collect::<Vec<_>>(), [0, FLOWS_PER_LANE - 1, 8]);
    }
}
