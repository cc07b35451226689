//! What a lane does when the disk has ended an operation: the flow or the check that the buffer is
//! in use for continues.

use culvert_link::invariant;
use culvert_protocol::chunk_memory::BufferId;

use super::flow_table::FlowTable;
use super::jobs::Role;
use crate::disk::{COMPLETIONS_PER_TURN, Transfer};

impl FlowTable {
    /// Advances the disk and handles completed operations.
    pub(super) fn disk_turn(&mut self) -> bool {
        self.resources.start_cached_piece();
        if !self.resources.disk.is_busy() {
            return false;
        }
        let mut ended = [None; COMPLETIONS_PER_TURN];
        let progress = self.resources.disk.turn(&self.resources.buffers, &mut ended);
        for completion in ended.into_iter().flatten() {
            self.resources.piece_ended(completion);
            self.piece_settled(completion.buffer);
        }
        progress
    }

    /// Acts on the state of a buffer after a piece has ended.
    fn piece_settled(&mut self, buffer: BufferId) {
        let now_ns = self.resources.now_ns;
        let job = &mut self.resources.jobs[buffer.0 as usize];
        let Some(io) = job.io else { return };
        if job.is_abandoned {
            if io.in_flight == 0 {
                self.release_abandoned(buffer);
            }
            return;
        }
        let has_ended = io.in_flight == 0 && (io.error.is_some() || io.prefix == job.bytes);
        if io.transfer == Transfer::Read && io.prefix == job.bytes {
            job.note_whole(now_ns);
        }
        let role = job.role;
        // Invariant I-lane-buffer-flow: as long as a buffer is in use for a flow, the flow is
        // there.
        invariant!(self.is_there(role), "a buffer in use for a flow has its flow");
        match role {
            Role::Send(slot) => self.with_send(slot, |flow, resources| flow.read_on(buffer, io.error, resources)),
            Role::Receive(slot) if has_ended => {
                self.with_receive(slot, |flow, resources| flow.write_ended(buffer, io.error, resources));
            }
            Role::Check(token) if has_ended => self.resources.check_ended(token, buffer, io.error),
            Role::Receive(_) | Role::Check(_) | Role::Free => {}
        }
    }

    /// Frees a buffer that is no longer wanted, once the kernel is done with it.
    fn release_abandoned(&mut self, buffer: BufferId) {
        let role = self.resources.jobs[buffer.0 as usize].role;
        self.resources.free_buffer(buffer);
        match role {
            Role::Send(slot) => self.with_send(slot, |flow, _| flow.release()),
            Role::Receive(slot) => self.with_receive(slot, |flow, _| flow.release()),
            Role::Check(_) | Role::Free => {}
        }
    }

    fn is_there(&mut self, role: Role) -> bool {
        match role {
            Role::Send(slot) => self.sends.get_mut(slot.0).is_some(),
            Role::Receive(slot) => self.receives.get_mut(slot.0).is_some(),
            Role::Check(_) => true,
            Role::Free => false,
        }
    }
}
