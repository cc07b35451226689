//! How a receiving transfer begins: the sender learns what need not be sent, what an earlier
//! attempt stored is proved, and the flows are opened.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Instant;

use culvert_link::commands::{FileRange, FileSlot};
use culvert_link::messages::OpenReceive;
use culvert_model::progress::Phase;
use culvert_plane::dataplane::{EventSender, ReceiveEvent, WantedFlow};
use culvert_protocol::chunk_map::ChunkContent;
use culvert_protocol::control::{FlowOffer, Message, SAME_MODES_ARE_TOLD_SINCE, runs};
use culvert_protocol::dry_run::{self, Finding, Room};
use culvert_protocol::tree_hash::ChunkHash;
use tokio::task::JoinSet;

use crate::events::Event;
use crate::limits::{FLOWS_PER_TRANSFER_AND_LANE, Limit};
use crate::shares::Kind;
use crate::transfer::addresses::canonical;
use crate::transfer::error::TransferError;
use crate::transfer::receiving::flow_place::Place;
use crate::transfer::receiving::inbound::{REPORT_INTERVAL_US, ReceivingFlow};
use crate::transfer::receiving::open_file::{self, InitialContent};
use crate::transfer::receiving::random::random_u32;
use crate::transfer::receiving::state::Receiving;

/// Bits that all flows of a transfer together may keep of its chunks: 64 MiB, which is sixteen
/// flows of 128 TiB in chunks of 4 MiB.
const CHUNK_BITS_MAX: u64 = 64 << 23;
/// Chunks that each lane reads back and hashes at once.
const CHECKS_PER_LANE: usize = 4;

