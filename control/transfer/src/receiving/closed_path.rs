//! The way of a receiving transfer's flows that has not opened.

use std::time::Instant;

use culvert_protocol::control::Refusal;
use rustix::io::Errno;

use crate::TransferContext;
use crate::error::TransferError;
use crate::receiving::inbound::Inbound;
use crate::udp_path::{ClosedPath, REMEDY, UNOPENED_NOTICE};

impl Inbound {
    /// The way that has not opened, if it is one, long before the sender gives it up. The sender's
    /// first datagrams are probes, which wait for nothing: if none has come by a flow, none comes
    /// through; if they go on coming and nothing else does, the answers to them do not.
    fn closed_path(&self, context: &TransferContext) -> Option<ClosedPath> {
        self.offered_at.filter(|at| at.elapsed() > UNOPENED_NOTICE)?;
        let ports: Vec<u16> = self
            .flows
            .iter()
            .filter(|flow| flow.opening.packets == 0)
            .filter_map(|flow| Some(context.plane.lanes().get(usize::from(flow.lane))?.port))
            .collect();
        if !ports.is_empty() {
            let closed = ClosedPath::from_partner(context, ports);
            // The sender knows, and what is open here is not to be opened.
            let met = if self.is_refused_there { Errno::PERM.raw_os_error() } else { 0 };
            return Some(closed.because(met));
        }
        let is_probed = self.flows.iter().any(|flow| flow.opening.is_probed(Instant::now()));
        is_probed.then(|| ClosedPath::of_answers(context))
    }

    /// What a refusal of the sender's ends the transfer with. One that gives a closed way up cannot
    /// tell which of the two it is; this end can.
    pub(super) fn refused(&self, context: &TransferContext, refusal: Refusal) -> TransferError {
        let is_way = context.share.is_users() && refusal.text.contains(REMEDY);
        match self.closed_path(context).filter(|_| is_way) {
            Some(closed) => TransferError::Closed(closed.to_string()),
            None => TransferError::Partner(refusal),
        }
    }

    /// Tells the transfer's user of a way that has not opened.
    pub(super) fn notice_closed_path(&self, context: &TransferContext) {
        if context.share.is_users() {
            context.notice(self.closed_path(context).map(|closed| closed.to_string()));
        }
    }
}
