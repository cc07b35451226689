//! What has come by a flow before its first data.

use std::time::Instant;

use culvert_protocol::feedback::Summary;

/// A sender that hears no answer probes fifty times in a second; one that was answered soon stops,
/// and waits for its disk perhaps. Half of them may be lost.
const PROBES_PER_SECOND_MIN: f64 = 25.0;

/// What has come by a flow before its first data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Opening {
    /// Authentic datagrams.
    pub(super) packets: u64,
    /// Whether there were data among them.
    has_data: bool,
    /// When the newest second began and when the one before, and how many datagrams had come by
    /// then.
    seconds: [Option<(Instant, u64)>; 2],
}

impl Opening {
    /// A report of the lane's.
    pub(super) fn note(&mut self, summary: &Summary, now: Instant) {
        (self.packets, self.has_data) = (summary.packets, summary.bytes > 0);
        let [newest, _] = self.seconds;
        if newest.is_none_or(|(at, _)| now.saturating_duration_since(at).as_secs() >= 1) {
            self.seconds = [Some((now, self.packets)), newest];
        }
    }

    /// Whether the sender still probes and sends nothing else.
    pub(super) fn is_probed(&self, now: Instant) -> bool {
        let [_, Some((at, packets))] = self.seconds else { return false };
        let elapsed = now.saturating_duration_since(at).as_secs_f64();
        !self.has_data && self.packets.saturating_sub(packets) as f64 >= PROBES_PER_SECOND_MIN * elapsed
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whether the sender probes after so many milliseconds, of which each had what `arrived` says
    /// by then.
    fn is_probed(milliseconds: u64, arrived: impl Fn(u64) -> (u64, u64)) -> bool {
        let (began, mut opening) = (Instant::now(), Opening::default());
        let at = |after| began + Duration::from_millis(after);
        for after in (0..milliseconds).step_by(100) {
            let (packets, bytes) = arrived(after);
            opening.note(&Summary { packets, bytes, ..Summary::default() }, at(after));
        }
        opening.is_probed(at(milliseconds))
    }

    #[test]
    fn a_sender_that_probes_on_and_on_hears_no_answers() {
        assert!(is_probed(3_100, |after| (after / 20, 0)));
        assert!(is_probed(9_900, |after| (6 * after / 20, 0)));
        assert!(!is_probed(3_100, |after| (after / 20, u64::from(after > 2_900))), "data have come");
        assert!(!is_probed(3_100, |after| (after.min(500) / 20, 0)), "it waits for its disk");
        assert!(!is_probed(3_100, |_| (0, 0)), "nothing comes");
        assert!(!is_probed(900, |after| (after / 20, 0)), "too early to tell");
    }
}
