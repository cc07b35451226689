//! The pcap format with nanoseconds (draft-ietf-opsawg-pcap): a header of 24 bytes, then the
//! packets, each with a header of 16 bytes.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_link::clock::monotonic_ns;

/// Marks the byte order, and times in nanoseconds.
const MAGIC: u32 = 0xa1b2_3c4d;
const VERSION: [u16; 2] = [2, 4];
/// Packets start with an Ethernet header.
const LINKTYPE_ETHERNET: u32 = 1;
const NS_PER_S: u64 = 1_000_000_000;

/// Collects packets, sorts them and writes them.
#[derive(Debug)]
pub(super) struct Packets {
    snap_bytes: usize,
    /// The collected packets' bytes.
    bytes: Vec<u8>,
    begin: usize,
    collected: Vec<CollectedPacket>,
    written: u64,
}

#[derive(Clone, Debug)]
struct CollectedPacket {
    time_ns: u64,
    whole_bytes: usize,
    captured: Range<usize>,
}

impl Packets {
    /// Keeps at most `snap_bytes` of each packet.
    pub fn new(snap_bytes: usize) -> Self {
        Self { snap_bytes, bytes: Vec::new(), begin: 0, collected: Vec::new(), written: 0 }
    }

    /// How many packets were written.
    pub const fn written(&self) -> u64 {
        self.written
    }

    /// The header of the file.
    pub fn file_header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(24);
        header.extend(MAGIC.to_le_bytes());
        header.extend(VERSION.into_iter().flat_map(u16::to_le_bytes));
        // Reserved.
        header.extend([0; 8]);
        header.extend((self.snap_bytes as u32).to_le_bytes());
        header.extend(LINKTYPE_ETHERNET.to_le_bytes());
        header
    }

    /// Starts a packet; its bytes are to be appended to the result.
    pub fn begin(&mut self) -> &mut Vec<u8> {
        self.begin = self.bytes.len();
        &mut self.bytes
    }

    /// Completes the packet that was started. `time_ns` is on the monotonic clock.
    pub fn end(&mut self, time_ns: u64, whole_bytes: usize) {
        self.bytes.truncate(self.begin + self.snap_bytes);
        let captured = self.begin..self.bytes.len();
        self.collected.push(CollectedPacket { time_ns, whole_bytes, captured });
    }

    /// Writes the collected packets in the order of their times, up to `packets_max` in the file.
    pub fn take(&mut self, packets_max: u64) -> Vec<u8> {
        // The sort is stable: packets with the same time are from one batch, and keep its order.
        self.collected.sort_by_key(|packet| packet.time_ns);
        let boot_ns = boot_time_ns();
        let mut out = Vec::with_capacity(self.bytes.len() + 16 * self.collected.len());
        let left = packets_max.saturating_sub(self.written);
        for packet in self.collected.drain(..).take(usize::try_from(left).unwrap_or(usize::MAX)) {
            // The lanes write the times, which may be anything.
            let time_ns = boot_ns.saturating_add(packet.time_ns);
            let (seconds, nanoseconds) = ((time_ns / NS_PER_S) as u32, (time_ns % NS_PER_S) as u32);
            let captured_bytes = packet.captured.len() as u32;
            for word in [seconds, nanoseconds, captured_bytes, packet.whole_bytes as u32] {
                out.extend(word.to_le_bytes());
            }
            out.extend(&self.bytes[packet.captured]);
            self.written += 1;
        }
        self.bytes.clear();
        out
    }
}

/// The wall-clock time at which the monotonic clock was zero. Computed anew each time, so that it
/// follows when the clock is set.
fn boot_time_ns() -> u64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (since_epoch.as_nanos() as u64).saturating_sub(monotonic_ns())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads a file by the specification: its packets, with seconds, nanoseconds and lengths.
    fn read(file: &[u8]) -> Vec<([u32; 4], &[u8])> {
        let word = |at: usize| u32::from_le_bytes(file[at..at + 4].try_into().unwrap());
        assert_eq!((word(0), word(4), word(20)), (0xa1b2_3c4d, 0x0004_0002, 1));
        let mut packets = Vec::new();
        let mut at = 24;
        while at < file.len() {
            let head = [0, 4, 8, 12].map(|offset| word(at + offset));
            at += 16;
            packets.push((head, &file[at..at + head[2] as usize]));
            at += head[2] as usize;
        }
        packets
    }

    proptest! {
        #[test]
        fn packets_are_in_order_cut_and_complete(
            snap_bytes in 1usize..200,
            packets_max in 0u64..60,
            looks in proptest::collection::vec(
                proptest::collection::vec((0u64..10_000_000_000, 0usize..300), 0..20), 0..6))
        {
            let mut packets = Packets::new(snap_bytes);
            let mut file = packets.file_header();
            let mut expected = Vec::new();
            for look in &looks {
                let mut in_order: Vec<_> = look.iter().enumerate().collect();
                in_order.sort_by_key(|(number, (time_ns, _))| (*time_ns, *number));
                expected.extend(in_order.into_iter().map(|(number, &(_, bytes))| (number as u8, bytes)));
                for (number, &(time_ns, bytes)) in look.iter().enumerate() {
                    packets.begin().extend(vec![number as u8; bytes]);
                    packets.end(time_ns, bytes);
                }
                file.extend(packets.take(packets_max));
            }
            expected.truncate(packets_max as usize);
            let found = read(&file);
            prop_assert_eq!(packets.written(), expected.len() as u64);
            prop_assert_eq!(found.len(), expected.len());
            for (([_, nanoseconds, captured_bytes, whole_bytes], bytes), (number, expected_bytes)) in found.into_iter().zip(expected) {
                prop_assert!(nanoseconds < 1_000_000_000);
                prop_assert_eq!(whole_bytes as usize, expected_bytes);
                prop_assert_eq!(captured_bytes as usize, expected_bytes.min(snap_bytes));
                prop_assert!(bytes.iter().all(|&byte| byte == number));
            }
        }
    }

    /// Lanes write the times, and adding the clock's overflowed.
    #[test]
    fn times_of_any_size_are_written() {
        let mut packets = Packets::new(10);
        for time_ns in [u64::MAX, 0, u64::MAX - 1] {
            packets.begin().push(1);
            packets.end(time_ns, usize::MAX);
        }
        let mut file = packets.file_header();
        file.extend(packets.take(u64::MAX));
        assert_eq!(read(&file).len(), 3);
    }

    #[test]
    fn times_are_on_the_wall_clock() {
        let mut packets = Packets::new(10);
        packets.begin().push(1);
        let (before, time_ns) = (SystemTime::now(), monotonic_ns());
        packets.end(time_ns, 1);
        let mut file = packets.file_header();
        file.extend(packets.take(u64::MAX));
        let ([seconds, ..], _) = read(&file)[0];
        let expected = before.duration_since(UNIX_EPOCH).unwrap().as_secs();
        assert!(u64::from(seconds).abs_diff(expected) <= 1, "{seconds} is not {expected}");
    }
}
