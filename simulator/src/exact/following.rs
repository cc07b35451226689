//! How both ends make data follow a receiver that moves (`docs/wire.md` W-49 … W-54), as the lanes
//! do it: they stop and probe when the path is dark. All probes have one size.

use std::net::SocketAddr;

use culvert_protocol::destination::Answer;
use culvert_protocol::wire::{Header, OVERHEAD_BYTES, SegmentKind};

use super::addresses::{Forger, Probing};
use super::ends::Transfer;

/// Time between two rounds of probes on a dark path, doubled so often
/// (`lane/sending/probing.rs`).
const PROBE_ROUND_NS: u64 = 20_000_000;
const PROBE_DOUBLINGS_MAX: u32 = 7;
/// When the path counts as dark (`lane/sending.rs`).
const DARK_TIMEOUTS: u32 = 3;
const DARK_NS_MIN: u64 = 500_000_000;
/// Probes that go while data move, as those of the search for a larger size: each answer is
/// something to copy.
const SEARCH_NS: u64 = 100_000_000;
impl Transfer {
    /// Addresses may change from now on, and the path has to be found open first.
    pub(super) fn use_addresses(&mut self, forger: Option<Forger>) {
        self.addresses.is_live = true;
        self.addresses.forger = forger;
        self.addresses.probing = Some(Probing { rounds: 0, next_ns: self.now_ns });
    }

    /// What both ends do in addition to moving data.
    pub(super) fn look_after_addresses(&mut self) {
        if !self.addresses.is_live {
            return;
        }
        if self.now_ns >= self.addresses.openings.due_ns() {
            self.addresses.openings.on_sent(self.now_ns);
            let mut datagram = [0; OVERHEAD_BYTES];
            let bytes = self.receiver.seal_opening((self.now_ns / 1_000) as u32, &mut datagram);
            self.send_back(&datagram[..bytes]);
        }
        self.read_replies();
        self.challenge();
        self.probe();
    }

    /// The silence after which a flow retransmits, as `control` sets it.
    pub(super) const fn patience_ns(&self) -> u64 {
        2 * self.rtt_ns + 10_000_000
    }

    /// The receiver answers a probe.
    pub(super) fn answer(&mut self, probe: &Header, datagram_bytes: usize) {
        let mut datagram = [0; OVERHEAD_BYTES];
        let bytes = self.receiver.seal_probe_reply(probe, datagram_bytes, &mut datagram);
        self.send_back(&datagram[..bytes]);
    }

    /// A datagram of the receiver's to the sender, and its copies.
    fn send_back(&mut self, datagram: &[u8]) {
        let (half_ns, now_ns) = (self.path.rtt_ns / 2, self.now_ns);
        let addresses = &mut self.addresses;
        let mut launch = |from: SocketAddr, delay_ns: u64| {
            addresses.sequence += 1;
            addresses.reverse.insert((now_ns + delay_ns, addresses.sequence), (from, datagram.to_vec()));
        };
        let is_lost = self.path.is_dark || self.random.chance(self.path.loss);
        if !is_lost {
            launch(addresses.receiver, half_ns);
        }
        let Some(forger) = addresses.forger.as_ref().filter(|_| !self.path.is_dark) else { return };
        let may_win = addresses.wins_in_a_row < forger.wins_in_a_row_max;
        let wins = may_win && self.random.chance(forger.wins);
        for copy in 0..forger.copies {
            let from = forger.sources[(addresses.copied + copy) % forger.sources.len()];
            launch(from, if wins { half_ns / 2 } else { half_ns + 1_000 });
        }
        addresses.copied += forger.copies;
        if wins {
            addresses.wins_in_a_row += 1;
        } else if !is_lost {
            addresses.wins_in_a_row = 0;
        }
    }

    /// Handles datagrams from the receiver as a lane does.
    fn read_replies(&mut self) {
        while let Some(entry) = self.addresses.reverse.first_entry().filter(|entry| entry.key().0 <= self.now_ns) {
            let (from, datagram) = entry.remove();
            let Ok(header) = Header::parse_datagram(&datagram) else { continue };
            if !self.sender.open_reply(&datagram, &header) {
                continue;
            }
            let addresses = &mut self.addresses;
            addresses.ledger.note_received(from, &header, datagram.len());
            addresses.heard.entry(from).or_insert(self.now_ns);
            addresses.destination.on_authentic(from, datagram.len(), self.now_ns);
            if header.kind != SegmentKind::ProbeReply {
                continue;
            }
            match addresses.destination.on_answer(header.chunk) {
                Answer::Late => {}
                Answer::Moved => {
                    if let Some(probing) = addresses.probing.as_mut() {
                        *probing = Probing { rounds: 0, next_ns: self.now_ns };
                    }
                }
                Answer::None => {
                    if addresses.probing.take().is_some() {
                        self.sender.forget_silence();
                    }
                }
            }
        }
    }

    fn challenge(&mut self) {
        let patience_ns = self.patience_ns();
        let Some((to, token)) = self.addresses.destination.due(OVERHEAD_BYTES, patience_ns, self.now_ns) else {
            return;
        };
        self.send_probe(to, token, OVERHEAD_BYTES);
    }

    fn send_probe(&mut self, to: SocketAddr, token: u32, datagram_bytes: usize) {
        let now_us = (self.now_ns / 1_000) as u32;
        if self.sender.seal_probe(token, datagram_bytes, now_us, &mut self.packet).is_some() {
            self.launch(to, datagram_bytes);
        }
    }

    /// Probes a path that is dark, or while data move; finds out that it is dark.
    fn probe(&mut self) {
        let (to, now_ns) = (self.addresses.destination.address(), self.now_ns);
        let datagram_bytes = usize::from(self.sender.stride()) + OVERHEAD_BYTES;
        if let Some(probing) = self.addresses.probing.as_mut() {
            if now_ns >= probing.next_ns {
                probing.next_ns = now_ns + (PROBE_ROUND_NS << probing.rounds.min(PROBE_DOUBLINGS_MAX));
                probing.rounds += 1;
                self.send_probe(to, 0, datagram_bytes);
            }
            return;
        }
        if now_ns >= self.addresses.search_ns {
            self.addresses.search_ns = now_ns + SEARCH_NS;
            self.send_probe(to, 1, OVERHEAD_BYTES);
        }
        let dark_ns = (4 * self.patience_ns()).max(DARK_NS_MIN);
        if self.sender.timeouts() >= DARK_TIMEOUTS || self.sender.unanswered_ns(now_ns) > dark_ns {
            self.addresses.probing = Some(Probing { rounds: 0, next_ns: now_ns });
        }
    }
}
