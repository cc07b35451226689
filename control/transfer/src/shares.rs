//! Each partner's share of this node: concurrent transfers, memory for manifests, open files,
//! listings.
//!
//! A transfer takes a [`Share`], and [`Piece`]s on it; dropping them gives everything back. The
//! limits are in [`crate::limits`].

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_objects::source::Retained;
use culvert_protocol::identity::PublicKey;
use tokio::sync::Semaphore;

use crate::limits::MANIFEST_BYTES_PER_PARTNER;

/// Memory that a manifest entry takes in addition to its name, in bytes: its record, its place in
/// the plan, its hash, and the tables of planning.
const ENTRY_BYTES: u64 = 256;

/// A resource that is counted by pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Open files.
    Files,
    /// Running listings.
    Listings,
    /// Open sources.
    Sources,
}

/// What one partner has taken.
#[derive(Debug)]
struct Taken {
    /// The partner's number in the data plane, the same for all of its concurrent transfers.
    holder: u32,
    /// Running transfers.
    sessions: usize,
    manifest_bytes: u64,
    /// By [`Kind`].
    pieces: [usize; 3],
    /// Permits one helper at a time to hash the partner's holes.
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

    /// The share of a transfer that a partner requested. The caller has bounded the number of
    /// sessions already.
    #[must_use]
    pub fn take(self: &Arc<Self>, partner: PublicKey) -> Share {
        self.share(partner, false)
    }

    /// As [`Shares::take`], for a transfer that this node's user requested.
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

/// What one transfer has taken; dropping it gives it back.
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
    /// The partner's number in the data plane.
    #[must_use]
    pub const fn holder(&self) -> u32 {
        self.holder
    }

    /// Whether this node's user requested the transfer.
    #[must_use]
    pub const fn is_users(&self) -> bool {
        self.is_users
    }

    /// Takes memory for another entry of the manifest; false if that would exceed the partner's
    /// limit.
    #[must_use]
    pub fn take_entry(&mut self, name_bytes: usize) -> bool {
        self.take_bytes(ENTRY_BYTES + name_bytes as u64)
    }

    /// Takes memory; false if that would exceed the partner's limit.
    #[must_use]
    pub fn take_bytes(&mut self, bytes: u64) -> bool {
        let mut taken = self.shares.lock();
        let of_partner = taken.of(self.partner);
        if of_partner.manifest_bytes + bytes > MANIFEST_BYTES_PER_PARTNER {
            return false;
        }
        of_partner.manifest_bytes += bytes;
        self.manifest_bytes += bytes;
        // Invariant I-shares-memory: a partner's transfers hold no more manifest memory than its
        // limit, and a transfer's share is part of its partner's.
        assert!(
            self.manifest_bytes <= of_partner.manifest_bytes && of_partner.manifest_bytes <= MANIFEST_BYTES_PER_PARTNER,
            "a partner's manifest memory stays within its limit"
        );
        true
    }

    /// A share of the same transfer, for another thread. It counts as no session.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self { shares: self.shares.clone(), sessions: 0, manifest_bytes: 0, ..*self }
    }

    /// How many pieces of a kind the partner has.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.shares.lock().of(self.partner).pieces[kind as usize]
    }

    /// Takes a piece without a limit.
    #[must_use]
    pub fn piece(&self, kind: Kind) -> Piece {
        self.shares.lock().of(self.partner).pieces[kind as usize] += 1;
        Piece { shares: self.shares.clone(), partner: self.partner, kind, count: 1 }
    }

    /// Takes `count` pieces, unless the partner would then have more than `partner_max`, or all
    /// partners together more than `all_max`.
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

    /// The permit to hash the partner's holes.
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
        // Invariant I-shares-return: no share gives back more than its partner has taken.
        assert!(
            of_partner.sessions >= self.sessions && of_partner.manifest_bytes >= self.manifest_bytes,
            "no share gives back more than its partner has taken"
        );
        of_partner.sessions -= self.sessions;
        of_partner.manifest_bytes -= self.manifest_bytes;
        taken.forget_if_nothing(self.partner);
    }
}

/// Pieces of a resource; dropping them gives them back.
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
        let pieces = &mut taken.of(self.partner).pieces[self.kind as usize];
        // Invariant I-shares-pieces: no piece is given back twice.
        assert!(*pieces >= self.count, "no piece is given back twice");
        *pieces -= self.count;
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
