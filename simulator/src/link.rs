//! The bottleneck: a queue of batches that is served at a rate, and the path behind it, which
//! loses, delays, duplicates and damages packets.
//!
//! A batch is what one flow sends in one step of the virtual clock: a count of equal packets. The
//! queue is first in, first out between steps; what arrives within one step shares the room that is
//! left in proportion, as interleaved packets would. Random loss is drawn per packet of a batch
//! (binomial); the Gilbert–Elliott chain changes its state between batches with the chance that it
//! would have changed within as many packets.

use std::collections::VecDeque;

use crate::random::Random;

/// Loss in bursts: a chain of a good and a bad state (Gilbert 1960, Elliott 1963).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BurstLoss {
    /// Chance per packet to go from good to bad.
    pub to_bad: f64,
    /// Chance per packet to go from bad to good.
    pub to_good: f64,
    /// Loss in the bad state.
    pub loss_in_bad: f64,
}

/// The properties of a path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Path {
    /// Bits per second of whole IP packets.
    pub rate_bits_per_second: f64,
    /// Round trip without a queue; half of it in each direction.
    pub rtt_ns: u64,
    /// The bottleneck's buffer, in bytes.
    pub buffer_bytes: f64,
    /// Chance that a packet is lost behind the bottleneck, independent of others.
    pub loss: f64,
    /// Loss in bursts, in addition.
    pub burst_loss: Option<BurstLoss>,
    /// Fraction that arrives later than its successors by up to [`Path::reordering_ns`].
    pub reordering: f64,
    /// How much later.
    pub reordering_ns: u64,
    /// Fraction that arrives twice.
    pub duplication: f64,
    /// Fraction that arrives damaged, which the receiver must treat as lost.
    pub corruption: f64,
    /// Whether nothing passes in either direction.
    pub is_dark: bool,
}

impl Path {
    /// A clean path with a buffer of one product of bandwidth and delay.
    #[must_use]
    pub fn clean(rate_bits_per_second: f64, rtt_ms: f64) -> Self {
        Self {
            rate_bits_per_second,
            rtt_ns: (rtt_ms * 1e6) as u64,
            buffer_bytes: rate_bits_per_second * rtt_ms / 8e3,
            loss: 0.0,
            burst_loss: None,
            reordering: 0.0,
            reordering_ns: 0,
            duplication: 0.0,
            corruption: 0.0,
            is_dark: false,
        }
    }

    /// With this chance of loss.
    #[must_use]
    pub fn with_loss(self, loss: f64) -> Self {
        Self { loss, ..self }
    }

    /// With a buffer of `bdp` products of bandwidth and delay.
    #[must_use]
    pub fn with_buffer_bdp(self, bdp: f64) -> Self {
        Self { buffer_bytes: self.rate_bits_per_second * self.rtt_ns as f64 / 8e9 * bdp, ..self }
    }
}

/// Packets of one flow that travel together.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// Whose they are.
    pub flow: usize,
    /// When they were sent.
    pub sent_ns: u64,
    /// How many arrive.
    pub packets: f64,
    /// Packets of the flow that were lost before or among these.
    pub lost: f64,
    /// Bytes of each, with all headers from IP on.
    pub packet_bytes: f64,
}

/// The bottleneck and the path behind it.
#[derive(Debug)]
pub struct Link {
    /// The path's present properties.
    pub path: Path,
    random: Random,
    queue: VecDeque<Batch>,
    queued_bytes: f64,
    /// Batches behind the bottleneck, by arrival time.
    flying: VecDeque<(u64, Batch)>,
    is_bad: bool,
    lost_pending: Vec<f64>,
    /// Packets that the full buffer dropped.
    pub dropped: f64,
    /// Packets that the path lost or damaged.
    pub harmed: f64,
    /// Packets that arrived twice, or too late to be of use.
    pub superfluous: f64,
}

impl Link {
    /// An empty link for `flows` flows.
    #[must_use]
    pub fn new(path: Path, flows: usize, seed: u64) -> Self {
        Self {
            path,
            random: Random::new(seed),
            queue: VecDeque::new(),
            queued_bytes: 0.0,
            flying: VecDeque::new(),
            is_bad: false,
            lost_pending: vec![0.0; flows],
            dropped: 0.0,
            harmed: 0.0,
            superfluous: 0.0,
        }
    }

    /// How long a packet that arrives now would wait.
    #[must_use]
    pub fn queue_ns(&self) -> f64 {
        self.queued_bytes * 8e9 / self.path.rate_bits_per_second
    }

    /// Queues what all flows send in one step of `step_ns`.
    pub fn offer(&mut self, batches: &[Batch], step_ns: u64) {
        let offered: f64 = batches.iter().map(|batch| batch.packets * batch.packet_bytes).sum();
        if offered <= 0.0 {
            return;
        }
        // Packets served within the step make room, too.
        let served = self.path.rate_bits_per_second * step_ns as f64 / 8e9;
        let room = (self.path.buffer_bytes + served - self.queued_bytes).max(0.0);
        let part = (room / offered).min(1.0);
        for batch in batches {
            let kept = if part < 1.0 { (batch.packets * part).floor() } else { batch.packets };
            let pending = &mut self.lost_pending[batch.flow];
            *pending += batch.packets - kept;
            self.dropped += batch.packets - kept;
            if kept > 0.0 {
                let lost = std::mem::take(pending);
                self.queued_bytes += kept * batch.packet_bytes;
                self.queue.push_back(Batch { packets: kept, lost, ..*batch });
            }
        }
    }

