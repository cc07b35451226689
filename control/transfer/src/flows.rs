//! The sending flows of a transfer: opened, paced by their controllers, and loaded with chunks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use culvert_link::clock::{monotonic_ns, wire_us};
use culvert_link::commands::{ASSIGNED_MAX, Command, IP_UDP_BYTES, SendSlot, Source};
use culvert_link::counters::{FlowBlock, FlowWord};
use culvert_link::messages::OpenSend;
use culvert_link::path_mtu::mtu_min;
use culvert_plane::placement::SOURCE_PORTS;
use culvert_plane::{DataPlane, DataPlaneError, EventSender, SendEvent, WantedFlow};
use culvert_protocol::control::{FLOWS_MAX, FlowOffer, RefusalCode, SenderSummary};
use culvert_protocol::feedback::{Report, Summary};
use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;
use culvert_protocol::rate_control::{ControllerConfig, Observation, RateController, RateLimit, controller};
use culvert_protocol::verdict::SenderTimes;
use culvert_protocol::wire::OVERHEAD_BYTES;
use hdrhistogram::Histogram;

use crate::TransferContext;
use crate::addresses::canonical;
use crate::error::TransferError;
use crate::events::Event;
use crate::limits::{FLOWS_PER_TRANSFER_AND_LANE, Limit};
use crate::udp_path::ClosedPath;

/// Datagram sizes that a path is probed with below the interface's own: Ethernet's jumbo and
/// standard frames, what every IPv6 path must carry, and the least that carries data, for IPv4's
/// narrow paths.
const PROBED_DATAGRAM_BYTES: [u16; 5] = [8_972, 4_052, 1_472, 1_232, DATAGRAM_BYTES_MIN];
/// A receiver asks for another source port this often at most for one flow.
const MOVES_MAX: u32 = 64;
/// A flow that has this many chunks assigned is far from idle, even if each is delivered at once.
const ASSIGNED_LEAST: usize = 2;

/// One sending flow.
#[derive(Debug)]
pub struct SendingFlow {
    id: u32,
    lane: u16,
    /// The partner's.
    port: u16,
    slot: SendSlot,
    block: FlowBlock,
    controller: Option<Box<dyn RateController>>,
    /// Chunks assigned and not delivered.
    pub outstanding: usize,
    stride: u16,
    last: LastReport,
    moves: u32,
    is_closed: bool,
}

/// What a flow's last report said, and what its lane had done by then.
#[derive(Debug)]
struct LastReport {
    summary: Summary,
    pacing_ns: u64,
    at_ns: u64,
}

impl LastReport {
    /// A report comes at `now_ns`, when the lane has paced for `pacing_ns` in all: how much of the
    /// time since the last one it has paced, in parts per thousand.
    fn paced_permille(&mut self, pacing_ns: u64, now_ns: u64) -> u32 {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns).max(1);
        let paced_ns = pacing_ns.saturating_sub(self.pacing_ns).min(elapsed_ns);
        (self.pacing_ns, self.at_ns) = (pacing_ns, now_ns);
        (paced_ns * 1_000 / elapsed_ns) as u32
    }
}

impl SendingFlow {
    fn new(id: u32, lane: u16, port: u16, slot: SendSlot, block: FlowBlock) -> Self {
        Self {
            id,
            lane,
            port,
            slot,
            block,
            controller: None,
            outstanding: 0,
            stride: 0,
            last: LastReport { summary: Summary::default(), pacing_ns: 0, at_ns: monotonic_ns() },
            moves: 0,
            is_closed: false,
        }
    }
}

/// How far flows are.
#[derive(Clone, Copy, Debug, Default)]
pub struct FlowProgress {
    /// Payload bytes sent, the repeated ones too.
    pub sent_bytes: u64,
    /// Time that they waited for a disk, the source's or the receiver's.
    pub waited: Duration,
}

/// The flows of a transfer.
#[derive(Debug)]
pub struct SendingFlows {
    plane: Arc<DataPlane>,
    flows: Vec<SendingFlow>,
    options: culvert_protocol::control::Options,
    start_bits_per_second: Option<u64>,
    rtt_us: Histogram<u64>,
    newest_rtt_us: u32,
    capped_reports: u64,
    reports: u64,
}

