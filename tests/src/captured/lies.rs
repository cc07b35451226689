//! Single lies of an otherwise honest data plane, each told at the first opportunity.

use std::time::Duration;

use culvert_link::commands::{DiskError, Event, FileSlot, ReceiveSlot, SendSlot, Sink, Source};
use culvert_link::messages::FromDataPlane;

use super::plane::{Plane, Task};
use super::truth::CHUNK_BYTES;

/// Longer than the interval at which the control process looks at its transfers.
const LOOKED_AT: Duration = Duration::from_millis(700);

/// A lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// A chunk is written with a hash in a transfer without hashes, or without one in a transfer
    /// with.
    WrittenWithoutHash,
    /// A chunk is written with a hash that does not match its bytes.
    WrittenWithOtherHash,
    /// A chunk is written before its place is known.
    WrittenUnplaced,
    /// A chunk is reported as written twice.
    WrittenTwice,
    /// A chunk with this number is reported as written.
    WrittenBeyond(u32),
    /// A pack is reported as written.
    PackWritten,
    /// A pack could not be written.
    PackWriteFailed,
    /// A pack is handed over with different bytes.
    PackOfOtherBytes,
    /// A pack is handed over twice.
    HandedTwice,
    /// A pack is handed over in the buffer with this number, with this many bytes more than it has.
    Handed(u32, i32),
    /// A flow that was not opened asks for a placement.
    AskedByFlow(u16),
    /// It asks for a chunk this many numbers past the last.
    AskedBeyond(u32),
    /// It asks for a chunk of this many bytes.
    AskedWithBytes(u32),
    /// It asks for a chunk twice.
    AskedTwice,
    /// A flow reports that it has received more than there is.
    ReportedTooMuch,
    /// An event of the other direction is sent.
    OtherEnd,
    /// A flow is reported as closed.
    Closed,
    /// A file that it was never given is reported as open, and so are flows.
    Opened,
    /// A file that it was given is reported as not open.
    NotOpened,
    /// The link is closed.
    Left,
    /// A ring holds something that is not an event.
    NoEvent,
    /// Counters and times are at their maximum.
    Counted,
    /// A chunk is delivered without a hash, or with one in a transfer without hashes.
    DeliveredWithoutHash,
    /// A chunk is delivered with a wrong hash.
    DeliveredWithOtherHash,
    /// A chunk is delivered twice.
    DeliveredTwice,
    /// A chunk with this number is delivered.
    DeliveredBeyond(u32),
    /// A chunk is hashed twice.
    HashedTwice,
    /// A pack is hashed.
    PackHashed,
    /// A pack is delivered that was not filled.
    DeliveredUnfilled,
    /// It asks for a pack to be filled twice.
    FilledTwice,
    /// It asks for a chunk of a file to be filled.
    FileFilled,
    /// A chunk is reported as withdrawn that nobody withdrew.
    Withdrawn,
    /// A pack cannot be read.
    PackUnread,
    /// A file cannot be read.
    FileUnread,
    /// A path that was open is reported as closed.
    PathClosed,
}

/// A chunk that is waiting to be received.
#[derive(Clone, Copy)]
struct Receiving {
    lane: usize,
    flow: ReceiveSlot,
    chunk: u32,
}

/// A chunk that is waiting to be sent.
#[derive(Clone, Copy)]
struct Sending {
    lane: usize,
    flow: SendSlot,
    chunk: u32,
}

impl Lie {
    /// Tells it if there is an opportunity; returns whether there was.
    pub(super) fn tell(self, plane: &mut Plane) -> bool {
        self.try_tell(plane).is_some()
    }

    fn try_tell(self, plane: &mut Plane) -> Option<()> {
        match self {
            Self::WrittenWithoutHash
            | Self::WrittenWithOtherHash
            | Self::WrittenUnplaced
            | Self::WrittenTwice
            | Self::WrittenBeyond(_) => self.tell_written(plane),
            Self::PackWritten
            | Self::PackWriteFailed
            | Self::PackOfOtherBytes
            | Self::HandedTwice
            | Self::Handed(..) => self.tell_handed(plane),
            Self::AskedByFlow(_)
            | Self::AskedBeyond(_)
            | Self::AskedWithBytes(_)
            | Self::AskedTwice
            | Self::ReportedTooMuch => self.tell_asked(plane),
            Self::OtherEnd
            | Self::Closed
            | Self::Opened
            | Self::NotOpened
            | Self::Left
            | Self::NoEvent
            | Self::Counted => self.tell_at_any_time(plane),
            Self::DeliveredUnfilled | Self::FilledTwice | Self::PackHashed | Self::PackUnread => {
                self.tell_of_pack(plane)
            }
            _ => self.tell_of_file(plane),
        }
    }

