//! What each partner takes of this node: transfers at once, memory for what it says before it
//! sends, open files, listings.
//!
//! Partners are approved, but not trusted with everything: none can keep the others out by asking
//! for all that there is ([`crate::limits`]).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_objects::source::Retained;
use culvert_protocol::identity::PublicKey;
use tokio::sync::Semaphore;

use crate::limits::MANIFEST_BYTES_PER_PARTNER;

/// Bytes that an entry takes in addition to its name: its record, its place in the plan, its hash,
/// and the planning's own tables.
const ENTRY_BYTES: u64 = 256;

/// What is counted piece by piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Files that are open.
    Files,
    /// Listings that run.
    Listings,
    /// Sources that are open.
    Sources,
}

#[derive(Debug)]
struct Taken {
    /// What the data plane calls the partner.
    holder: u32,
    /// Its transfers: as long as there are some it is known by the same number.
    sessions: usize,
    manifest_bytes: u64,
    /// By [`Kind`].
    pieces: [usize; 3],
    /// One helper hashes a partner's holes at a time.
    hole_helper: Arc<Semaphore>,
}

impl Taken {
    fn is_nothing(&self) -> bool {
        self.sessions == 0 && self.manifest_bytes == 0 && self.pieces == [0; 3]
    }
}

#[derive(Debug, Default)]
struct AllTaken {
    partners: HashMap<PublicKey, Taken>,
    next_holder: u32,
}

impl AllTaken {
    fn of(&mut self, partner: PublicKey) -> &mut Taken {
        let next_holder = &mut self.next_holder;
        self.partners.entry(partner).or_insert_with(|| {
            *next_holder = next_holder.wrapping_add(1);
            Taken {
                holder: *next_holder,
                sessions: 0,
                manifest_bytes: 0,
                pieces: [0; 3],
                hole_helper: Arc::new(Semaphore::new(1)),
            }
        })
    }

    fn forget_if_nothing(&mut self, partner: PublicKey) {
        if self.partners.get(&partner).is_some_and(Taken::is_nothing) {
            self.partners.remove(&partner);
        }
    }
}

/// What all partners have taken.
#[derive(Debug, Default)]
pub struct Shares {
    taken: Mutex<AllTaken>,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, AllTaken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The share of a transfer that a partner asked for. It has a place among the node's sessions
    /// already, by which their number is bounded.
    #[must_use]
    pub fn take(self: &Arc<Self>, partner: PublicKey) -> Share {
        self.share(partner, false)
    }

    /// As [`Shares::take`], for a transfer that this node's user asked for.
    #[must_use]
    pub fn take_for_user(self: &Arc<Self>, partner: PublicKey) -> Share {
        self.share(partner, true)
    }

    fn share(self: &Arc<Self>, partner: PublicKey, is_users: bool) -> Share {
        let mut taken = self.lock();
        let of_partner = taken.of(partner);
        of_partner.sessions += 1;
        Share { shares: self.clone(), partner, holder: of_partner.holder, sessions: 1, manifest_bytes: 0, is_users }
    }
}

/// What one transfer has taken; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    partner: PublicKey,
    holder: u32,
    sessions: usize,
    manifest_bytes: u64,
    is_users: bool,
}

impl Share {
    /// What the data plane calls the partner.
    #[must_use]
    pub const fn holder(&self) -> u32 {
        self.holder
    }

    /// Whether this node's user asked for the transfer.
    #[must_use]
    pub const fn is_users(&self) -> bool {
        self.is_users
    }

    /// Takes memory for another entry of the manifest; false if the partner has taken all that it
    /// may.
    #[must_use]
    pub fn take_entry(&mut self, name_bytes: usize) -> bool {
        self.take_bytes(ENTRY_BYTES + name_bytes as u64)
    }

    /// Takes memory; false if the partner has taken all that it may.
    #[must_use]
    pub fn take_bytes(&mut self, bytes: u64) -> bool {
        let mut taken = self.shares.lock();
        let of_partner = taken.of(self.partner);
        if of_partner.manifest_bytes + bytes > MANIFEST_BYTES_PER_PARTNER {
            return false;
        }
        of_partner.manifest_bytes += bytes;
        self.manifest_bytes += bytes;
        true
    }

