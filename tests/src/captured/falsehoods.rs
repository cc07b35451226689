//! What a captured data plane writes where the control process may look: files, buffers, counters,
//! reports, and bytes on the socket.

use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use culvert_link::commands::{Event, FileSlot};
use culvert_link::layout::{FLOW_WORDS, LANE_WORDS};
use culvert_protocol::feedback::{REPORT_BYTES_MAX, Summary, write_report};

use super::plane::Plane;

impl Plane {
    /// Writes bytes into an open file that do not belong there.
    pub(super) fn falsify(&mut self, slot: FileSlot, offset: u64, bytes: &[u8]) {
        if let Some(open) = self.files.get(&slot) {
            let _ = open.write_all_at(bytes, offset);
        }
        match self.file_of.get(&slot) {
            Some(file) if !self.written.contains(file) => {}
            Some(&file) => drop(self.deeds.falsified.insert(file)),
            // It could be any of them.
            None => self.deeds.falsified.extend(0..self.truth.contents.len() as u32),
        }
    }

    /// Overwrites a lane's buffers, including those that are lent.
    pub(super) fn scribble(&self, lane: usize, fill: u8) {
        let buffers = &self.lanes[lane].buffers;
        buffers.copy_in(0, &vec![fill; buffers.bytes()]);
    }

    /// Puts a number wherever the control process reads rates, times and counters.
    pub(super) fn falsify_words(&self, lane: usize, value: u64) {
        let layout = &self.lanes[lane].layout;
        let words = self.link.words(layout.counters, LANE_WORDS).iter();
        let of_flows = self.link.words(layout.flow_blocks, 4 * FLOW_WORDS).iter();
        words.chain(of_flows).for_each(|word| word.store(value, Ordering::Relaxed));
    }

    /// Emits a flow's report with made-up numbers.
    pub(super) fn report(&mut self, nth: usize, numbers: u64) {
        let Some(&(lane, flow, flow_id)) = self.receives.get(nth % self.receives.len().max(1)) else { return };
        let summary = Summary {
            flow_id: if numbers & 1 == 0 { flow_id } else { numbers as u32 },
            sequence: numbers,
            bytes: numbers,
            packets: numbers,
            next_packet: numbers,
            decided_below: numbers,
            credit: numbers,
            interval_us: numbers as u32,
            busy_permille: numbers as u32,
            disk_stall_permille: numbers as u32,
            ..Summary::default()
        };
        let mut out = [0; REPORT_BYTES_MAX];
        let (bytes, ..) = write_report(&mut out, &summary, &[], std::iter::empty());
        self.emit(lane, &Event::Report { flow, bytes: &out[..bytes] });
    }

    /// Sends bytes on the socket that may not be a message.
    pub(super) fn say_bytes(&self, bytes: &[u8]) {
        let _ = rustix::net::send(self.socket.as_fd(), bytes, rustix::net::SendFlags::NOSIGNAL);
    }
}
