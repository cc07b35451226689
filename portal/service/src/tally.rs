//! What operators count. The API shows it as metrics; nothing here knows in which form.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;

macro_rules! counted {
    ($($(#[$doc:meta])* $name:ident, $metric:literal, $result:literal;)*) => {
        /// Something that is counted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Counted { $($(#[$doc])* $name,)* }

        impl Counted {
            /// All of them; those of one metric stand together.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What it is a part of.
            #[must_use]
            pub const fn metric(self) -> &'static str {
                match self { $(Self::$name => $metric,)* }
            }

            /// Which part.
            #[must_use]
            pub const fn result(self) -> &'static str {
                match self { $(Self::$name => $result,)* }
            }
        }
    };
}

counted! {
    /// Somebody has logged in, in whatever way.
    LoginDone, "logins", "done";
    /// A wrong name, password or code.
    LoginRefused, "logins", "refused";
    /// Too many attempts.
    LoginLimited, "logins", "limited";
    /// A receiver has taken a delivery.
    DeliveryDone, "webhook_deliveries", "delivered";
    /// An attempt failed, and another follows.
    DeliveryRetried, "webhook_deliveries", "retried";
    /// A delivery was given up.
    DeliveryDead, "webhook_deliveries", "dead";
    /// An entry or event has its number.
    Numbered, "sequencer_rows", "numbered";
    /// A row could not be read, and was set aside.
    SetAside, "sequencer_rows", "set_aside";
    /// A round of the sequencer failed; it is tried again.
    RoundFailed, "sequencer_rows", "failed_rounds";
}

/// The counts of one portal since it started.
#[derive(Debug, Default)]
pub struct Tally {
    counts: [AtomicU64; Counted::ALL.len()],
    waiting_since: AtomicI64,
}

impl Tally {
    /// Counts one.
    pub fn count(&self, what: Counted) {
        self.add(what, 1);
    }

    /// Counts some.
    pub fn add(&self, what: Counted, count: u64) {
        self.counts[what as usize].fetch_add(count, Ordering::Relaxed);
    }

    /// How many there were.
    #[must_use]
    pub fn get(&self, what: Counted) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// Notes since when what was said waits for its number, in microseconds; `None` if nothing
    /// does.
    pub fn waits(&self, since: Option<i64>) {
        self.waiting_since.store(since.unwrap_or(0), Ordering::Relaxed);
    }

    /// For how many seconds the oldest that was said has been waiting for its number.
    #[must_use]
    pub fn lag_seconds(&self, now: Timestamp) -> f64 {
        match self.waiting_since.load(Ordering::Relaxed) {
            0 => 0.0,
            since => (now.as_microsecond() - since).max(0) as f64 / 1e6,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_counted_by_itself() {
        let tally = Tally::default();
        tally.count(Counted::DeliveryDead);
        tally.add(Counted::Numbered, 3);
        let counts: Vec<u64> = Counted::ALL.iter().map(|one| tally.get(*one)).collect();
        assert_eq!(counts, [0, 0, 0, 0, 0, 1, 3, 0, 0]);
    }

    #[test]
    fn the_lag_grows_while_something_waits() {
        let tally = Tally::default();
        let now = Timestamp::from_second(100).unwrap();
        assert_eq!(tally.lag_seconds(now), 0.0);
        tally.waits(Some(98_500_000));
        assert_eq!(tally.lag_seconds(now), 1.5);
        tally.waits(None);
        assert_eq!(tally.lag_seconds(now), 0.0);
    }
}
