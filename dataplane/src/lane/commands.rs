//! What a lane receives from its own side: commands of the control process from its ring, and
//! deliveries of the coordinator from its queue.

use culvert_link::commands::Command;
use culvert_link::ring::Broken;
use culvert_protocol::chunk_memory::{BufferId, ChunkMemory as _};
use culvert_protocol::feedback::Report;

use super::flow_table::FlowTable;
use super::handoff::{FromLane, ToLane};
use super::receiving::ReceiveFlow;
use super::sending::SendFlow;
use crate::datapath::Datapath;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;

/// A command that the control process never sends.
struct Nonsense;

impl FlowTable {
    /// Takes over flows and keys from the coordinator.
    pub(super) fn take_deliveries(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = false;
        while let Some(delivery) = self.handoff.next_delivery() {
            taken = true;
            match delivery {
                ToLane::Send(flow) => self.add_send(flow, now_ns),
                ToLane::Receive(flow) => self.add_receive(flow, now_ns),
                ToLane::Source { slot, source } => {
                    datapath.watch(&source);
                    self.with_send(slot, |flow, _| flow.set_source(source));
                }
                ToLane::NextHop { to, hop } => datapath.set_next_hop(to, hop.as_ref()),
                ToLane::Tap(mut tap) => {
                    if let Some(tap) = &mut tap {
                        tap.begin();
                    }
                    if let Some(mut before) = datapath.set_tap(tap) {
                        before.end();
                        self.handoff.depart(FromLane::Tap(before));
                    }
                }
                ToLane::SendKey { slot, epoch, key } => {
                    self.with_send(slot, |flow, _| flow.protocol.push_key(epoch, key));
                }
                ToLane::ReceiveKey { slot, epoch, key } => {
                    self.with_receive(slot, |flow, _| flow.protocol.push_key(epoch, key));
                }
            }
        }
        taken
    }

    fn add_send(&mut self, mut flow: Box<SendFlow>, now_ns: u64) {
        let account = self.resources.shares.join(flow.holder());
        flow.begin(now_ns, account);
        if let Err(flow) = self.sends.insert(flow.slot.0, flow) {
            self.resources.shares.leave(account);
            self.handoff.depart(FromLane::Send(flow));
        }
    }

    fn add_receive(&mut self, mut flow: Box<ReceiveFlow>, now_ns: u64) {
        let account = self.resources.shares.join(flow.claim.holder);
        flow.begin(now_ns, self.busy_ns, account);
        if let Err(flow) = self.receives.insert(flow.slot.0, flow) {
            self.resources.shares.leave(account);
            self.handoff.depart(FromLane::Receive(flow));
        }
    }

    /// Takes commands of the control process. After a malformed one, or when the ring is broken,
    /// the lane takes no more and has the process ended.
    pub(super) fn take_commands(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = 0;
        while taken < COMMANDS_PER_TURN && !self.resources.link.is_backlogged() {
            let mut scratch = self.resources.link.lend_command_scratch();
            let record = self.resources.link.next_command(&mut scratch);
            let is_taken = matches!(record, Ok(Some(_)));
            let obeyed = match record {
                Ok(Some(record)) => {
                    // Its flow was delivered before it was sent, but perhaps after this turn looked
                    // for deliveries.
                    self.take_deliveries(datapath, now_ns);
                    let command = postcard::from_bytes::<Command<'_>>(record).map_err(|_| Nonsense);
                    command.and_then(|command| self.command(&command, now_ns))
                }
                Ok(None) => Ok(()),
                Err(Broken) => Err(Nonsense),
            };
            self.resources.link.return_command_scratch(scratch);
            if obeyed.is_err() {
                self.resources.link.give_up_commands();
                self.handoff.give_up();
            }
            if !is_taken {
                break;
            }
            taken += 1;
        }
        taken > 0
    }

    /// Commands for flows that are gone are ignored: they crossed with the event that said so.
    fn command(&mut self, command: &Command<'_>, now_ns: u64) -> Result<(), Nonsense> {
        match *command {
            Command::Send { flow, chunk, chunk_bytes, source } => {
                self.check_bytes(chunk_bytes)?;
                if let Some(flow) = self.sends.get_mut(flow.0)
                    && !flow.assign(chunk, chunk_bytes, source)
                {
                    return Err(Nonsense);
                }
            }
            Command::Filled { flow, chunk } => self.with_send(flow, |flow, resources| flow.filled(chunk, resources)),
            Command::Withdraw { flow, chunk } => {
                self.with_send(flow, |flow, resources| flow.withdraw(chunk, resources));
            }
            Command::Report { flow, bytes } => {
                let report = Report::parse(bytes).map_err(|_| Nonsense)?;
                self.with_send(flow, |flow, resources| flow.on_report(&report, resources, now_ns));
            }
            Command::Place { flow, chunk, sink } => {
                self.with_receive(flow, |flow, resources| flow.place(chunk, sink, resources));
            }
            Command::Return { flow, buffer } => {
                self.with_receive(flow, |flow, resources| flow.returned(BufferId(buffer), resources));
            }
            Command::Abandon { flow, chunk } => {
                self.with_receive(flow, |flow, resources| flow.abandon_chunk(chunk, resources));
            }
            Command::Reopen { flow, chunk } => {
                self.with_receive(flow, |flow, resources| flow.reopen_chunk(chunk, resources));
            }
            Command::Interval { flow, interval_us } => {
                self.with_receive(flow, |flow, _| flow.set_interval_us(interval_us));
            }
            Command::ExpectFrom { flow, port } => self.with_receive(flow, |flow, _| flow.expect_from(port, now_ns)),
            Command::Check { token, range, bytes, chunk_bytes } => {
                self.check_bytes(bytes)?;
                self.resources.begin_check(token, range, bytes, chunk_bytes);
            }
            Command::CloseSend { flow } => self.with_send(flow, SendFlow::close),
            Command::CloseReceive { flow } => self.with_receive(flow, ReceiveFlow::close),
        }
        Ok(())
    }

    /// A chunk fits into a buffer.
    fn check_bytes(&self, chunk_bytes: u32) -> Result<(), Nonsense> {
        if chunk_bytes as usize <= self.resources.buffers.buffer_bytes() { Ok(()) } else { Err(Nonsense) }
    }
}
