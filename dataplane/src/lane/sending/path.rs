//! The path of a sending flow: where its datagrams go, whether any get through, and how large they
//! may be.

use culvert_link::clock::wire_us;
use culvert_link::commands::{Event, SendSlot};
use culvert_link::counters::{FlowBlock, FlowWord};
use culvert_protocol::destination::{Answer, Destination};
use culvert_protocol::path_mtu::PathMtuSearch;
use culvert_protocol::sender_flow::SenderFlow;
use culvert_protocol::wire::{Header, OVERHEAD_BYTES, SegmentKind};

use super::probing::Probing;
use crate::datapath::udp::source::SourceSocket;
use crate::datapath::{Arrival, Datapath, Endpoints, SendOutcome};
use crate::lane::lane_link::LaneLink;

/// Unanswered retransmissions after which the path is probed again.
const BLACK_HOLE_TIMEOUTS: u32 = 3;
/// Timeouts with silence, and the minimum time, after which a path that is still being sent to is
/// probed again too: as long as there is new data to send, nothing is retransmitted. Losses on the
/// control connection itself can delay reports for that long.
const BLACK_HOLE_PATIENCES: u64 = 4;
/// See [`BLACK_HOLE_PATIENCES`].
const BLACK_HOLE_NS_MIN: u64 = 500_000_000;
/// Patience with silence until the control process has measured the round trip.
const SILENCE_NS_DEFAULT: u64 = 200_000_000;

/// What the path needs of its flow.
pub(super) struct FlowPart<'a> {
    pub(super) slot: SendSlot,
    pub(super) protocol: &'a mut SenderFlow,
    pub(super) block: &'a FlowBlock,
}

/// The path of a flow.
#[derive(Debug)]
pub(super) struct Path {
    /// The port that the flow is sent from, if not the lane's own.
    pub(super) source: Option<SourceSocket>,
    destination: Destination,
    /// The search for any size that gets through, while the path is not open.
    probing: Option<Probing>,
    /// The search for more than the path is known to carry, while it is open.
    search: PathMtuSearch,
    was_open: bool,
}

impl Path {
    /// A path to `destination`, probed with datagrams of these sizes.
    pub(super) fn new(destination: Destination, probe_datagram_bytes: Vec<u16>) -> Self {
        Self {
            source: None,
            destination,
            probing: Some(Probing::beginning(0)),
            search: PathMtuSearch::new(probe_datagram_bytes.into_boxed_slice()),
            was_open: false,
        }
    }

    /// The lane has taken the flow over: the search begins only now.
    pub(super) const fn begin(&mut self, now_ns: u64) {
        if self.probing.is_some() {
            self.probing = Some(Probing::beginning(now_ns));
        }
    }

    /// Whether data may be sent.
    pub(super) const fn is_open(&self) -> bool {
        self.probing.is_none()
    }

    /// Stops all probing.
    pub(super) const fn close(&mut self) {
        self.probing = None;
    }

