//! The beginning of a receiving transfer: tells the sender what not to send, proves what an earlier
//! attempt stored, and opens the flows.

use std::net::SocketAddr;
use std::time::Instant;

use culvert_link::messages::OpenReceive;
use culvert_model::progress::Phase;
use culvert_plane::{EventSender, ReceiveEvent, WantedFlow};
use culvert_protocol::control::{FLOWS_MAX, FlowOffer, Message, SAME_MODES_ARE_TOLD_SINCE, runs};
use culvert_protocol::dry_run::{self, Finding, Room};

use crate::addresses::canonical;
use crate::error::TransferError;
use crate::events::Event;
use crate::limits::{FLOWS_PER_TRANSFER_AND_LANE, Limit};
use crate::receiving::arriving::Arriving;
use crate::receiving::chunk_hashes::prove_stored_chunks;
use crate::receiving::comparing::prove_old_files;
use crate::receiving::flow_place::Place;
use crate::receiving::inbound::{Inbound, REPORT_INTERVAL_US, ReceivingFlow};
use crate::receiving::job::Job;
use crate::receiving::random::random_u32;
use crate::receiving::storing::Storing;

/// Bits that all flows of a transfer together may keep of its chunks: 64 MiB, which is sixteen
/// flows of 128 TiB in chunks of 4 MiB.
const CHUNK_BITS_MAX: u64 = 64 << 23;

/// Tells the sender what not to send.
///
/// # Errors
/// [`TransferError`] if the connection is closed.
pub(super) async fn tell_plan(job: &Job) -> Result<(), TransferError> {
    //= W-38
    //# Runs in `PlanPart` ascend and do not overlap, including across messages.
    let (writer, intake) = (job.writer(), &job.intake);
    let skipped = runs((0..intake.manifest.len() as u32).filter(|&file| intake.is_skipped(file)));
    for part in skipped.chunks(4_096) {
        writer.send(Message::PlanPart { skipped: part.to_vec() }).await?;
    }
    for part in intake.resumed.chunks(1_000) {
        writer.send(Message::Resumed(part.to_vec())).await?;
    }
    let Some(foretold) = intake.foretold.as_ref().filter(|_| job.context.tells_dry_run()) else {
        return Ok(());
    };
    //= W-58
    //# Before `PlanEnd`, the receiver reports the outcome of each entry and its reason, in runs
    //# that cover the manifest exactly and in order, and then how many bytes are free at the
    //# destination and how many are needed.
    let version = job.context.connection.version;
    let fates = foretold.fates.iter().map(|fate| fate.known_to(version));
    for part in dry_run::runs(fates).chunks(4_096) {
        writer.send(Message::DryRun(Finding::Fates(part.to_vec()))).await?;
    }
    let Room { needed_bytes, free_bytes, needed_inodes: needed, free_inodes: free } = foretold.room;
    writer.send(Message::DryRun(Finding::Room { free_bytes, needed_bytes })).await?;
    if version >= SAME_MODES_ARE_TOLD_SINCE {
        writer.send(Message::DryRun(Finding::Inodes { free, needed })).await?;
    }
    Ok(())
}

/// Proves what an earlier attempt stored and what old files have, opens the flows, and ends the
/// plan.
///
/// # Errors
/// [`TransferError`]: no room for a flow, a dead data plane, a closed connection.
pub(super) async fn open_flows(
    job: &Job,
    inbound: &mut Inbound,
    arriving: &mut Arriving,
    storing: &mut Storing,
    events: &EventSender<ReceiveEvent>,
) -> Result<(), TransferError> {
    prove_stored_chunks(job, arriving, &mut storing.files).await?;
    let compared_bytes = prove_old_files(job, arriving, &mut storing.old).await?;
    for part in arriving.offered().chunks(1_000) {
        job.writer().send(Message::Proofs(part.to_vec())).await?;
    }
    let flows = wanted_flows(job);
    let offers = offer_flows(job, inbound, events, flows).await?;
    if offers.len() < flows {
        job.context.observer.note(Event::LimitReached(Limit::Flows));
    }
    let stored_bytes = job.intake.resumed_bytes + compared_bytes;
    inbound.offered_at = Some(Instant::now());
    job.writer().send(Message::PlanEnd { flows: offers, stored_bytes }).await?;
    inbound.place_flows(&job.context).await?;
    job.context.progress.send_modify(|progress| progress.phase = Phase::Moving);
    Ok(())
}

/// The files without bytes that are sent: they have no chunk.
pub(super) fn empty_files(job: &Job) -> Vec<u32> {
    let intake = &job.intake;
    (0..intake.manifest.len() as u32)
        .filter(|&file| intake.manifest.file_bytes(file) == Some(0) && intake.is_sent(file))
        .collect()
}

/// How many flows the transfer is to have.
fn wanted_flows(job: &Job) -> usize {
    let wanted = match job.context.options.flows {
        0 => job.plane().lanes().len().max(job.context.partner_lane_ports.len().max(1)),
        flows => flows.into(),
    };
    // Each flow keeps a bit for each chunk of the transfer.
    let affordable = (CHUNK_BITS_MAX / u64::from(job.chunk_count.max(1))).max(1) as usize;
    wanted.min(job.chunk_count as usize).min(FLOWS_MAX.into()).min(affordable)
}

/// Opens up to `flows` flows, as many as there is room for.
async fn offer_flows(
    job: &Job,
    inbound: &mut Inbound,
    events: &EventSender<ReceiveEvent>,
    flows: usize,
) -> Result<Vec<FlowOffer>, TransferError> {
    let (plane, context) = (job.plane(), &job.context);
    let (lanes, partner_lanes) = (plane.lanes().len(), context.partner_lane_ports.len().max(1));
    let permitted = flows.min(FLOWS_PER_TRANSFER_AND_LANE * lanes);
    let mut offers = Vec::new();
    for nth in 0..permitted {
        let (lane, partner_lane) = ((nth % lanes) as u16, nth % partner_lanes);
        let tag = inbound.flows.len();
        let wanted = WantedFlow { tag, holder: context.share.holder(), has_others: tag > 0 };
        let slot = match plane.take_receive_slot(lane, wanted, events) {
            Ok(slot) => slot,
            // It has fewer flows, or begins on another lane.
            Err(_) if tag > 0 || nth + 1 < permitted => continue,
            Err(error) => {
                context.observer.note(Event::LimitReached(Limit::Flows));
                return Err(error.into());
            }
        };
        let flow_id = random_u32() & !0xff | u32::from(slot.0);
        let port = context.partner_lane_ports.get(partner_lane).copied().unwrap_or(0);
        let partner = SocketAddr::new(canonical(context.connection.address.ip()), port);
        let place = Place::new(partner, plane.lanes()[usize::from(lane)].port, (nth / lanes) as u32);
        inbound.flows.push(ReceivingFlow::new(flow_id, lane, slot, place));
        let open = OpenReceive {
            lane,
            slot,
            flow_id,
            holder: wanted.holder,
            secret: context.connection.secret.clone(),
            cipher: context.options.cipher,
            partner,
            chunk_count: job.chunk_count,
            chunk_bytes: context.options.chunk_bytes,
            checksum: context.options.checksum,
            interval_us: REPORT_INTERVAL_US,
        };
        if let Err(error) = plane.open_receive(open).await {
            // Its slot may be another's by the time the others are closed.
            inbound.flows.pop();
            return Err(error.into());
        }
        offers.push(FlowOffer { flow_id, receiver_lane: lane, sender_lane: partner_lane as u16 });
    }
    Ok(offers)
}
