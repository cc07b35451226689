//! The chunks of a transfer that is being sent, from the first look at them until they are
//! delivered.
//!
//! `next_chunk`, `again` ──> helpers prepare ──> `prepared` ──> `assigned` to a flow ──> delivered

use std::collections::{HashMap, VecDeque};
use std::ops::Range;

use culvert_link::commands::Source;
use culvert_protocol::control::Run;

use crate::bit_set::BitSet;
use crate::error::TransferError;
use crate::tries::TRIES_MAX;

/// Where each chunk is on its way to a flow.
#[derive(Debug)]
pub(super) struct Queue {
    /// The next chunk that has not been looked at.
    next_chunk: u32,
    chunk_count: u32,
    /// Chunks to be prepared before `next_chunk`: sent again, or not the same as the partner's.
    again: VecDeque<u32>,
    /// Prepared chunks that wait for a flow.
    prepared: VecDeque<(u32, Source)>,
    /// Chunks in a flow's hands, and which flow's.
    assigned: HashMap<u32, usize>,
    /// Chunks whose flows have asked for their content, until they are delivered; true while a
    /// helper reads it.
    filling: HashMap<u32, bool>,
    /// Chunks that helpers prepare.
    preparing: usize,
    /// Files that are checked for changes after their last chunk.
    checking: usize,
    /// Chunks that a flow got, or that the receiver has without one, since they were last queued:
    /// only these can be requested again.
    gone: BitSet,
    /// Chunks that the receiver has acknowledged as stored.
    stored: BitSet,
    resends: HashMap<u32, ResendRequest>,
}

/// A chunk that the receiver wanted again.
#[derive(Clone, Copy, Debug)]
struct ResendRequest {
    times: u32,
    /// The latest request waits until the chunk is delivered: it is still in flight.
    waits: bool,
    /// Its delivery was counted.
    is_counted: bool,
}

impl Queue {
    /// No chunk looked at yet.
    pub(super) fn new(chunk_count: u32) -> Self {
        Self {
            next_chunk: 0,
            chunk_count,
            again: VecDeque::new(),
            prepared: VecDeque::new(),
            assigned: HashMap::new(),
            filling: HashMap::new(),
            preparing: 0,
            checking: 0,
            gone: BitSet::new(chunk_count as usize),
            stored: BitSet::new(chunk_count as usize),
            resends: HashMap::new(),
        }
    }

    /// Whether the transfer has a chunk of this number.
    pub(super) const fn has(&self, chunk: u32) -> bool {
        chunk < self.chunk_count
    }

    /// Whether everything is delivered, and every file checked.
    pub(super) fn is_idle(&self) -> bool {
        self.left() == 0 && self.checking == 0
    }

    /// Chunks that are not delivered yet.
    pub(super) fn left(&self) -> usize {
        // Invariant I-sending-next: the next chunk to look at is never beyond the transfer's last.
        assert!(self.next_chunk <= self.chunk_count, "the next chunk is beyond the transfer's last");
        let untouched = (self.chunk_count - self.next_chunk) as usize;
        untouched + self.again.len() + self.prepared.len() + self.preparing + self.assigned.len()
    }

    /// Chunks that helpers prepare, and those that are prepared.
    pub(super) fn ahead(&self) -> usize {
        self.preparing + self.prepared.len()
    }

    /// The number of the chunk that will be looked at next.
    pub(super) const fn next_chunk(&self) -> u32 {
        self.next_chunk
    }

    /// Takes the next chunk to prepare: one that goes again, or the next in order if `may_begin`
    /// permits it.
    pub(super) fn take_next(&mut self, may_begin: impl FnOnce(u32) -> bool) -> Option<u32> {
        if let Some(chunk) = self.again.pop_front() {
            return Some(chunk);
        }
        let next = self.next_chunk;
        if next >= self.chunk_count || !may_begin(next) {
            return None;
        }
        self.next_chunk += 1;
        Some(next)
    }

    /// A helper begins to prepare a chunk.
    pub(super) const fn begin_preparing(&mut self) {
        self.preparing += 1;
    }

