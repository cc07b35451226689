//! The steps that a captured data plane may take: each consumes a letter of the script and its
//! arguments.

use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_link::commands::{ChunkTimes, DiskError, Event, FileSlot, ReceiveSlot, SendSlot};
use culvert_link::kernel_bypass::ProgramCounters;
use culvert_link::messages::FromDataPlane;
use culvert_protocol::tree_hash::ChunkHash;

use super::plane::{Plane, Task};
use crate::script::Script;

/// Texts that must not be shown unescaped.
pub(super) fn foreign_text(which: u8) -> String {
    match which % 4 {
        0 => String::new(),
        1 => "seccomp".to_owned(),
        2 => "\u{1b}[2Jgone\r\n\u{202e}backwards".to_owned(),
        _ => "x".repeat(12_000),
    }
}

pub(super) fn step(plane: &mut Plane, script: &mut Script<'_>) {
    let letter = script.byte();
    let lane = usize::from(letter >> 6) % plane.lanes.len();
    match letter & 31 {
        // What honest ones do.
        0..=3 => drop(plane.ask()),
        4..=9 => drop(plane.work()),
        10 | 29 => wait(plane),
        // What they would never do.
        11..=17 => event(plane, lane, script),
        18 => {
            let bytes = usize::from(script.byte());
            let record = script.take(bytes).to_vec();
            plane.push(lane, &record);
        }
        19 => message(plane, script),
        20 => {
            let bytes = usize::from(script.byte());
            plane.say_bytes(script.take(bytes));
        }
        21 => {
            let (slot, offset) = (file_slot(plane, script), u64::from(script.byte()) << 10);
            let fill = script.byte();
            plane.falsify(slot, offset, &vec![fill; 3_000]);
        }
        22 => plane.scribble(lane, script.byte()),
        23 => {
            let index = usize::from(script.byte()) % 3;
            let ring = if script.byte() & 1 == 0 {
                plane.lanes[lane].layout.events
            } else {
                plane.lanes[lane].layout.commands
            };
            plane.link.words(ring.offset + 64 * index, 1)[0].store(script.number(), Ordering::Release);
            plane.ring();
        }
        24 => plane.falsify_words(lane, script.number()),
        25 => {
            let nth = usize::from(script.byte());
            plane.report(nth, script.number());
        }
        26 => {
            // The same event repeatedly, more often than in any transfer.
            let event = Event::ReadFailed { flow: SendSlot(0), chunk: u32::MAX, error: DiskError::Short };
            for _ in 0..u32::from(script.byte()) {
                plane.emit(lane, &event);
            }
        }
        27 => again(plane, script),
        28 => plane.ring(),
        30 => drop(plane.tasks.pop_front()),
        _ => plane.is_over = script.byte() > 200,
    }
}

/// Gives the control process time to take what was sent.
fn wait(plane: &mut Plane) {
    plane.ring();
    for _ in 0..8 {
        if plane.look() {
            return;
        }
        std::thread::sleep(Duration::from_micros(500));
    }
}

/// Repeats the work of the next chunk.
fn again(plane: &mut Plane, script: &mut Script<'_>) {
    if let Some(&task) = plane.tasks.front() {
        for _ in 0..=script.byte() % 4 {
            plane.tasks.push_front(task);
            plane.work();
        }
    }
}

fn file_slot(plane: &Plane, script: &mut Script<'_>) -> FileSlot {
    let mut slots: Vec<u32> = plane.files.keys().map(|slot| slot.0).collect();
    slots.sort_unstable();
    let which = usize::from(script.byte());
    FileSlot(slots.get(which % slots.len().max(1)).copied().unwrap_or(0))
}

/// Mostly a number below `count`.
fn number_below(count: usize, script: &mut Script<'_>) -> u64 {
    match script.byte() {
        which @ 0..=229 if count > 0 => (usize::from(which) % count) as u64,
        230..=234 => count as u64,
        235..=239 => u64::MAX,
        240..=244 => 255,
        245..=249 => 256,
        _ => script.number(),
    }
}

/// One of the open flows, mostly with its own lane.
fn send_slot(plane: &Plane, lane: &mut usize, script: &mut Script<'_>) -> SendSlot {
    let which = number_below(plane.sends.len(), script);
    match plane.sends.get(which as usize) {
        Some(&(of, slot)) => {
            *lane = if script.byte() > 230 { *lane } else { of };
            slot
        }
        None => SendSlot(which as u16),
    }
}

fn receive_slot(plane: &Plane, lane: &mut usize, script: &mut Script<'_>) -> ReceiveSlot {
    let which = number_below(plane.receives.len(), script);
    match plane.receives.get(which as usize) {
        Some(&(of, slot, _)) => {
            *lane = if script.byte() > 230 { *lane } else { of };
            slot
        }
        None => ReceiveSlot(which as u16),
    }
}

fn hash(plane: &Plane, chunk: u32, script: &mut Script<'_>) -> Option<ChunkHash> {
    match script.byte() % 4 {
        0 => None,
        1 => Some([script.byte(); 32]),
        _ => Some(plane.truth.chunk_hashes.get(chunk as usize).copied().flatten().unwrap_or_default()),
    }
}

