//! A run in which addresses change, and its result.

use std::net::SocketAddr;

use crate::exact::addresses::Forger;
use crate::link::Path;

/// The part of the link's rate at which goodput counts as recovered after a move: the matrix's
/// bound for the worst loss here.
pub(crate) const GOODPUT_MIN: f64 = 0.8;
/// What happens to the receiver's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// None, while goodput is measured.
    Stay,
    /// It changes.
    To(SocketAddr),
    /// Nothing passes for some time; in the middle of it the address changes.
    DarkTo {
        /// For how long.
        dark_ns: u64,
        /// The new address.
        to: SocketAddr,
    },
}

/// A run.
#[derive(Clone, Debug)]
pub struct PathChanges {
    /// What it shows.
    pub name: String,
    /// The path.
    pub path: Path,
    /// What happens, each when the flow has been measured after the last.
    pub changes: Vec<Change>,
    /// The third party that copies datagrams, throughout the run.
    pub forger: Option<Forger>,
    /// Where all randomness comes from.
    pub seed: u64,
}

/// The result of one change.
#[derive(Clone, Copy, Debug)]
pub struct Move {
    /// What it was.
    pub change: Change,
    /// When the receiver was there and could be reached.
    pub begun_ns: u64,
    /// When the sender learned of it.
    pub heard_ns: u64,
    /// When the first data went there.
    pub followed_ns: u64,
    /// From the first report of data that arrived there until goodput was as before.
    pub recovered_ns: u64,
    /// Goodput in the second after that, of the link's rate.
    pub goodput: f64,
}

/// The result of a run.
#[derive(Clone, Debug)]
pub struct PathChangesOutcome {
    /// Each change that was completed.
    pub moves: Vec<Move>,
    /// The change that was not, after a virtual minute.
    pub stuck: Option<Change>,
    /// Data segments sent to addresses that had not answered a challenge.
    pub data_to_unproved: u64,
    /// The most bytes sent to such an address for each that came from there.
    pub amplification_max: f64,
    /// Addresses that were challenged in vain.
    pub challenged_in_vain: usize,
}