    /// Serves the queue for the step that ends at `now_ns`.
    pub fn serve(&mut self, now_ns: u64, step_ns: u64) {
        let mut bytes = self.path.rate_bits_per_second * step_ns as f64 / 8e9;
        while bytes > 0.0 {
            let Some(front) = self.queue.front_mut() else { break };
            let wanted = front.packets * front.packet_bytes;
            let mut gone = *front;
            if wanted <= bytes {
                self.queue.pop_front();
            } else {
                gone.packets = bytes / front.packet_bytes;
                front.packets -= gone.packets;
                front.lost = 0.0;
            }
            let gone_bytes = gone.packets * gone.packet_bytes;
            bytes -= gone_bytes;
            self.queued_bytes = (self.queued_bytes - gone_bytes).max(0.0);
            self.launch(gone, now_ns);
        }
        if self.queue.is_empty() {
            self.queued_bytes = 0.0;
        }
    }

    /// Sends a batch on its way behind the bottleneck.
    fn launch(&mut self, mut batch: Batch, now_ns: u64) {
        let path = self.path;
        let whole = batch.packets.round().max(1.0) as u64;
        let mut loss = path.loss + path.corruption;
        if let Some(bursts) = path.burst_loss {
            let change = if self.is_bad { bursts.to_good } else { bursts.to_bad };
            if self.random.chance(1.0 - (1.0 - change).powf(batch.packets)) {
                self.is_bad = !self.is_bad;
            }
            loss += if self.is_bad { bursts.loss_in_bad } else { 0.0 };
        }
        let part = if path.is_dark { 1.0 } else { self.random.binomial(whole, loss.min(1.0)) as f64 / whole as f64 };
        let lost = batch.packets * part;
        self.harmed += lost;
        batch.packets -= lost;
        batch.lost += lost;
        // Invariant I-sim-packets: A simulated path loses no more packets than it was given.
        assert!(batch.packets >= 0.0, "{} packets are left", batch.packets);
        self.superfluous += batch.packets * path.duplication;
        if batch.packets <= 0.0 {
            self.lost_pending[batch.flow] += batch.lost;
            return;
        }
        let arrival_ns = now_ns + path.rtt_ns / 2;
        if path.reordering > 0.0 {
            let late = batch.packets * self.random.binomial(whole, path.reordering) as f64 / whole as f64;
            if late > 0.0 && late < batch.packets {
                batch.packets -= late;
                let late_ns = arrival_ns + self.random.below(path.reordering_ns.max(1));
                self.fly(late_ns, Batch { packets: late, lost: 0.0, ..batch });
            }
        }
        self.fly(arrival_ns, batch);
    }

    fn fly(&mut self, arrival_ns: u64, batch: Batch) {
        let at = self.flying.partition_point(|&(other_ns, _)| other_ns <= arrival_ns);
        self.flying.insert(at, (arrival_ns, batch));
    }

    /// The next batch that has arrived by `now_ns`, and when.
    pub fn arrival(&mut self, now_ns: u64) -> Option<(u64, Batch)> {
        if self.flying.front()?.0 > now_ns {
            return None;
        }
        self.flying.pop_front()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(path: Path, packets_per_step: f64, steps: u64) -> (f64, f64, Link) {
        let mut link = Link::new(path, 1, 7);
        let (step_ns, mut arrived, mut lost) = (100_000, 0.0, 0.0);
        for step in 1..=steps + 10_000 {
            let now_ns = step * step_ns;
            if step <= steps {
                let batch =
                    Batch { flow: 0, sent_ns: now_ns, packets: packets_per_step, lost: 0.0, packet_bytes: 9_000.0 };
                link.offer(&[batch], step_ns);
            }
            link.serve(now_ns, step_ns);
            while let Some((_, batch)) = link.arrival(now_ns) {
                arrived += batch.packets;
                lost += batch.lost;
            }
        }
        (arrived, lost, link)
    }

    #[test]
    fn packets_are_neither_made_nor_forgotten() {
        let path = Path { loss: 0.05, reordering: 0.1, reordering_ns: 3_000_000, ..Path::clean(10e9, 20.0) };
        let (arrived, lost, link) = run(path, 20.0, 20_000);
        assert!((arrived + lost + link.lost_pending[0] - 400_000.0).abs() < 1e-3, "{arrived} and {lost}");
        assert!((link.dropped + link.harmed - lost - link.lost_pending[0]).abs() < 1e-3);
        // 14.4 Gb/s offered to 10 Gb/s, with a buffer of 20 ms.
        assert!(link.dropped > 100_000.0, "{} dropped", link.dropped);
    }

    #[test]
    fn bursts_lose_what_the_chain_says() {
        let bursts = BurstLoss { to_bad: 0.0001, to_good: 0.01, loss_in_bad: 0.5 };
        let path = Path { burst_loss: Some(bursts), ..Path::clean(10e9, 20.0) };
        let (arrived, lost, _) = run(path, 5.0, 200_000);
        let part = lost / (arrived + lost);
        assert!((0.003..0.007).contains(&part), "{part} lost where the chain says 0.005");
    }
}
