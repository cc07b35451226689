//! What limited a transfer, judged by where its lanes spent their time.
//!
//! Each lane measures how long it was busy and how long it waited for what. The verdict is
//! arithmetic on these measurements: the cause with the greatest share of the transfer's time. The
//! sender's own time is examined first; the receiver's measurements decide only if the sender
//! waited for credit or for the controller.

use serde::{Deserialize, Serialize};

/// What can limit a transfer; the contract's `limited_by`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// The sender waited for its source to be read.
    SourceRead,
    /// The sender's lanes were fully busy.
    SenderCpu,
    /// The rate that the user asked for.
    Pacing,
    /// The network between the nodes.
    Path,
    /// The receiver's lanes were fully busy.
    ReceiverCpu,
    /// The receiver waited for its destination to be written.
    DestinationWrite,
    /// The receiver had no buffers, for none of the reasons above.
    PartnerCredit,
}

impl Limit {
    /// Its name in a sentence.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::SourceRead => "source read",
            Self::SenderCpu => "sender CPU",
            Self::Pacing => "the rate asked for",
            Self::Path => "the network path",
            Self::ReceiverCpu => "receiver CPU",
            Self::DestinationWrite => "receiver disk write",
            Self::PartnerCredit => "the partner's buffers",
        }
    }
}

/// Where the sending lanes spent their time, in nanoseconds, while they had the transfer's chunks
/// to send or waited for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderTimes {
    /// Sealing, hashing and sending.
    pub busy_ns: u64,
    /// Waiting for bytes of the source.
    pub reading_ns: u64,
    /// Waiting for the pacer.
    pub pacing_ns: u64,
    /// Waiting for credit or for the fate of packets in flight.
    pub credit_ns: u64,
}

/// What the receiver's reports said, averaged over the transfer and weighted with time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReceiverTimes {
    /// Part of the time that the receiving lanes were busy, 0 to 1.
    pub busy: f64,
    /// Part of the time that buffers waited for the destination, 0 to 1.
    pub writing: f64,
}

/// The verdict on a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The cause.
    pub limited_by: Limit,
    /// Its part of the time, 0 to 1.
    pub share: f64,
    /// The line that users read.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub text: String,
}

/// From this share of the time on, a receiving lane counts as the bottleneck rather than the path
/// before it. A lane that is busy 90 % of the time has an interval without a spare cycle in most of
/// its reports.
const SATURATED: f64 = 0.9;
/// From this part on, waiting for the destination explains missing credit.
const WRITING: f64 = 0.3;

/// A transfer whose lanes took less than this, all of them together, is too short for a verdict: it
/// is over before a flow reaches its rate, and most of its waiting is for its own start and end.
const TELLING_NS: u64 = 200_000_000;

