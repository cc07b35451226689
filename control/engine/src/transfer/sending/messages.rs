//! What the receiver says while it is sent to.

use std::time::{Duration, Instant};

use culvert_objects::fs::destination::attributes::NotKept;
use culvert_protocol::control::{FileError, Message, NOT_KEPT_LISTED_MAX};

use crate::events::Event;
use crate::transfer::error::TransferError;
use crate::transfer::manifest_exchange::unexpected;
use crate::transfer::sending::payload::Payload;
use crate::transfer::sending::sent::Sent;
use crate::transfer::sending::state::Sending;

impl Sending {
    pub(super) async fn message(&mut self, message: Message, began: Instant) -> Result<Option<Sent>, TransferError> {
        match message {
            Message::Feedback(bytes) => {
                if self.flows.on_report(&bytes)? {
                    self.pace.standstill.note_arrival(self.flows.moved());
                    let rtt = Duration::from_micros(self.flows.newest_rtt_us().into());
                    let pacing = self.flows.pacing_bits_per_second();
                    self.context.observer.note(Event::Reported {
                        partner: &self.context.peer,
                        round_trip: rtt,
                        pacing_bits_per_second: pacing,
                    });
                }
            }
            Message::Stored(stored) => self.note_stored(&stored),
            Message::Pong(_) => {}
            Message::Ping(number) => self.context.connection.writer.send_urgent(Message::Pong(number))?,
            Message::MoveFlow { flow_id, source_port } => self.flows.move_flow(flow_id, source_port)?,
            Message::SendAgain(chunks) => {
                for chunk in chunks {
                    self.asked_again(chunk)?;
                }
            }
            Message::FileRefused(error) => {
                let is_file = matches!(&self.payload, Payload::Files { tree, .. } if (error.file as usize) < tree.listing.manifest.len());
                if is_file && self.failures.failed.insert(error.file) {
                    self.pace.steps += 1;
                    self.take_chunks_back(error.file);
                    self.failures.errors.push(error);
                }
            }
            Message::NotKept { count, first } => self.failures.not_kept = self.check_not_kept(count, first)?,
            Message::Finished { line, signature, summary } => {
                return self.finish(&line, &signature, &summary, began).await.map(Some);
            }
            Message::Refused(refusal) => return Err(TransferError::Partner(refusal)),
            other => return Err(unexpected(&other, "feedback")),
        }
        Ok(None)
    }

    /// What the receiver says that it could not keep, if that can be.
    fn check_not_kept(&self, count: u64, first: Vec<FileError>) -> Result<NotKept, TransferError> {
        let entries = match &self.payload {
            Payload::Files { tree, .. } => tree.listing.manifest.len(),
            Payload::Memory { .. } => 0,
        };
        let is_possible = count <= entries as u64
            && first.len() <= NOT_KEPT_LISTED_MAX
            && first.len() as u64 <= count
            && first.iter().all(|entry| (entry.file as usize) < entries);
        if is_possible {
            return Ok(NotKept { count, first });
        }
        Err(TransferError::protocol("it reports refused attributes of more files than it names or has"))
    }
}
