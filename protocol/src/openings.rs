//! When a receiver announces its address: openings, from which a sender learns of an address that
//! it does not know (`docs/wire.md` W-54).
//!
//! The lane encrypts the openings, keeps the time, and reports what arrived.

/// Until the first datagram has arrived, openings are sent at this interval …
const OPENING_NS: u64 = 50_000_000;
/// … but not for longer than the sender probes.
const OPENINGS_MAX: u32 = 120;
/// When nothing has arrived for this long although something had before, openings are sent again: a
/// NAT on the path may have forgotten this end or given it another address, which the sender learns
/// only from this datagram.
const REOPENING_NS: u64 = 500_000_000;
/// While nothing arrives, the interval between openings doubles this many times: at last to four
/// seconds.
const REOPENING_DOUBLINGS_MAX: u32 = 3;

/// The openings of one flow.
#[derive(Clone, Copy, Debug, Default)]
pub struct Openings {
    has_heard: bool,
    /// When the newest authentic datagram came.
    heard_ns: u64,
    sent: u32,
    next_ns: u64,
    /// Openings in this silence, and when the last one went.
    again: u32,
    again_ns: u64,
}

impl Openings {
    /// The flow begins, or its sender moves to another port: the path from there must be opened.
    pub const fn begin(&mut self, now_ns: u64) {
        (self.has_heard, self.sent, self.next_ns) = (false, 0, now_ns);
    }

    /// An authentic datagram arrived.
    #[inline]
    pub const fn on_heard(&mut self, now_ns: u64) {
        (self.has_heard, self.heard_ns) = (true, now_ns);
    }

    /// When the next opening is due; `u64::MAX` for never.
    #[inline]
    #[must_use]
    pub fn due_ns(&self) -> u64 {
        //= W-54
        //# A receiver sends openings only to the control connection's peer: every 50 ms, at most
        //# 120, until the first authentic datagram has arrived. If none arrives for half a second,
        //# it sends them again, then after one, two, four and every further four seconds, as long
        //# as the flow is open.
        if !self.has_heard {
            return if self.sent < OPENINGS_MAX { self.next_ns } else { u64::MAX };
        }
        if self.heard_ns >= self.again_ns {
            return self.heard_ns.saturating_add(REOPENING_NS);
        }
        self.again_ns.saturating_add(REOPENING_NS << self.again.min(REOPENING_DOUBLINGS_MAX))
    }

    /// An opening is sent now.
    pub fn on_sent(&mut self, now_ns: u64) {
        if self.has_heard {
            self.again = if self.heard_ns >= self.again_ns { 1 } else { self.again.saturating_add(1) };
            self.again_ns = now_ns;
        } else {
            self.sent = self.sent.saturating_add(1);
            self.next_ns = now_ns.saturating_add(OPENING_NS);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When openings go from `now_ns` on, as long as nothing comes.
    fn in_silence(openings: &mut Openings, count: usize) -> Vec<u64> {
        let mut times = Vec::new();
        while times.len() < count && openings.due_ns() != u64::MAX {
            let now_ns = openings.due_ns();
            openings.on_sent(now_ns);
            times.push(now_ns / 1_000_000);
        }
        times
    }

    #[test]
    fn the_way_is_opened_at_the_beginning_and_in_silence() {
        //= W-54
        //# every 50 ms, at most 120, until the first authentic datagram has arrived. If none
        //# arrives for half a second, it sends them again, then after one, two, four and every
        //# further four seconds, as long as the flow is open.
        let mut openings = Openings::default();
        openings.begin(1_000_000_000);
        let first = in_silence(&mut openings, 1_000);
        assert_eq!((first.len(), first[0], first[119]), (120, 1_000, 1_000 + 119 * 50), "as long as the sender probes");
        openings.on_heard(20_000_000_000);
        assert_eq!(in_silence(&mut openings, 6), [20_500, 21_500, 23_500, 27_500, 31_500, 35_500]);
        openings.on_heard(36_000_000_000);
        assert_eq!(in_silence(&mut openings, 2), [36_500, 37_500], "each silence begins anew");
        openings.begin(40_000_000_000);
        assert_eq!(in_silence(&mut openings, 2), [40_000, 40_050]);
    }
}