    /// A share of the same transfer for a thread of its own.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self { shares: self.shares.clone(), sessions: 0, manifest_bytes: 0, ..*self }
    }

    /// How many pieces of a kind the partner has.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.shares.lock().of(self.partner).pieces[kind as usize]
    }

    /// Takes pieces, however many the partner has.
    #[must_use]
    pub fn piece(&self, kind: Kind) -> Piece {
        self.shares.lock().of(self.partner).pieces[kind as usize] += 1;
        Piece { shares: self.shares.clone(), partner: self.partner, kind, count: 1 }
    }

    /// Takes `count` pieces, if the partner has no more than `partner_max` then, and all partners
    /// no more than `all_max`.
    #[must_use]
    pub fn try_pieces(&self, kind: Kind, count: usize, partner_max: usize, all_max: usize) -> Option<Piece> {
        let mut taken = self.shares.lock();
        let in_all: usize = taken.partners.values().map(|taken| taken.pieces[kind as usize]).sum();
        let of_partner = &mut taken.of(self.partner).pieces[kind as usize];
        if *of_partner + count > partner_max || in_all + count > all_max {
            return None;
        }
        *of_partner += count;
        Some(Piece { shares: self.shares.clone(), partner: self.partner, kind, count })
    }

    /// The holder of the permit hashes the partner's holes.
    #[must_use]
    pub fn hole_helper(&self) -> Arc<Semaphore> {
        self.shares.lock().of(self.partner).hole_helper.clone()
    }
}

impl Retained for Share {}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        let of_partner = taken.of(self.partner);
        of_partner.sessions -= self.sessions;
        of_partner.manifest_bytes -= self.manifest_bytes;
        taken.forget_if_nothing(self.partner);
    }
}

/// Something that a partner has; given back when it is dropped.
#[derive(Debug)]
pub struct Piece {
    shares: Arc<Shares>,
    partner: PublicKey,
    kind: Kind,
    count: usize,
}

impl Drop for Piece {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        taken.of(self.partner).pieces[self.kind as usize] -= self.count;
        taken.forget_if_nothing(self.partner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_takes_no_more_than_its_share_and_leaves_the_others_theirs() {
        let shares = Arc::new(Shares::default());
        let (one, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut held: Vec<_> = (0..3).map(|_| shares.take(one)).collect();
        let mut others = shares.take(other);
        assert_ne!(others.holder(), held[0].holder());
        let half = (MANIFEST_BYTES_PER_PARTNER / 2) as usize;
        assert!(!held[0].take_bytes(MANIFEST_BYTES_PER_PARTNER + 1));
        assert!(held[0].take_bytes(half as u64) && !held[1].take_entry(half) && others.take_entry(half));
        drop(held.swap_remove(0));
        assert!(held[1].take_entry(half));
        drop((held, others));
        assert!(shares.lock().partners.is_empty());
    }

    #[test]
    fn pieces_are_counted_by_partner_and_outlive_their_transfer() {
        let shares = Arc::new(Shares::default());
        let (one, other) = (shares.take(PublicKey([1; 32])), shares.take(PublicKey([2; 32])));
        let first = one.try_pieces(Kind::Listings, 2, 2, 3).unwrap();
        assert!(one.try_pieces(Kind::Listings, 1, 2, 9).is_none(), "it has its share");
        assert!(one.try_pieces(Kind::Sources, 2, 2, 3).is_some());
        let second = other.try_pieces(Kind::Listings, 1, 2, 3).unwrap();
        assert!(other.try_pieces(Kind::Listings, 1, 2, 3).is_none(), "there are no more");
        let file = one.piece(Kind::Files);
        assert_eq!((one.count(Kind::Files), other.count(Kind::Files)), (1, 0));
        drop((one, other, first, second));
        assert_eq!(shares.lock().partners.len(), 1);
        drop(file);
        assert!(shares.lock().partners.is_empty());
    }
}