impl SendingFlows {
    /// Opens a flow for each offer.
    ///
    /// # Errors
    /// [`TransferError`]: an offer that cannot be, no room, a dead data plane.
    pub async fn open(
        context: &TransferContext,
        offers: &[FlowOffer],
        events: &EventSender<SendEvent>,
    ) -> Result<Self, TransferError> {
        let mut opened = Self {
            plane: context.plane.clone(),
            flows: Vec::new(),
            options: context.options,
            start_bits_per_second: context.start_bits_per_second,
            // Three digits from a microsecond to ten minutes.
            rtt_us: Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are in order"),
            newest_rtt_us: 0,
            capped_reports: 0,
            reports: 0,
        };
        if offers.len() > usize::from(FLOWS_MAX) {
            return Err(TransferError::protocol("it offers more flows than a transfer may have"));
        }
        if context.datagram_bytes_max < DATAGRAM_BYTES_MIN {
            let partner = canonical(context.connection.address.ip());
            return Err(link_too_narrow(partner, context.datagram_bytes_max));
        }
        let mut refused = None;
        for offer in offers {
            match opened.take_up(context, offer, events)? {
                Ok(open) => {
                    if let Err(error) = context.plane.open_send(open).await {
                        // Its slot may be another's by the time the others are closed.
                        opened.flows.pop();
                        return Err(error.into());
                    }
                }
                // An offer that is not taken up stays unused: the receiver needs no segment of each
                // flow.
                Err(error) => refused = Some(error),
            }
        }
        match refused {
            Some(error) => {
                context.observer.note(Event::LimitReached(Limit::Flows));
                if opened.flows.is_empty() { Err(error.into()) } else { Ok(opened) }
            }
            None => Ok(opened),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.flows.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// A flow's path is open: its controller begins.
    pub fn path_open(&mut self, tag: usize, stride: u16, rtt_us: u32) {
        let flows = self.flows.len() as u64;
        let flow = &mut self.flows[tag];
        flow.stride = stride;
        // A path that was probed again has another size; its controller continues.
        if flow.controller.is_some() {
            return;
        }
        let cap = self.options.rate_bits_per_second.map(|rate| rate / flows);
        let controller = controller(&ControllerConfig {
            mode: self.options.mode,
            cap_bits_per_second: cap,
            start_bits_per_second: self.start_bits_per_second.map(|rate| rate / flows),
            rtt_ns: u64::from(rtt_us) * 1_000,
            stride,
        });
        flow.block.set(FlowWord::RateBitsPerSecond, controller.rate_bits_per_second());
        flow.block.set(FlowWord::SilenceNs, silence_ns(u64::from(rtt_us) * 1_000));
        flow.controller = Some(controller);
        flow.stride = stride;
        self.newest_rtt_us = rtt_us;
    }

    /// Whether a flow's path was open.
    #[must_use]
    pub fn was_open(&self, tag: usize) -> bool {
        self.flows.get(tag).is_some_and(|flow| flow.controller.is_some())
    }

    /// The partner's ports that no flow has reached yet.
    #[must_use]
    pub fn unreached_ports(&self) -> Vec<u16> {
        self.flows.iter().filter(|flow| flow.controller.is_none()).map(|flow| flow.port).collect()
    }

    /// What the lanes' probes have met with so far, as an error of the operating system; 0 for
    /// silence.
    #[must_use]
    pub fn probes_met(&self) -> i32 {
        let met = self.flows.iter().map(|flow| flow.block.get(FlowWord::ProbesMet)).find(|&errno| errno != 0);
        i32::try_from(met.unwrap_or(0)).unwrap_or(0)
    }

    /// Whether any datagram of the receiver's has come.
    #[must_use]
    pub fn were_heard(&self) -> bool {
        self.sum(FlowWord::Heard) > 0
    }

    /// The flow that should get the next chunk: the one with the least to do, if any has room.
    /// `left` chunks are not assigned yet; towards the end each flow gets only its share, so that
    /// none is left with more than the others.
    #[must_use]
    pub fn with_room(&self, left: usize) -> Option<usize> {
        let limit = left.div_ceil(self.flows.len().max(1)).clamp(ASSIGNED_LEAST, ASSIGNED_MAX);
        let ready = self.flows.iter().enumerate().filter(|(_, flow)| flow.controller.is_some());
        let (tag, flow) = ready.min_by_key(|(_, flow)| flow.outstanding)?;
        (flow.outstanding < limit).then_some(tag)
    }

    /// Assigns a chunk to a flow.
    pub fn assign(&mut self, tag: usize, chunk: u32, chunk_bytes: u32, source: Source) {
        let flow = &mut self.flows[tag];
        flow.outstanding += 1;
        self.plane.command(flow.lane, &Command::Send { flow: flow.slot, chunk, chunk_bytes, source });
    }

    /// The receiver wants a flow sent from another port.
    ///
    /// # Errors
    /// [`TransferError`] for a port that it may not ask for. A flow that is not there is ignored.
    pub fn move_flow(&mut self, flow_id: u32, source_port: u16) -> Result<(), TransferError> {
        //= W-48
        //# A sender that cannot get the port, or has been asked more than 64 times, continues on
        //# its current port.
        if !SOURCE_PORTS.contains(&source_port) {
            return Err(TransferError::protocol(format!("it wants a flow sent from port {source_port}")));
        }
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.id == flow_id && flow.moves < MOVES_MAX) else {
            return Ok(());
        };
        flow.moves += 1;
        Ok(self.plane.move_send(flow.lane, flow.slot, source_port)?)
    }

    /// Takes a chunk back from a flow.
    pub fn withdraw(&self, tag: usize, chunk: u32) {
        let flow = &self.flows[tag];
        self.plane.command(flow.lane, &Command::Withdraw { flow: flow.slot, chunk });
    }

    /// A chunk of a flow is delivered or given up.
    pub fn settled(&mut self, tag: usize) {
        self.flows[tag].outstanding = self.flows[tag].outstanding.saturating_sub(1);
    }

    /// The lane of a flow.
    #[must_use]
    pub fn lane(&self, tag: usize) -> u16 {
        self.flows[tag].lane
    }

    /// A report of the partner: proved, observed, and passed on to the lane. True if it brought a
    /// new round trip.
    ///
    /// # Errors
    /// [`TransferError`] if it is malformed. One for a flow that is not there is ignored.
    pub fn on_report(&mut self, bytes: &[u8]) -> Result<bool, TransferError> {
        //= W-26
        //# A report that breaks a rule ends the transfer; no part of the report is used.
        let report = Report::parse(bytes).map_err(|error| TransferError::protocol(error.to_string()))?;
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.id == report.summary.flow_id) else { return Ok(false) };
        self.plane.command(flow.lane, &Command::Report { flow: flow.slot, bytes });
        let Some(controller) = flow.controller.as_mut() else { return Ok(false) };
        let now_ns = monotonic_ns();
        let lost = report.lost().fold(0u64, |sum, range| sum.saturating_add(range.count));
        let summary = report.summary;
        let paced_permille = flow.last.paced_permille(flow.block.get(FlowWord::PacingNs), now_ns);
        let observation = observe(&summary, &flow.last.summary, lost, now_ns, paced_permille);
        if observation.delivered_packets > 0 {
            let rtt_us = (observation.rtt_ns / 1_000).clamp(1, 600_000_000);
            self.rtt_us.saturating_record(rtt_us);
            self.newest_rtt_us = rtt_us as u32;
            flow.block.set(FlowWord::SilenceNs, silence_ns(observation.rtt_ns));
        }
        flow.last.summary = summary;
        controller.observe(&observation);
        flow.block.set(FlowWord::RateBitsPerSecond, controller.rate_bits_per_second());
        self.reports += 1;
        self.capped_reports += u64::from(controller.limit() == RateLimit::Cap);
        Ok(observation.delivered_packets > 0)
    }