impl Receiving {
    /// Tells the sender what need not be sent.
    pub(super) async fn tell_plan(&mut self) -> Result<(), TransferError> {
        let writer = self.context.connection.writer.clone();
        let skipped = runs((0..self.intake.manifest.len() as u32).filter(|&file| self.intake.is_skipped(file)));
        for part in skipped.chunks(4_096) {
            writer.send(Message::PlanPart { skipped: part.to_vec() }).await?;
        }
        for part in self.intake.resumed.chunks(1_000) {
            writer.send(Message::Resumed(part.to_vec())).await?;
        }
        let Some(foretold) = self.intake.foretold.as_ref().filter(|_| self.context.tells_dry_run()) else {
            return Ok(());
        };
        let version = self.context.connection.version;
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

    /// Proves what an earlier attempt stored, and opens the flows.
    pub(super) async fn open_flows(&mut self, events: &EventSender<ReceiveEvent>) -> Result<(), TransferError> {
        self.prove_stored_chunks().await?;
        let offered_bytes = self.prove_old_files().await?;
        let proofs: Vec<(u32, ChunkHash)> = self.arriving.offered.iter().map(|(&chunk, &hash)| (chunk, hash)).collect();
        for part in proofs.chunks(1_000) {
            self.context.connection.writer.send(Message::Proofs(part.to_vec())).await?;
        }
        let plane = self.context.plane.clone();
        let lanes = plane.lanes().len();
        let partner_lanes = self.context.partner_lane_ports.len().max(1);
        let wanted = match self.context.options.flows {
            0 => lanes.max(partner_lanes),
            flows => flows.into(),
        };
        // Each flow keeps a bit for each chunk of the transfer.
        let affordable = (CHUNK_BITS_MAX / u64::from(self.arriving.chunk_count.max(1))).max(1) as usize;
        let flows = wanted
            .min(self.arriving.chunk_count as usize)
            .min(culvert_protocol::control::FLOWS_MAX.into())
            .min(affordable);
        let permitted = flows.min(FLOWS_PER_TRANSFER_AND_LANE * lanes);
        let mut offers = Vec::new();
        for nth in 0..permitted {
            let (lane, partner_lane) = ((nth % lanes) as u16, nth % partner_lanes);
            let tag = self.inbound.flows.len();
            let wanted = WantedFlow { tag, holder: self.context.share.holder(), has_others: tag > 0 };
            let slot = match plane.take_receive_slot(lane, wanted, events) {
                Ok(slot) => slot,
                // It has fewer flows, or begins on another lane.
                Err(_) if tag > 0 || nth + 1 < permitted => continue,
                Err(error) => {
                    self.context.observer.note(Event::LimitReached(Limit::Flows));
                    return Err(error.into());
                }
            };
            let id = random_u32() & !0xff | u32::from(slot.0);
            let port = self.context.partner_lane_ports.get(partner_lane).copied().unwrap_or(0);
            let partner = SocketAddr::new(canonical(self.context.connection.address.ip()), port);
            let place = Place::new(partner, plane.lanes()[usize::from(lane)].port, (nth / lanes) as u32);
            self.inbound.flows.push(ReceivingFlow { id, lane, slot, place });
            self.inbound.new_bytes.push(0);
            self.inbound.opening.push(Default::default());
            self.inbound.report_delays.push(Default::default());
            let open = OpenReceive {
                lane,
                slot,
                flow_id: id,
                holder: wanted.holder,
                secret: self.context.connection.secret.clone(),
                cipher: self.context.options.cipher,
                partner,
                chunk_count: self.arriving.chunk_count,
                chunk_bytes: self.context.options.chunk_bytes,
                checksum: self.context.options.checksum,
                interval_us: REPORT_INTERVAL_US,
            };
            plane.open_receive(open).await?;
            offers.push(FlowOffer { flow_id: id, receiver_lane: lane, sender_lane: partner_lane as u16 });
        }
        if offers.len() < flows {
            self.context.observer.note(Event::LimitReached(Limit::Flows));
        }
        let stored_bytes = self.intake.resumed_bytes + offered_bytes;
        self.inbound.offered_at = Some(Instant::now());
        self.context.connection.writer.send(Message::PlanEnd { flows: offers, stored_bytes }).await?;
        self.inbound.place_flows(&self.context).await?;
        self.context.progress.send_modify(|progress| progress.phase = Phase::Moving);
        Ok(())
    }

    /// Reads the chunks that an earlier attempt stored and keeps those that still have their hash.
    async fn prove_stored_chunks(&mut self) -> Result<(), TransferError> {
        let intake = self.intake.clone();
        let first_chunks: HashMap<u32, u32> = self.arriving.chunks.files().collect();
        for begun in &intake.begun {
            let Some(&first) = first_chunks.get(&begun.file) else { continue };
            let (left, place) = (InitialContent::Left(begun.left), self.context.share.piece(Kind::Files));
            let opened =
                open_file::open_in_directory(&self.context.plane, intake.clone(), begun.file, left, place).await;
            let Ok(opened) = opened else { continue };
            let chunks: Vec<u32> = begun.chunks.iter().map(|&(part, _)| first + part as u32).collect();
            let then: HashMap<u32, ChunkHash> =
                begun.chunks.iter().filter_map(|&(part, hash)| Some((first + part as u32, hash?))).collect();
            let now = self.hash_chunks(opened.slot(), chunks.into_iter()).await?;
            self.arriving.offered.extend(now.into_iter().filter(|(chunk, hash)| then.get(chunk) == Some(hash)));
            self.files.leave(begun.file, opened.left());
            tokio::task::spawn_blocking(move || drop(opened));
        }
        Ok(())
    }

    /// Reads chunks of an open file back and hashes them, on all lanes at once. Those that cannot
    /// be read are left out.
    pub(super) async fn hash_chunks(
        &self,
        slot: FileSlot,
        mut chunks: impl Iterator<Item = u32>,
    ) -> Result<Vec<(u32, ChunkHash)>, TransferError> {
        let plane = &self.context.plane;
        let (lanes, chunk_bytes) = (plane.lanes().len(), self.context.options.chunk_bytes);
        let (mut running, mut hashed) = (JoinSet::new(), Vec::new());
        loop {
            while running.len() < CHECKS_PER_LANE * lanes
                && let Some(chunk) = chunks.next()
            {
                let Some(ChunkContent::Range { file, offset, bytes, .. }) = self.arriving.chunks.content(chunk) else {
                    continue;
                };
                let file_bytes = self.intake.manifest.file_bytes(file).unwrap_or(0);
                let (plane, range) = (plane.clone(), FileRange { file: slot, offset, file_bytes });
                let lane = (chunk as usize % lanes) as u16;
                running.spawn(async move { (chunk, plane.check(lane, range, bytes, chunk_bytes).await) });
            }
            match running.join_next().await {
                None => return Ok(hashed),
                Some(Ok((chunk, checked))) => hashed.extend(checked?.ok().map(|hash| (chunk, hash))),
                Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
            }
        }
    }

    /// Empty files have no chunk: they are made at once.
    pub(super) fn store_empty_files(&mut self) {
        let empty: Vec<u32> = (0..self.intake.manifest.len() as u32)
            .filter(|&file| self.intake.manifest.file_bytes(file) == Some(0) && self.intake.is_sent(file))
            .collect();
        if self.intake.sink.is_some() {
            return self.put_empty(empty);
        }
        for part in empty.chunks(1_024) {
            self.committing.committer.store_empty(part.to_vec());
        }
    }
}
