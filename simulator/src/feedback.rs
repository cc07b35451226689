//! The feedback channel: reports over a TCP connection, in order and never lost, but late.
//!
//! TCP retransmits a lost report after three later segments (fast retransmit) or after a timeout of
//! a round trip and 200 ms, whichever comes first. All later reports wait for it (head-of-line
//! blocking). Loss has no other effect on this channel.

use std::collections::VecDeque;

use crate::random::Random;

/// The minimum retransmission timeout of Linux.
const TIMEOUT_NS_MIN: u64 = 200_000_000;

/// A channel that carries reports `R` one way.
#[derive(Debug)]
pub struct FeedbackChannel<R> {
    random: Random,
    /// Delay of the channel's own direction.
    pub delay_ns: u64,
    /// Round trip of the connection, for retransmissions.
    pub rtt_ns: u64,
    /// Chance that a report's packet is lost.
    pub loss: f64,
    /// Whether nothing passes.
    pub is_dark: bool,
    held_until_open: VecDeque<R>,
    in_flight: VecDeque<(u64, R)>,
    last_ns: u64,
    previous_sent_ns: u64,
}

impl<R> FeedbackChannel<R> {
    /// An empty channel.
    #[must_use]
    pub fn new(delay_ns: u64, rtt_ns: u64, loss: f64, seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            delay_ns,
            rtt_ns,
            loss,
            is_dark: false,
            held_until_open: VecDeque::new(),
            in_flight: VecDeque::new(),
            last_ns: 0,
            previous_sent_ns: 0,
        }
    }

    /// Sends a report.
    pub fn send(&mut self, report: R, now_ns: u64) {
        let interval_ns = now_ns.saturating_sub(self.previous_sent_ns).max(1);
        self.previous_sent_ns = now_ns;
        if self.is_dark || !self.held_until_open.is_empty() {
            self.held_until_open.push_back(report);
            return;
        }
        let mut delay_ns = self.delay_ns;
        let mut timeout_ns = self.rtt_ns + TIMEOUT_NS_MIN;
        let mut repair_ns = (self.rtt_ns + 3 * interval_ns).min(timeout_ns);
        while self.random.chance(self.loss) {
            delay_ns += repair_ns;
            timeout_ns *= 2;
            repair_ns = timeout_ns;
        }
        self.deliver_at(now_ns + delay_ns, report);
    }

    fn deliver_at(&mut self, at_ns: u64, report: R) {
        // TCP delivers in order: a report that waits for a retransmission holds up those behind it.
        self.last_ns = self.last_ns.max(at_ns);
        self.in_flight.push_back((self.last_ns, report));
    }

    /// Opens or closes the path. After an outage TCP recovers through its doubled timeouts: what
    /// was waiting is delivered with the first timeout after the path opens, at the latest after
    /// the length of the outage.
    pub fn set_dark(&mut self, is_dark: bool, now_ns: u64, dark_since_ns: u64) {
        if self.is_dark && !is_dark {
            let mut retry_ns = dark_since_ns;
            let mut timeout_ns = self.rtt_ns + TIMEOUT_NS_MIN;
            while retry_ns < now_ns {
                retry_ns += timeout_ns;
                timeout_ns *= 2;
            }
            for report in std::mem::take(&mut self.held_until_open) {
                self.deliver_at(retry_ns + self.delay_ns, report);
            }
        }
        self.is_dark = is_dark;
    }

    /// The next report that has arrived.
    pub fn receive(&mut self, now_ns: u64) -> Option<R> {
        if self.in_flight.front()?.0 > now_ns {
            return None;
        }
        self.in_flight.pop_front().map(|(_, report)| report)
    }

    /// When the next report arrives.
    #[must_use]
    pub fn next_arrival_ns(&self) -> Option<u64> {
        self.in_flight.front().map(|&(at_ns, _)| at_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_come_in_order_and_a_lost_one_holds_up_the_rest() {
        let mut channel = FeedbackChannel::new(10_000_000, 20_000_000, 0.02, 3);
        for number in 0..1_000u64 {
            channel.send(number, number * 5_000_000);
        }
        let (mut expected, mut late) = (0, 0);
        for now_ns in (0..20_000_000_000u64).step_by(1_000_000) {
            while let Some(number) = channel.receive(now_ns) {
                assert_eq!(number, expected, "in order");
                expected += 1;
                late += u64::from(now_ns > number * 5_000_000 + 12_000_000);
            }
        }
        assert_eq!(expected, 1_000, "none is lost");
        assert!((50..500).contains(&late), "{late} were held up");
    }

    #[test]
    fn what_was_said_in_the_dark_comes_out_in_the_light() {
        let mut channel = FeedbackChannel::new(1_000_000, 2_000_000, 0.0, 3);
        channel.set_dark(true, 0, 0);
        channel.send('a', 1_000_000);
        channel.set_dark(false, 5_000_000_000, 0);
        channel.send('b', 5_001_000_000);
        assert_eq!(channel.receive(5_002_000_000), None, "TCP has not tried again yet");
        assert_eq!((channel.receive(12_000_000_000), channel.receive(12_000_000_000)), (Some('a'), Some('b')));
    }
}