    fn tell_written(self, plane: &mut Plane) -> Option<()> {
        if self == Self::WrittenUnplaced {
            // Chunk 0 belongs to a file that is not open yet.
            let &(lane, flow, _) = plane.receives.first()?;
            let chunk_bytes = plane.truth.chunk_contents[0].len() as u32;
            plane.asked.insert(0);
            plane.emit(lane, &Event::PlacementNeeded { flow, chunk: 0, chunk_bytes });
            let hash = plane.has_hashes.then(|| plane.hash_of(0));
            plane.emit(lane, &Event::Written { flow, chunk: 0, hash, times: Default::default() });
            return Some(());
        }
        let Receiving { lane, flow, chunk } = received(plane, |sink| matches!(sink, Sink::File(_)))?;
        let times = Default::default();
        let hash = plane.has_hashes.then(|| plane.hash_of(chunk));
        match self {
            Self::WrittenWithoutHash => {
                let hash = if plane.has_hashes { None } else { Some(plane.hash_of(chunk)) };
                plane.emit(lane, &Event::Written { flow, chunk, hash, times });
            }
            Self::WrittenWithOtherHash => {
                plane.take_task(chunk);
                let hash = hash.map(|hash| hash.map(|byte| !byte));
                plane.emit(lane, &Event::Written { flow, chunk, hash, times });
            }
            Self::WrittenBeyond(chunk) => plane.emit(lane, &Event::Written { flow, chunk, hash, times }),
            _ => {
                plane.work_on(chunk);
                plane.emit(lane, &Event::Written { flow, chunk, hash, times });
            }
        }
        Some(())
    }

    fn tell_handed(self, plane: &mut Plane) -> Option<()> {
        let Receiving { lane, flow, chunk } = received(plane, |sink| sink == Sink::Lend)?;
        let mut content = plane.truth.chunk_contents[chunk as usize].clone();
        match self {
            Self::PackWritten => {
                let hash = plane.has_hashes.then_some([7; 32]);
                plane.emit(lane, &Event::Written { flow, chunk, hash, times: Default::default() });
            }
            Self::PackWriteFailed => {
                plane.emit(lane, &Event::WriteFailed { flow, chunk, error: DiskError::Os(5) });
            }
            Self::PackOfOtherBytes => {
                plane.take_task(chunk);
                content[0] ^= 1;
                let (buffer, chunk_bytes) = plane.fill_buffer(lane, &content);
                plane.emit(lane, &Event::Lend { flow, chunk, buffer, chunk_bytes });
            }
            Self::HandedTwice => {
                plane.work_on(chunk);
                let (buffer, chunk_bytes) = plane.fill_buffer(lane, &content);
                plane.emit(lane, &Event::Lend { flow, chunk, buffer, chunk_bytes });
            }
            Self::Handed(buffer, more) => {
                let chunk_bytes = (content.len() as u32).saturating_add_signed(more);
                plane.emit(lane, &Event::Lend { flow, chunk, buffer, chunk_bytes });
            }
            _ => return None,
        }
        Some(())
    }

    fn tell_asked(self, plane: &mut Plane) -> Option<()> {
        let &(lane, flow, _) = plane.receives.first()?;
        let right = plane.truth.chunk_contents[0].len() as u32;
        let count = plane.truth.chunk_count();
        match self {
            Self::AskedByFlow(flow) => {
                plane.emit(lane, &Event::PlacementNeeded { flow: ReceiveSlot(flow), chunk: 0, chunk_bytes: right });
            }
            Self::AskedBeyond(further) => {
                let chunk = count.saturating_add(further);
                // The size of a chunk that does not exist.
                plane.emit(lane, &Event::PlacementNeeded { flow, chunk, chunk_bytes: 0 });
            }
            Self::AskedWithBytes(chunk_bytes) => {
                plane.emit(lane, &Event::PlacementNeeded { flow, chunk: 0, chunk_bytes });
            }
            Self::AskedTwice => {
                plane.ask();
                plane.emit(lane, &Event::PlacementNeeded { flow, chunk: 0, chunk_bytes: right });
            }
            _ => {
                // Before the last chunk arrives, so that somebody still checks the transfer's
                // progress.
                for nth in 0..plane.receives.len() {
                    plane.report(nth, u64::MAX << 1);
                }
                std::thread::sleep(LOOKED_AT);
            }
        }
        Some(())
    }