    /// A helper has ended the preparation of `chunks` chunks.
    pub(super) const fn end_preparing(&mut self, chunks: usize) {
        // Invariant I-sending-preparing: no preparation ends that did not begin.
        assert!(self.preparing >= chunks, "more chunks were prepared than helpers had");
        self.preparing -= chunks;
    }

    /// A helper begins to check a file for changes.
    pub(super) const fn begin_checking(&mut self) {
        self.checking += 1;
    }

    /// A file was checked for changes.
    pub(super) const fn end_checking(&mut self) {
        // Invariant I-sending-checking: no check of a file ends that did not begin.
        assert!(self.checking > 0, "a file was checked that no helper had");
        self.checking -= 1;
    }

    /// How many files are being checked for changes.
    pub(super) const fn checking(&self) -> usize {
        self.checking
    }

    /// How many chunks helpers prepare.
    pub(super) const fn preparing(&self) -> usize {
        self.preparing
    }

    /// A chunk is ready for a flow.
    pub(super) fn push_prepared(&mut self, chunk: u32, source: Source) {
        self.prepared.push_back((chunk, source));
    }

    /// Whether a prepared chunk waits for a flow.
    pub(super) fn has_prepared(&self) -> bool {
        !self.prepared.is_empty()
    }

    /// Takes the first prepared chunk.
    pub(super) fn pop_prepared(&mut self) -> Option<(u32, Source)> {
        self.prepared.pop_front()
    }