fn disk_error(script: &mut Script<'_>) -> DiskError {
    match script.byte() % 3 {
        0 => DiskError::Short,
        1 => DiskError::Os(5),
        _ => DiskError::Os(script.number() as i32),
    }
}

fn times(script: &mut Script<'_>) -> ChunkTimes {
    if script.byte() & 1 == 0 {
        return ChunkTimes::default();
    }
    ChunkTimes { disk_us: u32::MAX, hash_us: u32::MAX, network_us: u32::MAX }
}

/// An event of a valid kind, with numbers that may be invalid.
fn event(plane: &mut Plane, mut lane: usize, script: &mut Script<'_>) {
    let kind = script.byte();
    let chunk = number_below(plane.truth.chunk_count() as usize, script) as u32;
    let bytes = plane.truth.chunk_contents.get(chunk as usize).map_or(0, Vec::len);
    let number = |script: &mut Script<'_>| number_below(bytes.max(1), script) as u32;
    // Often for a pending task, so that chunk and flow are right.
    let task = plane.tasks.front().copied().filter(|_| kind & 64 != 0);
    let event = if kind & 1 == 0 {
        let flow = receive_slot(plane, &mut lane, script);
        let (flow, chunk) = match task {
            Some(Task::Receive { lane: of, flow, chunk, .. }) => {
                lane = of;
                (flow, chunk)
            }
            _ => (flow, chunk),
        };
        match (kind >> 1) % 8 {
            0 => Event::PlacementNeeded {
                flow,
                chunk,
                chunk_bytes: if kind & 128 == 0 { bytes as u32 } else { number(script) },
            },
            1 => {
                let content = plane.truth.chunk_contents.get(chunk as usize).cloned().unwrap_or_default();
                let (buffer, chunk_bytes) = plane.fill_buffer(lane, &content);
                let buffer = if kind & 128 == 0 { buffer } else { number_below(4, script) as u32 };
                let chunk_bytes = if script.byte() & 1 == 0 { chunk_bytes } else { number(script) };
                Event::Lend { flow, chunk, buffer, chunk_bytes }
            }
            2 | 3 => Event::Written { flow, chunk, hash: hash(plane, chunk, script), times: times(script) },
            4 => Event::WriteFailed { flow, chunk, error: disk_error(script) },
            5 => Event::ReceiveClosed { flow },
            6 => Event::OthersWaitForReceive { flow, incomplete: number(script), whole: number(script) },
            _ if kind & 128 == 0 => Event::Astray { flow },
            _ => {
                let bytes = usize::from(script.byte());
                Event::Report { flow, bytes: script.take(bytes) }
            }
        }
    } else {
        let flow = send_slot(plane, &mut lane, script);
        let (flow, chunk) = match task {
            Some(Task::Send { lane: of, flow, chunk, .. }) => {
                lane = of;
                (flow, chunk)
            }
            _ => (flow, chunk),
        };
        match (kind >> 1) % 10 {
            0 => Event::PathOpen { flow, stride: script.number() as u16, rtt_us: number(script) },
            1 => Event::PathClosed { flow, errno: script.number() as i32 },
            2 => Event::Fill { flow, chunk, buffer: number_below(4, script) as u32 },
            3 => Event::Hashed { flow, chunk, hash: hash(plane, chunk, script).unwrap_or_default() },
            4 => Event::Delivered { flow, chunk, times: times(script) },
            5 => Event::ReadFailed { flow, chunk, error: disk_error(script) },
            6 => Event::Withdrawn { flow, chunk },
            7 => Event::Checked { token: script.number() as u32, result: Err(disk_error(script)) },
            8 => Event::SendClosed { flow },
            _ => Event::OthersWaitForSend { flow, held: number(script) },
        }
    };
    plane.emit(lane, &event);
}

/// A valid message at a time when none is expected.
fn message(plane: &mut Plane, script: &mut Script<'_>) {
    let (lane, slot) = (script.byte().into(), script.number());
    let text = foreign_text(script.byte());
    let message = match script.byte() % 8 {
        0 => FromDataPlane::CannotStart { text, free_ports: Some(slot as usize) },
        1 => FromDataPlane::FileInstalled { slot: FileSlot(slot as u32) },
        2 => FromDataPlane::FileNotInstalled { slot: file_slot(plane, script) },
        3 => FromDataPlane::SendOpened { lane, slot: SendSlot(slot as u16) },
        4 => FromDataPlane::ReceiveOpened { lane, slot: ReceiveSlot(slot as u16) },
        5 => FromDataPlane::ProgramCounters(ProgramCounters::default()),
        _ => FromDataPlane::Ready {
            process_id: slot as u32,
            lanes: Vec::new(),
            sandbox_gaps: vec![text.clone()],
            af_xdp: None,
            has_all_rules: true,
            refusals: vec![text],
        },
    };
    plane.say(&message);
}