    /// The pacing rate of all flows together.
    #[must_use]
    pub fn pacing_bits_per_second(&self) -> u64 {
        self.flows
            .iter()
            .filter_map(|flow| flow.controller.as_ref())
            .map(|controller| controller.rate_bits_per_second())
            .sum()
    }

    /// The newest round trip.
    #[must_use]
    pub const fn newest_rtt_us(&self) -> u32 {
        self.newest_rtt_us
    }

    /// Payload bytes that the reports say have come, without those that had come before.
    #[must_use]
    pub fn arrived_bytes(&self) -> u64 {
        let of = |summary: &Summary| summary.bytes.saturating_sub(summary.duplicate_bytes);
        self.flows.iter().fold(0, |sum, flow| sum.saturating_add(of(&flow.last.summary)))
    }

    /// How far the flows are: little enough to be asked for with every report.
    #[must_use]
    pub fn moved(&self) -> FlowProgress {
        let stride = self.flows.iter().map(|flow| flow.stride).max().unwrap_or(0);
        FlowProgress {
            sent_bytes: self.sum(FlowWord::SegmentsSent).saturating_mul(stride.into()),
            waited: Duration::from_nanos(self.sum(FlowWord::ReadingNs).saturating_add(self.sum(FlowWord::CreditNs))),
        }
    }

