//! The receiver's report: what arrived, what is lost, how long it took, and how much more may be
//! sent.
//!
//! Reports travel over the TCP control connection, which is reliable and ordered. Each lost packet
//! and each completed chunk is therefore reported exactly once, and a report's size depends on what
//! happened since the last one, not on what is in flight. The receiving lane writes the bytes. Both
//! control processes and the sending lane read them through [`Report::parse`], which validates the
//! whole report before any part of it is used.
//!
//! `docs/wire.md` W-20 … W-26 specify the encoding: all numbers are LEB128 ([`crate::varint`]).

use crate::arrivals::PacketRange;
use crate::varint::{VARINT_BYTES_MAX, VarintWriter, take_varint};

/// The longest report. What does not fit waits for the next one.
pub const REPORT_BYTES_MAX: usize = 8_192;

/// The numbers of a report, without its lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// The flow reported on.
    pub flow_id: u32,
    /// Counts the flow's reports from 0.
    pub sequence: u64,
    /// One past the highest packet number that arrived.
    pub next_packet: u64,
    /// The fate of every packet number below this one is known; the sender may forget them.
    pub decided_below: u64,
    /// Packets that arrived and authenticated, since the flow began.
    pub packets: u64,
    /// Their payload bytes.
    pub bytes: u64,
    /// Payload bytes among them that had arrived before.
    pub duplicate_bytes: u64,
    /// `sent_us` of the highest packet number that arrived.
    pub echo_us: u32,
    /// Microseconds between that arrival and this report.
    pub hold_us: u32,
    /// Arrival minus `sent_us` of that packet, wrapping: a one-way delay with an unknown constant.
    pub delay_us: u32,
    /// The least such difference of the packets since the last report.
    pub delay_min_us: u32,
    /// Microseconds since the last report.
    pub interval_us: u32,
    /// How many chunks the sender may have begun on this flow, in all.
    pub credit: u64,
    /// Parts per thousand of the interval that the receiving lane was busy.
    pub busy_permille: u32,
    /// Parts per thousand of the interval in which a full destination kept credit back.
    pub disk_stall_permille: u32,
    /// Bytes that waited in the lane's socket when the report was written.
    pub backlog_bytes: u32,
    /// Datagrams that the lane's socket dropped because its buffer was full, since the lane
    /// started.
    pub socket_drops: u64,
}

/// A report, proved well-formed; the lists are read from the bytes as they are iterated.
#[derive(Clone, Copy, Debug)]
pub struct Report<'a> {
    /// The numbers.
    pub summary: Summary,
    lost: &'a [u8],
    completed: &'a [u8],
}

