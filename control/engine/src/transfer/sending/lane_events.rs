//! What lanes report of the chunks that they have.

use culvert_plane::dataplane::SendEvent;

use crate::events::Event;
use crate::transfer::error::TransferError;
use crate::transfer::flows::path_closed;
use crate::transfer::sending::state::Sending;

impl Sending {
    pub(super) fn event(&mut self, tag: usize, event: SendEvent) -> Result<(), TransferError> {
        // A path may open again and again.
        self.pace.steps += u64::from(!matches!(event, SendEvent::PathOpen { .. } | SendEvent::OthersWait { .. }));
        if let Some(what) = self.impossible(tag, &event) {
            return Err(self.context.plane.nonsense(what).into());
        }
        match event {
            // Nothing is reported about chunks that the flow does not have.
            SendEvent::Fill { chunk, .. }
            | SendEvent::Hashed { chunk, .. }
            | SendEvent::Delivered { chunk, .. }
            | SendEvent::ReadFailed { chunk, .. }
            | SendEvent::Withdrawn { chunk }
                if self.queue.assigned.get(&chunk) != Some(&tag) => {}
            SendEvent::OthersWait { held } => self.others_wait(held)?,
            SendEvent::PathOpen { stride, rtt_us } => self.flows.path_open(tag, stride, rtt_us),
            SendEvent::PathClosed { errno } => {
                return Err(path_closed(&self.context, &self.flows, errno));
            }
            SendEvent::Fill { chunk, buffer } => self.fill(chunk, buffer)?,
            SendEvent::Hashed { chunk, hash } => {
                self.outbox.chunk_hashes.push((chunk, hash));
                self.hashing.hashed.insert(chunk, hash);
            }
            SendEvent::Delivered { chunk, times } => {
                self.context.observer.note(Event::ChunkMoved { times, is_sender: true });
                self.note_delivery();
                self.unassign(tag, chunk);
                self.queue.filling.remove(&chunk);
                self.chunk_delivered(chunk);
                self.send_again_if_asked(chunk);
            }
            SendEvent::ReadFailed { chunk, error } => {
                self.unassign(tag, chunk);
                self.chunk_settled(chunk);
                if let Some(file) = self.payload.file_of(chunk) {
                    let error = self.read_error(file, error);
                    self.fail_file_or_end(error)?;
                }
            }
            SendEvent::Withdrawn { chunk } => {
                self.unassign(tag, chunk);
                self.chunk_settled(chunk);
            }
            SendEvent::Closed => {}
        }
        Ok(())
    }

    fn unassign(&mut self, tag: usize, chunk: u32) {
        self.flows.settled(tag);
        self.queue.assigned.remove(&chunk);
    }
}