    /// The ends between which datagrams go.
    #[inline]
    pub(super) const fn endpoints(&self) -> Endpoints<'_> {
        Endpoints { to: self.destination.address(), source: self.source.as_ref() }
    }

    /// A datagram from the receiver; false if it is not this flow's.
    pub(super) fn reply(
        &mut self,
        datagram: &[u8],
        header: &Header,
        by: Arrival,
        flow: &mut FlowPart<'_>,
        link: &mut LaneLink,
    ) -> bool {
        if !flow.protocol.open_reply(datagram, header) {
            return false;
        }
        flow.block.add(FlowWord::Heard, 1);
        // An authentic, new datagram may show where the receiver is now: behind an address
        // translator that may be another address than the control connection knows. Or somebody was
        // faster with a copy. The answer to a challenge tells.
        //= W-50
        //# An authentic datagram of the reverse direction that is newer than all earlier ones and
        //# comes from another address or port (even of the control connection's peer) does not
        //# change the destination.
        self.destination.on_authentic(by.from, datagram.len(), by.taken_ns);
        if header.kind != SegmentKind::ProbeReply {
            return true;
        }
        match self.destination.on_answer(header.chunk) {
            Answer::None => self.on_size_answered(header, by, flow, link),
            Answer::Late => {}
            Answer::Moved => self.moved(by.taken_ns),
        }
        true
    }

    /// A probe of a size has been answered.
    fn on_size_answered(&mut self, header: &Header, by: Arrival, flow: &mut FlowPart<'_>, link: &mut LaneLink) {
        let rtt_us = wire_us(by.taken_ns).wrapping_sub(header.sent_us);
        let delivered = u16::try_from(header.index).unwrap_or(0);
        if let Some(probing) = self.probing.as_mut() {
            if !probing.on_answer(delivered, rtt_us, self.search.common()) {
                flow.block.set(FlowWord::ProbesMet, libc::EMSGSIZE as u64);
            }
        } else if self.search.on_answer(delivered, by.taken_ns)
            // The search goes upwards from a size that carries data, so every answer that it takes
            // is larger.
            && let Some(stride) = PathMtuSearch::stride_of(delivered)
            && flow.protocol.set_stride(stride).is_ok()
        {
            link.emit(&Event::PathOpen { flow: flow.slot, stride, rtt_us: rtt_us.max(1) });
        }
    }

    /// The flow goes to another address from now on.
    #[cold]
    const fn moved(&mut self, now_ns: u64) {
        //= W-51
        //# A flow that was probing its path, because it is opening or has gone dark, probes the new
        //# address at once.
        if let Some(probing) = self.probing.as_mut() {
            probing.redirect(now_ns);
        }
    }

    /// Whether an address is to be challenged.
    #[inline]
    pub(super) const fn owes_challenge(&self, now_ns: u64) -> bool {
        now_ns >= self.destination.due_ns()
    }

    /// Challenges an address from which the receiver seems to send now.
    #[cold]
    pub(super) fn challenge<D: Datapath>(&mut self, datapath: &mut D, flow: &mut FlowPart<'_>, now_ns: u64) {
        if datapath.is_blocked() {
            return;
        }
        let Some((to, token)) = self.destination.due(OVERHEAD_BYTES, patience_ns(flow.block), now_ns) else { return };
        let endpoints = Endpoints { to, source: self.source.as_ref() };
        // What the network refuses is lost like any datagram; the challenge is repeated as long as
        // the address may be sent more.
        //= W-50
        //# The sender challenges its source with a 48-byte probe.
        datapath
            .send_run(endpoints, 1, |room, _| flow.protocol.seal_probe(token, OVERHEAD_BYTES, wire_us(now_ns), room));
    }

    /// Sends the probes that are due while the path is not open, and opens or reports it when there
    /// is an answer or has been none for long. Returns whether anything was done.
    pub(super) fn probe<D: Datapath>(
        &mut self,
        datapath: &mut D,
        flow: &mut FlowPart<'_>,
        link: &mut LaneLink,
        now_ns: u64,
    ) -> bool {
        let Some(probing) = self.probing.as_mut() else { return false };
        if let Some(best) = probing.found(self.search.common()[0], now_ns) {
            let rtt_us = probing.rtt_us();
            return self.open(best, rtt_us, flow, link, now_ns);
        }
        if !probing.is_answered() && !self.was_open && probing.is_given_up(now_ns) {
            // Reported once; the control process closes the flow, and until then it keeps trying.
            //= W-12
            //# A path that answers no datagram of 560 bytes or more cannot carry data and is closed
            //# with an error message.
            link.emit(&Event::PathClosed { flow: flow.slot, errno: probing.errno() });
        }
        if !probing.begin_round(self.was_open, now_ns) {
            return false;
        }
        let endpoints = Endpoints { to: self.destination.address(), source: self.source.as_ref() };
        //= W-12
        //# A sender opens a flow with probes of common sizes, up to the MTU of its interface
        //# towards the receiver, and starts with the largest size that is answered.
        for (token, &bytes) in self.search.common().iter().enumerate() {
            let outcome = datapath.send_run(endpoints, 1, |room, _| {
                flow.protocol.seal_probe(token as u32, usize::from(bytes), wire_us(now_ns), room)
            });
            // A probe that is too large for this host's interface says nothing about the smaller
            // ones.
            if let Some(errno) = outcome.error.filter(|&errno| errno != libc::EMSGSIZE) {
                probing.on_refused(errno);
                flow.block.set(FlowWord::ProbesMet, u64::try_from(errno).unwrap_or(0));
            }
        }
        true
    }

    /// Datagrams of `best` bytes get through.
    fn open(&mut self, best: u16, rtt_us: u32, flow: &mut FlowPart<'_>, link: &mut LaneLink, now_ns: u64) -> bool {
        let stride = PathMtuSearch::stride_of(best).filter(|&stride| flow.protocol.set_stride(stride).is_ok());
        let Some(stride) = stride else { return false };
        flow.protocol.forget_silence();
        self.was_open = true;
        self.search.opened(best, now_ns);
        self.probing = None;
        link.emit(&Event::PathOpen { flow: flow.slot, stride, rtt_us });
        true
    }

    /// When the search for a larger size sends its next probe.
    #[inline]
    pub(super) const fn search_due_ns(&self) -> u64 {
        self.search.due_ns()
    }

    /// Probes the path for more than it is known to carry, while data move.
    #[cold]
    pub(super) fn search_on<D: Datapath>(
        &mut self,
        datapath: &mut D,
        flow: &mut FlowPart<'_>,
        now_ns: u64,
    ) -> SendOutcome {
        if datapath.is_blocked() {
            return SendOutcome::default();
        }
        let due = self.search.due(now_ns, flow.block.get(FlowWord::SilenceNs));
        let Some(bytes) = due else { return SendOutcome::default() };
        datapath.send_run(self.endpoints(), 1, |room, _| {
            flow.protocol.seal_probe(u32::from(bytes), usize::from(bytes), wire_us(now_ns), room)
        })
    }

    /// Looks for silence of the receiver on an open path.
    pub(super) fn housekeeping(&mut self, flow: &mut FlowPart<'_>, now_ns: u64) {
        if self.probing.is_some() {
            return;
        }
        let patience_ns = patience_ns(flow.block);
        flow.protocol.on_silence(now_ns, patience_ns);
        // The path is dark, or now drops datagrams of this size (a black hole, RFC 8899 section
        // 4.3): probes show which, and what still gets through. Nothing else is sent until one is
        // answered.
        //= W-12
        //# After three unanswered retransmissions, the flow opens again (section 4.3 there).
        let black_hole_ns = (BLACK_HOLE_PATIENCES * patience_ns).max(BLACK_HOLE_NS_MIN);
        if flow.protocol.timeouts() >= BLACK_HOLE_TIMEOUTS || flow.protocol.unanswered_ns(now_ns) > black_hole_ns {
            self.probing = Some(Probing::beginning(now_ns));
            self.search.closed();
        }
    }

    /// When the path next has something to do by itself.
    pub(super) fn due_ns(&self) -> u64 {
        let probe_ns = self.probing.as_ref().map_or(self.search.due_ns(), Probing::due_ns);
        probe_ns.min(self.destination.due_ns())
    }
}

/// How much silence is tolerated: two round trips and a little.
fn patience_ns(block: &FlowBlock) -> u64 {
    match block.get(FlowWord::SilenceNs) {
        0 => SILENCE_NS_DEFAULT,
        patience_ns => patience_ns,
    }
}
