//! The reports of the last rounds, and sums over the newest of them.
//!
//! Spans are counted in the receiver's time: reports that TCP held up come in a bunch, but what
//! each says about its own interval stays true.

/// Entries kept. A round has four reports; the longest window in use is a few rounds, or 60 ms of
/// reports 2 ms apart.
const ENTRIES: usize = 64;

/// The contents of one report, and the state when it was made.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// When it came.
    pub now_ns: u64,
    /// What it covers.
    pub interval_us: u64,
    /// Bytes delivered in that time.
    pub delivered_bytes: u64,
    /// Packets delivered.
    pub delivered_packets: u64,
    /// Packets lost.
    pub lost_packets: u64,
    /// The least queue of the interval; `None` if nothing arrived.
    pub queue_ns: Option<u64>,
    /// The part of the interval in which the pacer held the flow back.
    pub paced_us: u64,
    /// The rate in force when it came.
    pub rate: u64,
    /// The delivery rate of the round that ends with it.
    pub delivered_rate: u64,
}

/// Sums over some entries.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sums {
    pub interval_us: u64,
    pub delivered_bytes: u64,
    pub delivered_packets: u64,
    pub lost_packets: u64,
    pub paced_us: u64,
    /// The least queue, 0 if there was no arrival.
    pub queue_ns_min: u64,
    pub queue_ns_max: u64,
}

impl Sums {
    /// Bits per second delivered; 0 over no time.
    pub(super) fn delivered_rate(&self) -> u64 {
        self.delivered_bytes.saturating_mul(8_000_000).checked_div(self.interval_us).unwrap_or(0)
    }

    /// Packets whose fate is known.
    pub(super) const fn packets(&self) -> u64 {
        self.delivered_packets.saturating_add(self.lost_packets)
    }

    /// Part of the packets that were lost; 0 of none.
    pub(super) fn loss(&self) -> f64 {
        let packets = self.packets();
        if packets == 0 { 0.0 } else { self.lost_packets as f64 / packets as f64 }
    }

    /// The part of the time, in thousandths, in which the pacer held the flow back.
    pub(super) fn paced_permille(&self) -> u64 {
        self.paced_us.saturating_mul(1_000).checked_div(self.interval_us).unwrap_or(0)
    }
}

/// The newest entries, oldest first.
#[derive(Debug)]
pub(super) struct History {
    entries: [Entry; ENTRIES],
    /// One past the newest, counted from the first ever.
    end: usize,
}

impl History {
    pub(super) const fn new() -> Self {
        const EMPTY: Entry = Entry {
            now_ns: 0,
            interval_us: 0,
            delivered_bytes: 0,
            delivered_packets: 0,
            lost_packets: 0,
            queue_ns: None,
            paced_us: 0,
            rate: 0,
            delivered_rate: 0,
        };
        Self { entries: [EMPTY; ENTRIES], end: 0 }
    }

    /// Adds an entry, to the newest one as long as that covers less than `least_us`: urgent reports
    /// come more often than the history could hold.
    pub(super) fn push(&mut self, entry: Entry, least_us: u64) {
        if let Some(newest) = self.newest_mut()
            && newest.interval_us < least_us
        {
            newest.now_ns = entry.now_ns;
            newest.interval_us = newest.interval_us.saturating_add(entry.interval_us);
            newest.delivered_bytes = newest.delivered_bytes.saturating_add(entry.delivered_bytes);
            newest.delivered_packets = newest.delivered_packets.saturating_add(entry.delivered_packets);
            newest.lost_packets = newest.lost_packets.saturating_add(entry.lost_packets);
            newest.paced_us = newest.paced_us.saturating_add(entry.paced_us);
            newest.rate = entry.rate;
            newest.queue_ns = match (newest.queue_ns, entry.queue_ns) {
                (Some(one), Some(other)) => Some(one.min(other)),
                (one, other) => one.or(other),
            };
            return;
        }
        self.end = self.end.wrapping_add(1);
        if let Some(newest) = self.newest_mut() {
            *newest = entry;
        }
    }

    /// Notes the delivery rate of the round that the newest entry ends.
    pub(super) fn set_delivered_rate(&mut self, rate: u64) {
        if let Some(newest) = self.newest_mut() {
            newest.delivered_rate = rate;
        }
    }

    fn newest_mut(&mut self) -> Option<&mut Entry> {
        let at = self.end.checked_sub(1)?;
        self.entries.get_mut(at % ENTRIES)
    }

    /// Newest first.
    fn newest(&self) -> impl Iterator<Item = &Entry> {
        (self.end.saturating_sub(ENTRIES)..self.end).rev().filter_map(|at| self.entries.get(at % ENTRIES))
    }

    /// Entries, newest first, until they cover `span_us`.
    pub(super) fn within(&self, span_us: u64) -> impl Iterator<Item = &Entry> {
        let mut covered_us = 0u64;
        self.newest().take_while(move |entry| {
            let wanted = covered_us < span_us;
            covered_us = covered_us.saturating_add(entry.interval_us.max(1));
            wanted
        })
    }

    /// Sums over the newest entries that cover `span_us`.
    pub(super) fn sums(&self, span_us: u64) -> Sums {
        let mut sums = Sums { queue_ns_min: u64::MAX, ..Sums::default() };
        for entry in self.within(span_us) {
            sums.interval_us = sums.interval_us.saturating_add(entry.interval_us);
            sums.delivered_bytes = sums.delivered_bytes.saturating_add(entry.delivered_bytes);
            sums.delivered_packets = sums.delivered_packets.saturating_add(entry.delivered_packets);
            sums.lost_packets = sums.lost_packets.saturating_add(entry.lost_packets);
            sums.paced_us = sums.paced_us.saturating_add(entry.paced_us);
            if let Some(queue_ns) = entry.queue_ns {
                sums.queue_ns_min = sums.queue_ns_min.min(queue_ns);
                sums.queue_ns_max = sums.queue_ns_max.max(queue_ns);
            }
        }
        if sums.queue_ns_min == u64::MAX {
            sums.queue_ns_min = 0;
        }
        sums
    }

    /// The rate that was in force at a time; that of the oldest entry if it is older.
    pub(super) fn rate_at(&self, at_ns: u64) -> Option<u64> {
        let mut rate = None;
        for entry in self.newest() {
            rate = Some(entry.rate);
            if entry.now_ns <= at_ns {
                break;
            }
        }
        rate
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.end = 0;
    }
}