/// Bytes that are not a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed feedback report: {0}")]
pub struct MalformedReport(&'static str);

/// Writes a report into `out` (at most [`REPORT_BYTES_MAX`] of it), with as many of the ranges and
/// chunks as fit. Returns the report's length and how many of each it holds.
///
/// # Panics
/// If `out` is shorter than 256 bytes.
pub fn write_report(
    out: &mut [u8],
    summary: &Summary,
    lost: &[PacketRange],
    completed: impl ExactSizeIterator<Item = u32>,
) -> (usize, usize, usize) {
    let bytes = out.len().min(REPORT_BYTES_MAX);
    let mut writer = VarintWriter::new(out.get_mut(..bytes).unwrap_or_default());
    // The lists' counts are written before the lists, so decide first what fits: a range costs at
    // most two full integers, a chunk five bytes, and the ranges leave room for some chunks.
    const NUMBERS_BYTES_MAX: usize = 19 * VARINT_BYTES_MAX;
    // Invariant I-report-room: A report is written into at least 256 bytes, which hold all numbers.
    assert!(bytes >= 256, "a report needs more room than {bytes} bytes");
    let room = bytes.saturating_sub(NUMBERS_BYTES_MAX);
    let chunk_count = completed.len().min(room / 4 / 5);
    let lost_count = fitting_ranges(lost, room.saturating_sub(chunk_count.saturating_mul(5)));

    let mut summary = *summary;
    if let Some(unreported) = lost.get(lost_count) {
        summary.decided_below = summary.decided_below.min(unreported.first);
    }
    for number in summary_numbers(&summary) {
        writer.put(number);
    }
    writer.put(lost_count as u64);
    let mut previous_end = 0;
    for range in lost.iter().take(lost_count) {
        writer.put(range.first.saturating_sub(previous_end));
        writer.put(range.count);
        previous_end = range.end();
    }
    writer.put(chunk_count as u64);
    for chunk in completed.take(chunk_count) {
        writer.put(chunk.into());
    }
    (writer.len(), lost_count, chunk_count)
}

/// How many of the ranges encode into `room` bytes.
fn fitting_ranges(lost: &[PacketRange], room: usize) -> usize {
    let (mut used, mut previous_end) = (0usize, 0);
    lost.iter()
        .take_while(|range| {
            let bytes =
                varint_bytes(range.first.saturating_sub(previous_end)).saturating_add(varint_bytes(range.count));
            used = used.saturating_add(bytes);
            previous_end = range.end();
            used <= room
        })
        .count()
}

const fn varint_bytes(value: u64) -> usize {
    let bits = 64usize.saturating_sub((value | 1).leading_zeros() as usize);
    bits.div_ceil(7)
}

/// The numbers of a report in the order in which [`Report::parse`] reads them.
fn summary_numbers(s: &Summary) -> [u64; 17] {
    [
        //= W-21
        //# The numbers, in order: flow id; report sequence; one past the highest packet number that
        //# arrived; decided below; packets; bytes; duplicate bytes; echoed timestamp; hold time;
        //# delay; minimum delay; interval; credit; busy and disk stall in parts per thousand;
        //# backlog bytes; socket drops.
        s.flow_id.into(),
        s.sequence,
        s.next_packet,
        s.decided_below,
        s.packets,
        s.bytes,
        s.duplicate_bytes,
        s.echo_us.into(),
        s.hold_us.into(),
        s.delay_us.into(),
        s.delay_min_us.into(),
        s.interval_us.into(),
        s.credit,
        s.busy_permille.into(),
        s.disk_stall_permille.into(),
        s.backlog_bytes.into(),
        s.socket_drops,
    ]
}

impl<'a> Report<'a> {
    /// Parses and validates a report.
    ///
    /// # Errors
    /// [`MalformedReport`] if a number is truncated or out of its field's range, a list is not in
    /// order or does not have its announced length, or bytes are left over.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MalformedReport> {
        //= W-20
        //# A report is a sequence of LEB128 numbers, at most 8,192 bytes long: 17 numbers, the lost
        //# ranges, the completed chunks.
        //= W-26
        //# A report that breaks a rule ends the transfer; no part of the report is used.
        if bytes.len() > REPORT_BYTES_MAX {
            return Err(MalformedReport("longer than a report may be"));
        }
        let mut rest = bytes;
        let mut summary = Summary::default();
        let next = |rest: &mut &[u8]| take_varint(rest).ok_or(MalformedReport("a number is cut off"));
        let narrow = |rest: &mut &[u8]| {
            next(rest)?.try_into().map_err(|_| MalformedReport("a number exceeds its field")) as Result<u32, _>
        };
        summary.flow_id = narrow(&mut rest)?;
        summary.sequence = next(&mut rest)?;
        summary.next_packet = next(&mut rest)?;
        summary.decided_below = next(&mut rest)?;
        summary.packets = next(&mut rest)?;
        summary.bytes = next(&mut rest)?;
        summary.duplicate_bytes = next(&mut rest)?;
        summary.echo_us = narrow(&mut rest)?;
        summary.hold_us = narrow(&mut rest)?;
        summary.delay_us = narrow(&mut rest)?;
        summary.delay_min_us = narrow(&mut rest)?;
        summary.interval_us = narrow(&mut rest)?;
        summary.credit = next(&mut rest)?;
        summary.busy_permille = narrow(&mut rest)?;
        summary.disk_stall_permille = narrow(&mut rest)?;
        summary.backlog_bytes = narrow(&mut rest)?;
        summary.socket_drops = next(&mut rest)?;
        //= W-22
        //# A number counts as lost when it has been missing for long enough after a higher one
        //# arrived.
        if summary.decided_below > summary.next_packet {
            return Err(MalformedReport("it decides packets beyond the highest that arrived"));
        }

        let lost = Self::list(&mut rest, |rest, previous_end| {
            //= W-23
            //# Lost ranges ascend and do not overlap. Each is the distance from the end of the
            //# previous range and a count of at least 1. No range extends beyond the highest packet
            //# that arrived.
            let first = next(rest)?.checked_add(previous_end).ok_or(MalformedReport("a lost range overflows"))?;
            let count = next(rest)?;
            let end = first.checked_add(count).ok_or(MalformedReport("a lost range overflows"))?;
            if count == 0 || end > summary.next_packet {
                return Err(MalformedReport("a lost range is empty or beyond the highest packet that arrived"));
            }
            Ok(end)
        })?;
        let completed = Self::list(&mut rest, |rest, _| narrow(rest).map(u64::from))?;
        if !rest.is_empty() {
            return Err(MalformedReport("bytes follow its end"));
        }
        Ok(Self { summary, lost, completed })
    }

    /// Takes a counted list off the front of `rest`, checking each item; returns the items' bytes.
    fn list(
        rest: &mut &'a [u8],
        mut check_item: impl FnMut(&mut &'a [u8], u64) -> Result<u64, MalformedReport>,
    ) -> Result<&'a [u8], MalformedReport> {
        let count = take_varint(rest).ok_or(MalformedReport("a list's length is cut off"))?;
        let items = *rest;
        let mut previous = 0;
        // Each item takes at least a byte, so a lying count ends with the bytes.
        for _ in 0..count {
            previous = check_item(rest, previous)?;
        }
        Ok(items.get(..items.len().saturating_sub(rest.len())).unwrap_or_default())
    }

    /// The lost packets that no earlier report named, ascending (W-24).
    pub fn lost(&self) -> impl Iterator<Item = PacketRange> + 'a {
        let (mut rest, mut previous_end) = (self.lost, 0);
        std::iter::from_fn(move || {
            let first = take_varint(&mut rest)?.checked_add(previous_end)?;
            let range = PacketRange { first, count: take_varint(&mut rest)? };
            previous_end = range.end();
            Some(range)
        })
    }

    /// The chunks of which every segment has arrived and that were not named before.
    pub fn completed(&self) -> impl Iterator<Item = u32> + 'a {
        let mut rest = self.completed;
        std::iter::from_fn(move || take_varint(&mut rest)?.try_into().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn summary(next_packet: u64) -> Summary {
        Summary { flow_id: 7, sequence: 3, next_packet, decided_below: next_packet, credit: 12, ..Summary::default() }
    }

    fn ranges_from(lengths: &[(u64, u64)]) -> Vec<PacketRange> {
        let mut end = 0;
        lengths
            .iter()
            .map(|&(gap, count)| {
                let range = PacketRange { first: end + gap, count };
                end = range.end();
                range
            })
            .collect()
    }

    proptest! {
        #[test]
        fn a_written_report_is_read_back(lengths in proptest::collection::vec((1..1u64 << 40, 1..1u64 << 20), 0..50),
                                         chunks in proptest::collection::vec(any::<u32>(), 0..50)) {
            //= W-20
            //# A report is a sequence of LEB128 numbers, at most 8,192 bytes long: 17 numbers, the
            //# lost ranges, the completed chunks.
            //= W-21
            //# The numbers, in order: flow id; report sequence; one past the highest packet number
            //# that arrived; decided below; packets; bytes; duplicate bytes; echoed timestamp; hold
            //# time; delay; minimum delay; interval; credit; busy and disk stall in parts per
            //# thousand; backlog bytes; socket drops.
            let lost = ranges_from(&lengths);
            let summary = summary(lost.last().map_or(0, |range| range.end()));
            let mut out = [0; REPORT_BYTES_MAX];
            let (len, lost_count, chunk_count) = write_report(&mut out, &summary, &lost, chunks.iter().copied());
            prop_assert_eq!((lost_count, chunk_count), (lost.len(), chunks.len()));
            let report = Report::parse(&out[..len]).unwrap();
            prop_assert_eq!(report.summary, summary);
            prop_assert!(report.lost().eq(lost));
            prop_assert!(report.completed().eq(chunks));
        }

        #[test]
        fn what_does_not_fit_stays_undecided(count in 1_300..3_000usize) {
            let lost = ranges_from(&vec![(1 << 40, 5); count]);
            let summary = summary(lost.last().unwrap().end());
            let mut out = [0; REPORT_BYTES_MAX];
            let (len, lost_count, _) = write_report(&mut out, &summary, &lost, std::iter::empty::<u32>());
            prop_assert!(lost_count < lost.len());
            let report = Report::parse(&out[..len]).unwrap();
            prop_assert_eq!(report.summary.decided_below, lost[lost_count].first);
        }

        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            if let Ok(report) = Report::parse(&bytes) {
                for range in report.lost() {
                    prop_assert!(range.end() <= report.summary.next_packet);
                }
                let _ = report.completed().count();
            }
        }

        #[test]
        fn a_damaged_report_never_names_packets_beyond_the_highest(at: prop::sample::Index, byte: u8) {
            //= W-23
            //# No range extends beyond the highest packet that arrived.
            let lost = ranges_from(&[(3, 2), (10, 1)]);
            let mut out = [0; 512];
            let (len, ..) = write_report(&mut out, &summary(16), &lost, [1, 2, 3].into_iter());
            out[at.index(len)] = byte;
            if let Ok(report) = Report::parse(&out[..len]) {
                for range in report.lost() {
                    prop_assert!(range.end() <= report.summary.next_packet);
                }
            }
        }
    }

    #[test]
    fn a_lying_count_is_refused() {
        //= W-26
        //# A report that breaks a rule ends the transfer; no part of the report is used.
        let mut out = [0; 512];
        let (len, ..) = write_report(&mut out, &summary(0), &[], std::iter::empty::<u32>());
        out[len - 1] = 9;
        assert_eq!(Report::parse(&out[..len]).unwrap_err(), MalformedReport("a number is cut off"));
    }
}
