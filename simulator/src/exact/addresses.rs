//! Both ends' addresses in a transfer: the receiver's, which change, the sender's destination,
//! which follows, and a third party's, from which copies of authentic datagrams come
//! (`docs/wire.md` W-49 … W-54).
//!
//! Destination and openings are the protocol's own. A ledger judges what goes where, independently
//! of the code that decides it. `exact/following.rs` has what both ends do with it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;

use culvert_protocol::destination::Destination;
use culvert_protocol::openings::Openings;
use culvert_protocol::wire::{Header, SegmentKind};

use crate::random::Random;

/// The receiver's address as the control connection gives it.
pub const FIRST: ([u8; 4], u16) = ([10, 0, 0, 2], 7_273);
/// Tokens of path MTU probes are below this; those of challenges are not (W-50).
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
    pub(super) fn note_received(&mut self, from: SocketAddr, header: &Header, bytes: usize) {
        if header.kind == SegmentKind::ProbeReply
            && let Some(&answered) = self.challenges.get(&header.chunk)
        {
            self.proved.insert(answered);
        }
        self.unproved.entry(from).or_default().received_bytes += bytes as u64;
    }

    /// How many addresses did not answer their challenges.
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
pub(super) struct Probing {
    pub(super) rounds: u32,
    pub(super) next_ns: u64,
}

/// The addresses of a transfer.
#[derive(Debug)]
pub struct Addresses {
    /// Whether anything is sent but data: in transfers whose addresses do not change the path is
    /// open from the beginning.
    pub(super) is_live: bool,
    pub(super) destination: Destination,
    pub(super) openings: Openings,
    /// Where the receiver is.
    pub(super) receiver: SocketAddr,
    pub(super) ledger: Ledger,
    pub(super) forger: Option<Forger>,
    /// When the first authentic datagram came from each address after the receiver's last change.
    pub(super) heard: HashMap<SocketAddr, u64>,
    pub(super) reverse: BTreeMap<(u64, u64), (SocketAddr, Vec<u8>)>,
    pub(super) sequence: u64,
    pub(super) copied: usize,
    pub(super) wins_in_a_row: u32,
    pub(super) probing: Option<Probing>,
    pub(super) search_ns: u64,
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