    fn tell_at_any_time(self, plane: &mut Plane) -> Option<()> {
        let (send, receive) = (plane.sends.first().copied(), plane.receives.first().copied());
        match self {
            Self::OtherEnd => match (send, receive) {
                (Some((lane, ..)), _) => {
                    let chunk_bytes = CHUNK_BYTES;
                    plane.emit(lane, &Event::PlacementNeeded { flow: ReceiveSlot(0), chunk: 0, chunk_bytes });
                }
                (None, Some((lane, ..))) => {
                    plane.emit(lane, &Event::Delivered { flow: SendSlot(0), chunk: 0, times: Default::default() });
                }
                _ => return None,
            },
            Self::Closed => match (send, receive) {
                (Some((lane, flow)), _) => plane.emit(lane, &Event::SendClosed { flow }),
                (None, Some((lane, flow, _))) => plane.emit(lane, &Event::ReceiveClosed { flow }),
                _ => return None,
            },
            Self::Opened => {
                let (lane, which) = (0, 77);
                plane.say(&FromDataPlane::FileInstalled { slot: FileSlot(which.into()) });
                plane.say(&FromDataPlane::ReceiveOpened { lane, slot: ReceiveSlot(which) });
                plane.say(&FromDataPlane::SendOpened { lane, slot: SendSlot(which) });
            }
            // The first that it is given from now on.
            Self::NotOpened => plane.refuses_file = true,
            // Only while something is under way.
            Self::Left => {
                plane.tasks.front()?;
                plane.is_over = true;
            }
            Self::NoEvent => plane.push(0, &[0xff; 40]),
            _ => {
                for lane in 0..plane.lanes.len() {
                    plane.falsify_words(lane, u64::MAX);
                }
                std::thread::sleep(LOOKED_AT);
            }
        }
        Some(())
    }

    fn tell_of_pack(self, plane: &mut Plane) -> Option<()> {
        let Sending { lane, flow, chunk } = sent(plane, |source| source == Source::Fill)?;
        match self {
            Self::DeliveredUnfilled => plane.emit(lane, &Event::Delivered { flow, chunk, times: Default::default() }),
            Self::FilledTwice => {
                plane.take_task(chunk);
                for buffer in 0..2 {
                    plane.emit(lane, &Event::Fill { flow, chunk, buffer });
                }
            }
            Self::PackHashed => plane.emit(lane, &Event::Hashed { flow, chunk, hash: [7; 32] }),
            _ => plane.emit(lane, &Event::ReadFailed { flow, chunk, error: DiskError::Short }),
        }
        Some(())
    }

    fn tell_of_file(self, plane: &mut Plane) -> Option<()> {
        let Sending { lane, flow, chunk } = sent(plane, |source| matches!(source, Source::File(_)))?;
        let (times, hash) = (Default::default(), plane.hash_of(chunk));
        match self {
            Self::DeliveredWithoutHash => {
                if !plane.has_hashes {
                    plane.emit(lane, &Event::Hashed { flow, chunk, hash });
                }
                plane.emit(lane, &Event::Delivered { flow, chunk, times });
            }
            Self::DeliveredWithOtherHash => {
                plane.take_task(chunk);
                plane.emit(lane, &Event::Hashed { flow, chunk, hash: hash.map(|byte| !byte) });
                plane.emit(lane, &Event::Delivered { flow, chunk, times });
            }
            Self::DeliveredTwice => {
                plane.work_on(chunk);
                plane.emit(lane, &Event::Delivered { flow, chunk, times });
            }
            Self::DeliveredBeyond(chunk) => plane.emit(lane, &Event::Delivered { flow, chunk, times }),
            Self::HashedTwice => {
                for _ in 0..2 {
                    plane.emit(lane, &Event::Hashed { flow, chunk, hash });
                }
            }
            Self::FileFilled => plane.emit(lane, &Event::Fill { flow, chunk, buffer: 0 }),
            Self::Withdrawn => {
                plane.take_task(chunk);
                plane.emit(lane, &Event::Withdrawn { flow, chunk });
            }
            Self::FileUnread => {
                plane.take_task(chunk);
                plane.emit(lane, &Event::ReadFailed { flow, chunk, error: DiskError::Os(5) });
            }
            Self::PathClosed => plane.emit(lane, &Event::PathClosed { flow, errno: 0 }),
            _ => return None,
        }
        Some(())
    }
}

/// A chunk that was placed in such a sink.
fn received(plane: &Plane, is_wanted: impl Fn(Sink) -> bool) -> Option<Receiving> {
    plane.tasks.iter().find_map(|task| match *task {
        Task::Receive { lane, flow, chunk, sink } if is_wanted(sink) => Some(Receiving { lane, flow, chunk }),
        _ => None,
    })
}

/// A chunk to be sent from such a source.
fn sent(plane: &Plane, is_wanted: impl Fn(Source) -> bool) -> Option<Sending> {
    plane.tasks.iter().find_map(|task| match *task {
        Task::Send { lane, flow, chunk, source } if is_wanted(source) => Some(Sending { lane, flow, chunk }),
        _ => None,
    })
}