    /// What the flows have done so far.
    #[must_use]
    pub fn summary(&self) -> SenderSummary {
        let sum = |word| self.sum(word);
        let quantile = |quantile| self.rtt_us.value_at_quantile(quantile).min(u64::from(u32::MAX)) as u32;
        let least =
            if self.rtt_us.is_empty() { self.newest_rtt_us } else { self.rtt_us.min().min(u64::from(u32::MAX)) as u32 };
        SenderSummary {
            segments_sent: sum(FlowWord::SegmentsSent),
            segments_resent: sum(FlowWord::SegmentsResent),
            segment_bytes: self.flows.iter().map(|flow| flow.stride).max().unwrap_or(0),
            times: SenderTimes {
                busy_ns: sum(FlowWord::BusyNs),
                reading_ns: sum(FlowWord::ReadingNs),
                pacing_ns: sum(FlowWord::PacingNs),
                credit_ns: sum(FlowWord::CreditNs),
            },
            rate_was_asked_for: self.capped_reports * 2 > self.reports,
            rtt_us: [least, quantile(0.5), quantile(0.99)],
            cpu_us: 0,
            millicycles_per_byte: 0,
            problems: 0,
        }
    }

    /// Closes the flows. Their slots are free when the lanes say so.
    pub fn close(&mut self) {
        for flow in self.flows.iter_mut().filter(|flow| !flow.is_closed) {
            flow.is_closed = true;
            self.plane.command(flow.lane, &Command::CloseSend { flow: flow.slot });
        }
    }

    /// Takes a slot for a flow that is offered, if there is one: what its lane opens it with.
    ///
    /// # Errors
    /// [`TransferError`]: an offer that cannot be.
    fn take_up(
        &mut self,
        context: &TransferContext,
        offer: &FlowOffer,
        events: &EventSender<SendEvent>,
    ) -> Result<Result<OpenSend, DataPlaneError>, TransferError> {
        let lane = offer.sender_lane;
        let port = context.partner_lane_ports.get(usize::from(offer.receiver_lane)).copied();
        let (Some(port), true) = (port, usize::from(lane) < self.plane.lanes().len()) else {
            return Err(TransferError::protocol("it offers a flow on a lane that does not exist"));
        };
        let tag = self.flows.len();
        let of_lane = self.flows.iter().filter(|flow| flow.lane == lane).count();
        let wanted = WantedFlow { tag, holder: context.share.holder(), has_others: tag > 0 };
        if of_lane >= FLOWS_PER_TRANSFER_AND_LANE {
            return Ok(Err(DataPlaneError::NoRoom("flow of this transfer")));
        }
        let slot = match self.plane.take_send_slot(lane, wanted, events) {
            Ok(slot) => slot,
            Err(error) => return Ok(Err(error)),
        };
        let block = self.plane.flow_block(lane, slot);
        self.flows.push(SendingFlow::new(offer.flow_id, lane, port, slot, block));
        //= W-49
        //# A flow's initial destination is the address of the control connection's peer, which the
        //# TCP handshake has proved, with the UDP port that the peer named.
        let partner = SocketAddr::new(canonical(context.connection.address.ip()), port);
        Ok(Ok(OpenSend {
            lane,
            slot,
            flow_id: offer.flow_id,
            holder: wanted.holder,
            secret: context.connection.secret.clone(),
            cipher: context.options.cipher,
            partner,
            probe_datagram_bytes: probe_sizes(context.datagram_bytes_max),
            chunk_bytes: context.options.chunk_bytes,
            checksum: context.options.checksum,
        }))
    }

    /// What lanes count of all flows together. They write it into memory of their own.
    fn sum(&self, word: FlowWord) -> u64 {
        self.flows.iter().fold(0, |sum, flow| sum.saturating_add(flow.block.get(word)))
    }
}

impl Drop for SendingFlows {
    fn drop(&mut self) {
        self.close();
    }
}