/// Finds the verdict. `rate_was_asked_for` says that the pacing rate was the user's cap, not the
/// controller's.
#[must_use]
pub fn verdict(sender: &SenderTimes, receiver: &ReceiverTimes, rate_was_asked_for: bool) -> Verdict {
    let paced_by = if rate_was_asked_for {
        Limit::Pacing
    } else if receiver.busy >= SATURATED {
        Limit::ReceiverCpu
    } else if receiver.writing >= WRITING {
        Limit::DestinationWrite
    } else {
        Limit::Path
    };
    let credit_by = if receiver.writing >= WRITING {
        Limit::DestinationWrite
    } else if receiver.busy >= SATURATED {
        Limit::ReceiverCpu
    } else {
        Limit::PartnerCredit
    };
    let times = [
        (Limit::SenderCpu, sender.busy_ns),
        (Limit::SourceRead, sender.reading_ns),
        (paced_by, sender.pacing_ns),
        (credit_by, sender.credit_ns),
    ];
    let add = |sum: u64, ns: u64| sum.saturating_add(ns);
    let total = times.iter().map(|&(_, ns)| ns).fold(0, add);
    // Pacing and credit may have the same cause; their times then add up.
    let of = |limit: Limit| times.iter().filter(|&&(cause, _)| cause == limit).map(|&(_, ns)| ns).fold(0, add);
    let causes = times.iter().map(|&(limit, _)| (limit, of(limit)));
    let (limited_by, ns) = causes.max_by_key(|&(_, ns)| ns).unwrap_or((Limit::SenderCpu, 0));
    let is_too_short = total < TELLING_NS;
    let share = if is_too_short { 0.0 } else { ns as f64 / total as f64 };
    let text = if is_too_short {
        "too short to tell what limited it".to_owned()
    } else {
        format!("limited by {} ({:.0} %)", limited_by.words(), share * 100.0)
    };
    Verdict { limited_by, share, text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn times(busy_ns: u64, reading_ns: u64, pacing_ns: u64, credit_ns: u64) -> SenderTimes {
        SenderTimes { busy_ns, reading_ns, pacing_ns, credit_ns }
    }

    /// Times in tenths of a second.
    fn tenths(busy: u64, reading: u64, pacing: u64, credit: u64) -> SenderTimes {
        let ns = |tenths: u64| tenths * 100_000_000;
        times(ns(busy), ns(reading), ns(pacing), ns(credit))
    }

    #[test]
    fn each_cause_can_win() {
        let idle = ReceiverTimes { busy: 0.2, writing: 0.0 };
        let saturated = ReceiverTimes { busy: 0.97, writing: 0.0 };
        let writing = ReceiverTimes { busy: 0.3, writing: 0.8 };
        let limit = |sender, receiver, asked| verdict(&sender, &receiver, asked).limited_by;
        assert_eq!(limit(times(9, 1, 0, 0), idle, false), Limit::SenderCpu);
        assert_eq!(limit(times(1, 9, 0, 0), idle, false), Limit::SourceRead);
        assert_eq!(limit(times(1, 0, 9, 0), idle, true), Limit::Pacing);
        assert_eq!(limit(times(1, 0, 9, 0), idle, false), Limit::Path);
        assert_eq!(limit(times(1, 0, 9, 0), saturated, false), Limit::ReceiverCpu);
        assert_eq!(limit(times(1, 0, 0, 9), writing, false), Limit::DestinationWrite);
        assert_eq!(limit(times(1, 0, 0, 9), saturated, false), Limit::ReceiverCpu);
        assert_eq!(limit(times(1, 0, 0, 9), idle, false), Limit::PartnerCredit);
    }

    #[test]
    fn two_waits_with_one_cause_add_up() {
        let verdict = verdict(&tenths(40, 0, 30, 30), &ReceiverTimes { busy: 0.1, writing: 0.9 }, false);
        assert_eq!(verdict.limited_by, Limit::DestinationWrite);
        assert_eq!(verdict.text, "limited by receiver disk write (60 %)");
    }

    #[test]
    fn nothing_measured_is_said() {
        assert_eq!(verdict(&times(0, 0, 0, 0), &ReceiverTimes::default(), false).share, 0.0);
    }

    /// A file of 20 KB was "limited by the partner's buffers (96 %)".
    #[test]
    fn a_transfer_that_is_over_at_once_has_no_verdict() {
        let short = verdict(&times(500_000, 0, 0, 12_000_000), &ReceiverTimes::default(), false);
        assert_eq!((short.share, short.text.as_str()), (0.0, "too short to tell what limited it"));
    }

    /// A partner can report any times.
    #[test]
    fn times_of_any_size_are_summed_up_without_overflow() {
        let most = u64::MAX;
        for sender in [times(most, most, most, most), times(most, 0, 0, most), times(1, 0, most, most)] {
            for part in [f64::NAN, f64::NEG_INFINITY, -1.0, 0.0, 1e300, f64::INFINITY] {
                let verdict = verdict(&sender, &ReceiverTimes { busy: part, writing: part }, false);
                assert!((0.0..=1.0).contains(&verdict.share), "{sender:?}, {part}: {verdict:?}");
            }
        }
    }
}
