//! Both ends' addresses in a transfer: the receiver's, which change, the sender's destination,
//! which follows, and a third party's, from which copies of authentic datagrams come
//! (`docs/wire.md` W-49 … W-54).
//!
//! Destination and openings are the protocol's own. What a lane does around them, that it stops and
//! probes when its path is dark, is here as far as a path of one size needs it. A ledger of its own
//! judges what goes where.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use culvert_protocol::destination::{Answer, Destination};
use culvert_protocol::openings::Openings;
use culvert_protocol::wire::{Header, OVERHEAD_BYTES, SegmentKind};

use super::Transfer;
use crate::random::Random;

/// The receiver's address as the control connection gives it.
pub const FIRST: ([u8; 4], u16) = ([10, 0, 0, 2], 7_273);
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
/// Tokens of probes for sizes are below, those of challenges not (W-50).
const CHALLENGE_TOKEN_MIN: u32 = 1 << 16;

/// An observer who sees what the receiver sends to the sender, and sends copies of it from other
/// addresses.
#[derive(Clone, Debug)]
pub struct Forger {
    /// The sources of the copies, in turn.
    pub sources: Vec<SocketAddr>,
    /// Copies of each datagram.
    pub copies: usize,
    /// The fraction of cases in which the copies are faster than the original.
    pub wins: f64,
    /// But at most this many times in a row before an original is first: an attacker who is always
    /// first could drop everything as well.
    pub wins_in_a_row_max: u32,
}

/// What was sent to an address that has not answered a challenge, and the authentic datagrams that
/// came from it.
#[derive(Clone, Copy, Debug, Default)]
struct Account {
    sent_bytes: u64,
    received_bytes: u64,
}

/// What is sent where, observed independently of the code that decides it.
#[derive(Debug)]
pub struct Ledger {
    /// The control connection's address, and those that have answered a challenge.
    proved: HashSet<SocketAddr>,
    /// Where the challenge with each token went.
    challenges: HashMap<u32, SocketAddr>,
    unproved: HashMap<SocketAddr, Account>,
    /// Data segments sent to each address.
    pub data: HashMap<SocketAddr, u64>,
    /// Data segments that went to addresses which had not answered.
    pub data_to_unproved: u64,
    /// The most bytes that an address which had not answered was sent, for each that came from it.
    pub amplification_max: f64,
}

impl Ledger {
    fn new(first: SocketAddr) -> Self {
        Self {
            proved: HashSet::from([first]),
            challenges: HashMap::new(),
            unproved: HashMap::new(),
            data: HashMap::new(),
            data_to_unproved: 0,
            amplification_max: 0.0,
        }
    }

    pub(super) fn note_sent(&mut self, to: SocketAddr, datagram: &[u8]) {
        let Ok(header) = Header::parse_datagram(datagram) else { return };
        let is_proved = self.proved.contains(&to);
        match header.kind {
            SegmentKind::Data => {
                *self.data.entry(to).or_insert(0) += 1;
                self.data_to_unproved += u64::from(!is_proved);
            }
            SegmentKind::Probe if header.chunk >= CHALLENGE_TOKEN_MIN => {
                self.challenges.insert(header.chunk, to);
            }
            _ => {}
        }
        if !is_proved {
            let account = self.unproved.entry(to).or_default();
            account.sent_bytes += datagram.len() as u64;
            let ratio = account.sent_bytes as f64 / account.received_bytes as f64;
            self.amplification_max = self.amplification_max.max(ratio);
        }
    }

    /// An authentic datagram, newer than all before.
    fn note_received(&mut self, from: SocketAddr, header: &Header, bytes: usize) {
        if header.kind == SegmentKind::ProbeReply
            && let Some(&answered) = self.challenges.get(&header.chunk)
        {
            self.proved.insert(answered);
        }
        self.unproved.entry(from).or_default().received_bytes += bytes as u64;
    }

    /// How many addresses were challenged in vain.
    #[must_use]
    pub fn challenged_in_vain(&self) -> usize {
        self.unproved
            .iter()
            .filter(|(address, account)| account.sent_bytes > 0 && !self.proved.contains(address))
            .count()
    }
}

/// A path that is dark, or not open yet.
#[derive(Clone, Copy, Debug)]
struct Probing {
    rounds: u32,
    next_ns: u64,
}

/// The addresses of a transfer.
#[derive(Debug)]
pub struct Addresses {
    /// Whether anything is sent but data: in transfers whose addresses do not change the path is
    /// open from the beginning.
    is_live: bool,
    pub(super) destination: Destination,
    pub(super) openings: Openings,
    /// Where the receiver is.
    pub(super) receiver: SocketAddr,
    pub(super) ledger: Ledger,
    pub(super) forger: Option<Forger>,
    /// When the first authentic datagram came from each address after the receiver's last change.
    pub(super) heard: HashMap<SocketAddr, u64>,
    reverse: BTreeMap<(u64, u64), (SocketAddr, Vec<u8>)>,
    sequence: u64,
    copied: usize,
    wins_in_a_row: u32,
    probing: Option<Probing>,
    search_ns: u64,
}

impl Addresses {
    /// Addresses that do not change.
    pub(super) fn fixed(seed: u64) -> Self {
        let first = SocketAddr::from(FIRST);
        let mut random = Random::new(!seed);
        let mut openings = Openings::default();
        openings.begin(0);
        Self {
            is_live: false,
            destination: Destination::new(first, std::array::from_fn(|_| random.next_u64() as u8)),
            openings,
            receiver: first,
            ledger: Ledger::new(first),
            forger: None,
            heard: HashMap::new(),
            reverse: BTreeMap::new(),
            sequence: 0,
            copied: 0,
            wins_in_a_row: 0,
            probing: None,
            search_ns: 0,
        }
    }

    /// Whether data may go.
    pub(super) const fn is_open(&self) -> bool {
        self.probing.is_none()
    }

    /// The receiver is elsewhere from now on.
    pub(super) fn move_to(&mut self, to: SocketAddr) {
        self.receiver = to;
        self.heard.clear();
    }
}

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

    /// After how much silence something is wrong, as `control` sets it.
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

    /// What a lane does with datagrams from the receiver.
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
