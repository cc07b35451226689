//! The share of the path that a flow takes alongside others that fill the buffer: what TCP CUBIC
//! would take.
//!
//! A flow that keeps the queue short gets nothing next to flows that keep it full. While such flows
//! exist, the rate follows CUBIC's window (RFC 9438), reduced once for each round that loses more
//! than noise. In `fair` mode, a Culvert flow thus takes the place of one CUBIC flow, and leaves
//! others what that flow would have left them.

/// RFC 9438 section 5: packets per second cubed.
const SCALE: f64 = 0.4;
/// RFC 9438 section 4.6: the fraction of the window that remains after a loss.
const BETA: f64 = 0.7;
/// RFC 9438 section 4.3: Reno's additive increase that has the same mean at this BETA.
const RENO_PACKETS_PER_ROUND: f64 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// A window as CUBIC would have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct CubicShare {
    /// Packets.
    window: f64,
    window_max: f64,
    reno_window: f64,
    /// Seconds from the epoch's begin to the return to the maximum.
    k_seconds: f64,
    epoch_ns: u64,
    grown_ns: u64,
    reduced_ns: u64,
}

impl CubicShare {
    /// Begins with a reduction of the window that `packets` are.
    pub(super) fn begin(packets: f64, now_ns: u64) -> Self {
        let mut share = Self {
            window: packets.max(2.0),
            window_max: packets.max(2.0),
            reno_window: 0.0,
            k_seconds: 0.0,
            epoch_ns: now_ns,
            grown_ns: now_ns,
            reduced_ns: 0,
        };
        share.reduce(now_ns);
        share
    }

    /// Lets the window grow until now.
    pub(super) fn grow(&mut self, now_ns: u64, rtt_ns: u64) {
        let rtt_seconds = rtt_ns.max(1) as f64 / 1e9;
        let rounds = (now_ns.saturating_sub(self.grown_ns) as f64 / 1e9 / rtt_seconds).min(1.0);
        self.grown_ns = now_ns;
        let seconds = now_ns.saturating_sub(self.epoch_ns) as f64 / 1e9 + rtt_seconds;
        let target = SCALE * (seconds - self.k_seconds).powi(3) + self.window_max;
        let target = target.clamp(self.window, 1.5 * self.window);
        self.window += (target - self.window) * rounds;
        self.reno_window += RENO_PACKETS_PER_ROUND * rounds;
        self.window = self.window.max(self.reno_window);
    }

    /// Reduces the window for a loss, once a round trip.
    pub(super) fn lose(&mut self, now_ns: u64, rtt_ns: u64) {
        if now_ns.saturating_sub(self.reduced_ns) > rtt_ns.saturating_add(rtt_ns / 2) {
            self.reduce(now_ns);
        }
    }

    fn reduce(&mut self, now_ns: u64) {
        // Fast convergence, RFC 9438 section 4.7.
        self.window_max = if self.window < self.window_max { self.window * (1.0 + BETA) / 2.0 } else { self.window };
        self.window = (self.window * BETA).max(2.0);
        self.reno_window = self.window;
        self.k_seconds = ((self.window_max - self.window).max(0.0) / SCALE).cbrt();
        (self.epoch_ns, self.grown_ns, self.reduced_ns) = (now_ns, now_ns, now_ns);
    }

    /// The window in packets.
    pub(super) const fn packets(&self) -> f64 {
        self.window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_back_at_its_maximum_after_k() {
        let mut share = CubicShare::begin(1_000.0, 0);
        assert!((share.packets() - 700.0).abs() < 1e-9);
        let k_ns = (share.k_seconds * 1e9) as u64;
        let mut now_ns = 0;
        while now_ns < k_ns {
            now_ns += 10_000_000;
            share.grow(now_ns, 40_000_000);
        }
        assert!((980.0..1_010.0).contains(&share.packets()), "{} after K", share.packets());
        share.lose(now_ns, 40_000_000);
        let reduced = share.packets();
        share.lose(now_ns + 1_000_000, 40_000_000);
        assert!((share.packets() - reduced).abs() < 1e-9, "one loss episode reduces once");
    }
}
