//! What a lane is told: by the control process through its ring, and by the coordinator through its
//! queue.

use culvert_link::commands::Command;
use culvert_protocol::chunk_memory::BufferId;
use culvert_protocol::feedback::Report;

use super::flow_table::FlowTable;
use super::handoff::{FromLane, ToLane};
use super::sending::SendFlow;
use crate::datapath::Datapath;

/// Commands taken in one turn.
const COMMANDS_PER_TURN: usize = 64;

impl FlowTable {
    /// Takes over flows and keys from the coordinator.
    pub(super) fn take_deliveries(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = false;
        while let Some(delivery) = self.handoff.next_delivery() {
            taken = true;
            match delivery {
                ToLane::Send(mut flow) => {
                    let slot = flow.slot;
                    flow.begin(now_ns);
                    flow.account = self.resources.shares.join(flow.holder);
                    self.sends[usize::from(slot.0)] = Some(flow);
                    self.active_sends.push(slot);
                }
                ToLane::Receive(mut flow) => {
                    let slot = flow.slot;
                    flow.begin(now_ns, self.busy_ns, self.resources.shares.join(flow.holder));
                    self.receives[usize::from(slot.0)] = Some(flow);
                    self.active_receives.push(slot);
                }
                ToLane::Source { slot, source } => {
                    datapath.watch(&source);
                    self.with_send(slot, |flow, _| flow.source = Some(source));
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
                    self.with_receive(slot, |flow| flow.protocol.push_key(epoch, key));
                }
            }
        }
        taken
    }

    pub(super) fn take_commands(&mut self, datapath: &mut impl Datapath, now_ns: u64) -> bool {
        let mut taken = 0;
        while taken < COMMANDS_PER_TURN && !self.resources.link.is_backlogged() {
            let mut scratch = self.resources.link.lend_command_scratch();
            let record = self.resources.link.next_command(&mut scratch);
            if let Some(record) = record {
                // Its flow was delivered before it was sent, but perhaps after this turn looked for
                // deliveries.
                self.take_deliveries(datapath, now_ns);
                match postcard::from_bytes::<Command<'_>>(record) {
                    Ok(command) => self.command(&command, now_ns),
                    Err(_) => debug_assert!(false, "the control process sent a malformed command"),
                }
                taken += 1;
                self.resources.link.return_command_scratch(scratch);
            } else {
                self.resources.link.return_command_scratch(scratch);
                break;
            }
        }
        taken > 0
    }

    /// Commands for flows that are gone are ignored: they crossed with the event that said so.
    fn command(&mut self, command: &Command<'_>, now_ns: u64) {
        match *command {
            Command::Send { flow, chunk, chunk_bytes, source } => {
                if let Some(flow) = self.sends.get_mut(usize::from(flow.0)).and_then(Option::as_mut) {
                    flow.assign(chunk, chunk_bytes, source);
                }
            }
            Command::Filled { flow, chunk } => self.with_send(flow, |flow, resources| flow.filled(chunk, resources)),
            Command::Withdraw { flow, chunk } => {
                self.with_send(flow, |flow, resources| flow.withdraw(chunk, resources));
            }
            Command::Report { flow, bytes } => {
                let Ok(report) = Report::parse(bytes) else {
                    debug_assert!(false, "the control process passes proved reports only");
                    return;
                };
                self.with_send(flow, |flow, resources| flow.on_report(&report, resources, now_ns));
            }
            Command::Place { flow, chunk, sink } => self.place(flow, chunk, sink),
            Command::Return { flow, buffer } => self.returned(flow, BufferId(buffer)),
            Command::Abandon { flow, chunk } => self.abandon_chunk(flow, chunk),
            Command::Reopen { flow, chunk } => self.reopen_chunk(flow, chunk),
            Command::Interval { flow, interval_us } => {
                self.with_receive(flow, |flow| flow.set_interval_us(interval_us));
            }
            Command::ExpectFrom { flow, port } => self.with_receive(flow, |flow| flow.expect_from(port, now_ns)),
            Command::Check { token, range, bytes, chunk_bytes } => {
                self.resources.begin_check(token, range, bytes, chunk_bytes);
            }
            Command::CloseSend { flow } => self.with_send(flow, SendFlow::close),
            Command::CloseReceive { flow } => self.close_receive(flow),
        }
    }
}