/// The information that a report gives a controller.
#[must_use]
pub fn observe(now: &Summary, before: &Summary, lost: u64, now_ns: u64, paced_permille: u32) -> Observation {
    let packets = now.packets.saturating_sub(before.packets);
    let bytes = now.bytes.saturating_sub(before.bytes);
    // The pacer counts whole IP packets, so the delivery rate must too.
    let headers = packets.saturating_mul((OVERHEAD_BYTES + IP_UDP_BYTES) as u64);
    let rtt_us = wire_us(now_ns).wrapping_sub(now.echo_us).wrapping_sub(now.hold_us);
    // An echo from the future, or from an hour ago, is a lie or a wrapped clock.
    let rtt_us = if rtt_us < 600_000_000 { rtt_us } else { 0 };
    Observation {
        now_ns,
        rtt_ns: if packets > 0 { u64::from(rtt_us) * 1_000 } else { 0 },
        delay_min_us: now.delay_min_us,
        interval_us: now.interval_us,
        delivered_bytes: bytes.saturating_add(headers),
        delivered_packets: packets,
        lost_packets: lost,
        busy_permille: now.busy_permille,
        paced_permille,
    }
}

/// Refuses a path that nothing gets through, or nothing that carries data.
#[must_use]
pub fn path_closed(context: &TransferContext, flows: &SendingFlows, errno: i32) -> TransferError {
    if errno == rustix::io::Errno::MSGSIZE.raw_os_error() {
        return path_too_narrow(canonical(context.connection.address.ip()));
    }
    TransferError::Closed(
        ClosedPath::to_partner(context, flows.unreached_ports(), flows.were_heard()).because(errno).to_string(),
    )
}

/// After how much silence the last segment goes again: reports come at least every quarter of a
/// round trip or 2 ms, so twice the round trip and a little is silence.
const fn silence_ns(rtt_ns: u64) -> u64 {
    2 * rtt_ns + 10_000_000
}

/// The sizes to probe, descending, none above what the interfaces carry.
fn probe_sizes(datagram_bytes_max: u16) -> Vec<u16> {
    let mut sizes = vec![datagram_bytes_max];
    sizes.extend(PROBED_DATAGRAM_BYTES.into_iter().filter(|&size| size < datagram_bytes_max));
    sizes
}

/// Refuses a link that no segment gets through.
fn link_too_narrow(partner: IpAddr, datagram_bytes: u16) -> TransferError {
    TransferError::here(
        RefusalCode::Failed,
        format!(
            "the interface towards {partner}, here or there, carries datagrams of {datagram_bytes} \
             bytes, but data needs {DATAGRAM_BYTES_MIN}: give it an MTU of {} or more ('ip link set dev NAME mtu {}')",
            mtu_min(partner),
            if partner.is_ipv6() { 1_280 } else { 1_500 },
        ),
    )
}

fn path_too_narrow(address: IpAddr) -> TransferError {
    TransferError::here(
        RefusalCode::Failed,
        format!(
            "the data path to {address} delivers only datagrams of less than {DATAGRAM_BYTES_MIN} \
             bytes, too small to carry data: look for a link between the nodes with an MTU below {} \
             ('culvert path check' measures the path's MTU)",
            mtu_min(address),
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_to_probe_descend_from_the_interfaces_own() {
        assert_eq!(probe_sizes(8_972), [8_972, 4_052, 1_472, 1_232, 560]);
        assert_eq!(probe_sizes(1_452), [1_452, 1_232, 560]);
        assert_eq!(probe_sizes(560), [560]);
        assert_eq!(probe_sizes(65_473)[..2], [65_473, 8_972]);
    }

    #[test]
    fn what_is_too_narrow_is_a_sentence_with_a_remedy() {
        for (address, least) in [("10.0.0.1", "588"), ("fd00::1", "608")] {
            let address = address.parse().unwrap();
            for error in [link_too_narrow(address, 100), path_too_narrow(address)] {
                let (text, temporary) = (error.to_string(), error.is_worth_another_try());
                assert!(text.contains(&address.to_string()) && text.contains(least) && text.contains("560"), "{text}");
                assert!(!temporary, "another try does not widen it: {text}");
            }
        }
    }

    #[test]
    fn an_echo_from_the_future_has_no_round_trip() {
        let summary = Summary { packets: 1, echo_us: 5_000, ..Summary::default() };
        assert_eq!(observe(&summary, &Summary::default(), 0, 1_000_000, 0).rtt_ns, 0);
        let summary = Summary { packets: 1, echo_us: 500, hold_us: 100, ..Summary::default() };
        assert_eq!(observe(&summary, &Summary::default(), 0, 1_000_000, 0).rtt_ns, 400_000);
    }
}
