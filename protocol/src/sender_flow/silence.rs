//! What a sending flow does when its receiver reports nothing: it sends again, and counts.

use super::SenderFlow;

/// The part of the timeout, in eighths, after which the end of a transfer is repeated, and how much
/// of it.
const TAIL_EIGHTHS: u64 = 5;
const TAIL_SEGMENTS: u32 = 16;

impl SenderFlow {
    /// Called when time passes without a report that decides anything. After `timeout_ns` (doubled
    /// with each repetition), the last segment in flight is sent again: its arrival shows the
    /// receiver every gap before it. If there is nothing left to send, the first repetition comes
    /// earlier, as soon as a report is overdue, and consists of several segments. Returns whether
    /// something was queued.
    ///
    /// `timeout_ns` should be slightly more than two round trips.
    pub fn on_silence(&mut self, now_ns: u64, timeout_ns: u64) -> bool {
        let is_tail = self.fresh.is_empty() && self.timeouts == 0;
        let (since, patience, segments) = if is_tail {
            // Reports come every quarter of a round trip: 1.3 round trips after the last segment,
            // one should have reported it.
            (now_ns.saturating_sub(self.last_sent_ns), (timeout_ns / 8).saturating_mul(TAIL_EIGHTHS), TAIL_SEGMENTS)
        } else {
            let since = now_ns.saturating_sub(self.last_sent_ns.max(self.last_report_ns));
            (since, timeout_ns.saturating_mul(1 << self.timeouts.min(6)), 1)
        };
        if self.decided_below >= self.next_packet || since < patience || self.choose().is_some() {
            return false;
        }
        let mut queued = 0u32;
        for packet_number in (self.decided_below..self.next_packet).rev().take(64) {
            let was_known = self.is_record_in_use(packet_number);
            self.mark_lost(packet_number);
            queued = queued.saturating_add(u32::from(was_known && !self.resend.is_empty()));
            if queued == segments {
                break;
            }
        }
        if queued > 0 {
            self.timeouts = self.timeouts.saturating_add(1);
            self.last_sent_ns = now_ns;
        }
        queued > 0
    }

    /// How many repetitions in a row no report has answered.
    #[must_use]
    pub const fn timeouts(&self) -> u32 {
        self.timeouts
    }

    /// How long data have been in flight that the receiver reported neither as arrived nor as lost,
    /// in nanoseconds.
    #[must_use]
    pub fn unanswered_ns(&self, now_ns: u64) -> u64 {
        self.unanswered_since_ns.map_or(0, |since_ns| now_ns.saturating_sub(since_ns))
    }

    /// Restarts both counters: the path was found to be open.
    pub const fn forget_silence(&mut self) {
        self.timeouts = 0;
        self.unanswered_since_ns = None;
    }
}