    /// Takes the prepared chunks that `is_taken` chooses.
    pub(super) fn take_prepared(&mut self, is_taken: impl Fn(u32) -> bool) -> Vec<u32> {
        let (taken, kept): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.prepared).into_iter().partition(|&(chunk, _)| is_taken(chunk));
        self.prepared = kept;
        taken.into_iter().map(|(chunk, _)| chunk).collect()
    }

    /// A flow gets a chunk.
    pub(super) fn assign(&mut self, chunk: u32, tag: usize) {
        self.gone.insert(chunk);
        let earlier = self.assigned.insert(chunk, tag);
        // Invariant I-sending-one-flow: a chunk is in one flow's hands at a time.
        assert!(earlier.is_none(), "a chunk was assigned to two flows at once");
    }

    /// A flow has a chunk no longer.
    pub(super) fn unassign(&mut self, chunk: u32) {
        self.assigned.remove(&chunk);
    }

    /// Whether a chunk is in this flow's hands.
    pub(super) fn is_assigned_to(&self, chunk: u32, tag: usize) -> bool {
        self.assigned.get(&chunk) == Some(&tag)
    }

    /// The chunks in flows' hands, and whose.
    pub(super) fn assigned(&self) -> impl ExactSizeIterator<Item = (u32, usize)> {
        self.assigned.iter().map(|(&chunk, &tag)| (chunk, tag))
    }

    /// A flow asks for the content of a chunk; false if it has asked before.
    pub(super) fn begin_filling(&mut self, chunk: u32) -> bool {
        self.filling.insert(chunk, true).is_none()
    }

    /// A chunk's content is in its buffer.
    pub(super) fn end_filling(&mut self, chunk: u32) {
        self.filling.insert(chunk, false);
    }

    /// Whether a chunk's content is in its buffer.
    pub(super) fn is_filled(&self, chunk: u32) -> bool {
        self.filling.get(&chunk) == Some(&false)
    }

    /// A chunk is delivered: its buffer is free.
    pub(super) fn forget_filling(&mut self, chunk: u32) {
        self.filling.remove(&chunk);
    }

    /// The chunks of a run that the receiver acknowledges, without those that do not exist.
    pub(super) fn chunks_of(&self, run: &Run) -> Range<u32> {
        run.first..run.first.saturating_add(run.count).min(self.chunk_count)
    }

    /// The receiver acknowledges a chunk; whether it had not before.
    pub(super) fn note_stored(&mut self, chunk: u32) -> bool {
        self.stored.insert(chunk)
    }

    /// The receiver found a chunk's data damaged. True if it can go again at once; else it goes
    /// again when it is delivered ([`Queue::is_wanted_again`]): the request may overtake the report
    /// that it arrived.
    ///
    /// # Errors
    /// [`TransferError`] for chunks that were not sent, or were requested too often: an honest
    /// receiver gives up after a few attempts.
    pub(super) fn request_again(&mut self, chunk: u32) -> Result<bool, TransferError> {
        //= W-40
        //# It requests a chunk that differs with `SendAgain`, at most three times, and only if the
        //# chunk was sent.
        let is_under_way = self.assigned.contains_key(&chunk);
        let first = ResendRequest { times: 0, waits: false, is_counted: !is_under_way };
        let asked = self.resends.get(&chunk).copied().unwrap_or(first);
        if !self.gone.contains(chunk) || asked.waits || asked.times >= TRIES_MAX {
            let text = format!("it asks for chunk {chunk} again, which was not sent or was sent often enough");
            return Err(TransferError::protocol(text));
        }
        self.resends.insert(chunk, ResendRequest { times: asked.times + 1, waits: true, ..asked });
        Ok(!is_under_way)
    }

    /// Whether a request for a chunk waits until it is delivered.
    pub(super) fn is_wanted_again(&self, chunk: u32) -> bool {
        self.resends.get(&chunk).is_some_and(|asked| asked.waits)
    }

    /// A chunk goes once more, before those that have not gone yet.
    pub(super) fn push_again(&mut self, chunk: u32) {
        self.gone.remove(chunk);
        self.again.push_back(chunk);
    }

    /// A chunk goes once more because the receiver has requested it.
    pub(super) fn grant_request(&mut self, chunk: u32) {
        if let Some(asked) = self.resends.get_mut(&chunk) {
            asked.waits = false;
        }
        self.push_again(chunk);
    }

    /// Counts a delivery; false if one of the same chunk was counted before.
    pub(super) fn count_delivery(&mut self, chunk: u32) -> bool {
        // Of proven chunks and holes no flow was told.
        self.gone.insert(chunk);
        let Some(asked) = self.resends.get_mut(&chunk) else { return true };
        !std::mem::replace(&mut asked.is_counted, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    //= W-40
    //# It requests a chunk that differs with `SendAgain`, at most three times, and only if the
    //# chunk was sent.
    #[test]
    fn a_chunk_goes_again_three_times_and_counts_once() {
        let mut queue = Queue::new(2);
        assert!(queue.request_again(1).is_err(), "it was not sent");
        assert_eq!(queue.take_next(|_| true), Some(0));
        queue.assign(0, 3);
        assert!(!queue.request_again(0).unwrap(), "it is in flight");
        assert!(queue.request_again(0).is_err(), "it was asked for and has not gone again");
        queue.unassign(0);
        assert!(queue.count_delivery(0) && queue.is_wanted_again(0));
        queue.grant_request(0);
        assert_eq!(queue.take_next(|_| false), Some(0), "before those that have not gone");
        for _ in 0..2 {
            queue.assign(0, 1);
            queue.unassign(0);
            assert!(!queue.count_delivery(0));
            assert!(queue.request_again(0).unwrap());
            queue.grant_request(0);
        }
        queue.assign(0, 1);
        queue.unassign(0);
        assert!(queue.request_again(0).is_err(), "often enough");
    }

    //= W-40
    //# It requests a chunk that differs with `SendAgain`, at most three times, and only if the
    //# chunk was sent.
    #[test]
    fn a_chunk_is_requested_again_only_after_it_has_gone() {
        let mut queue = Queue::new(3);
        assert_eq!(queue.take_next(|_| true), Some(0));
        assert!(queue.request_again(0).is_err(), "a helper prepares it");
        queue.push_prepared(0, Source::Memory);
        assert!(queue.request_again(0).is_err(), "it waits for a flow");
        assert!(queue.pop_prepared().is_some());
        queue.assign(0, 1);
        assert!(!queue.request_again(0).unwrap(), "it is in flight");
        queue.unassign(0);
        assert!(queue.count_delivery(0));
        queue.grant_request(0);
        assert!(queue.request_again(0).is_err(), "it was granted and has not gone again");
        // A proven chunk gets no flow and may be requested (W-47).
        assert_eq!(queue.take_next(|_| true), Some(0));
        assert_eq!(queue.take_next(|_| true), Some(1));
        assert!(queue.count_delivery(1) && queue.request_again(1).unwrap());
        assert!(queue.request_again(7).is_err(), "there is no such chunk");
    }
}
