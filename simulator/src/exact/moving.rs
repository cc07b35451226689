//! A transfer whose receiver moves: one change after another, each measured until the flow has
//! recovered.

use std::net::SocketAddr;

use super::ends::Transfer;
use crate::flow::FlowOptions;
use crate::path_changes::scene::{Change, GOODPUT_MIN, Move, PathChanges, PathChangesOutcome};

/// More than any run moves.
const CHUNKS: u32 = 100_000;
/// A change that takes longer is stuck.
const STUCK_NS: u64 = 60_000_000_000;
/// How often goodput is looked at while it recovers: a queue that empties fills less.
const RECOVERY_WINDOW_ROUNDS: u64 = 10;
/// How long it is measured afterwards: this many round trips, and this time.
const WINDOW_ROUNDS: u64 = 40;
const WINDOW_NS_MIN: u64 = 1_000_000_000;

/// Runs a scene to its end, or to the change that is stuck.
pub(crate) fn run_scene(scene: &PathChanges, options: &FlowOptions) -> PathChangesOutcome {
    let mut transfer = Transfer::new(scene.path, options, CHUNKS, scene.seed);
    transfer.use_addresses(scene.forger.clone());
    let (mut moves, mut stuck) = (Vec::new(), None);
    // Nothing happens before the flow is as fast as the path.
    if transfer.change(Change::Stay).is_none() {
        stuck = Some(Change::Stay);
    }
    for &change in &scene.changes {
        match transfer.change(change) {
            Some(done) => moves.push(done),
            None => {
                stuck = Some(change);
                break;
            }
        }
    }
    let ledger = &transfer.addresses.ledger;
    PathChangesOutcome {
        moves,
        stuck,
        data_to_unproved: ledger.data_to_unproved,
        amplification_max: ledger.amplification_max,
        challenged_in_vain: ledger.challenged_in_vain(),
    }
}

impl Transfer {
    /// Makes a change and measures what follows; `None` if it is stuck.
    fn change(&mut self, change: Change) -> Option<Move> {
        match change {
            Change::Stay => {}
            Change::To(to) => self.addresses.move_to(to),
            Change::DarkTo { dark_ns, to } => {
                let dark_since_ns = self.now_ns;
                self.set_dark(true, dark_since_ns);
                self.pass(dark_ns / 2);
                self.addresses.move_to(to);
                self.pass(dark_ns / 2);
                self.set_dark(false, dark_since_ns);
            }
        }
        let begun_ns = self.now_ns;
        let to = self.addresses.receiver;
        let data_before = self.data_sent_to(to);
        let heard = |transfer: &Self| change == Change::Stay || transfer.addresses.heard.contains_key(&to);
        self.wait_until(begun_ns, heard)?;
        let heard_ns = self.now_ns;
        self.wait_until(begun_ns, |transfer| transfer.data_sent_to(to) > data_before)?;
        let followed_ns = self.now_ns;
        // After an outage the control connection's own retransmission is late, and nothing reports
        // to the sender what arrived.
        let packets = self.previous.packets;
        self.wait_until(begun_ns, |transfer| transfer.previous.packets > packets)?;
        let told_ns = self.now_ns;
        while self.goodput_during(RECOVERY_WINDOW_ROUNDS * self.path.rtt_ns) < GOODPUT_MIN {
            if self.now_ns > begun_ns + STUCK_NS {
                return None;
            }
        }
        let recovered_ns = self.now_ns - told_ns;
        let goodput = self.goodput_during(WINDOW_NS_MIN.max(WINDOW_ROUNDS * self.path.rtt_ns));
        Some(Move { change, begun_ns, heard_ns, followed_ns, recovered_ns, goodput })
    }

    /// Payload that arrives in the next `ns`, of the link's rate.
    fn goodput_during(&mut self, ns: u64) -> f64 {
        let arrived = self.arrived_bytes();
        self.pass(ns);
        let bits = 8 * (self.arrived_bytes() - arrived);
        bits as f64 / (ns as f64 / 1e9) / self.path.rate_bits_per_second
    }

    fn set_dark(&mut self, is_dark: bool, dark_since_ns: u64) {
        self.path.is_dark = is_dark;
        self.feedback.set_dark(is_dark, self.now_ns, dark_since_ns);
    }

    fn data_sent_to(&self, to: SocketAddr) -> u64 {
        self.addresses.ledger.data.get(&to).copied().unwrap_or(0)
    }

    /// Payload that the receiver has, each byte once.
    fn arrived_bytes(&self) -> u64 {
        let totals = self.receiver.totals();
        totals.bytes - totals.duplicate_bytes
    }

    fn pass(&mut self, ns: u64) {
        let until_ns = self.now_ns + ns;
        while self.now_ns < until_ns {
            self.advance();
        }
    }

    fn wait_until(&mut self, since_ns: u64, is_so: impl Fn(&Self) -> bool) -> Option<()> {
        while !is_so(self) {
            if self.now_ns > since_ns + STUCK_NS {
                return None;
            }
            self.advance();
        }
        Some(())
    }
}
