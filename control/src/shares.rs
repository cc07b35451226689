//! What each partner takes of this node: transfers at once, and memory for what it says before it sends.
//!
//! Partners are approved, but not trusted with everything: none can keep the others out by asking for all that there is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_protocol::identity::PublicKey;

/// Transfers of one partner that run at once.
pub const SESSIONS_MAX: usize = 128;
/// Bytes that manifests and chunk maps of one partner's transfers may take together: several transfers of a million files.
pub const MANIFEST_BYTES_MAX: u64 = 2 << 30;
/// Bytes that an entry takes beside its name: its record, its place in the plan, its hash, and the planning's own tables.
const ENTRY_BYTES: u64 = 256;

#[derive(Debug, Default)]
struct Taken {
    sessions: usize,
    manifest_bytes: u64,
}

/// What all partners have taken.
#[derive(Debug, Default)]
pub struct Shares {
    taken: Mutex<HashMap<PublicKey, Taken>>,
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<PublicKey, Taken>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a partner have another transfer; `None` if it has as many as it may.
    #[must_use]
    pub fn take(self: &Arc<Self>, partner: PublicKey) -> Option<Share> {
        let mut taken = self.lock();
        let of_partner = taken.entry(partner).or_default();
        if of_partner.sessions >= SESSIONS_MAX {
            return None;
        }
        of_partner.sessions += 1;
        Some(Share { shares: self.clone(), partner, manifest_bytes: 0 })
    }

    /// As [`Shares::take`], for a transfer that this node's user asked for: their number is not the partner's doing.
    #[must_use]
    pub fn take_for_user(self: &Arc<Self>, partner: PublicKey) -> Share {
        self.lock().entry(partner).or_default().sessions += 1;
        Share { shares: self.clone(), partner, manifest_bytes: 0 }
    }
}

/// What one transfer has taken; given back when it is dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    partner: PublicKey,
    manifest_bytes: u64,
}

impl Share {
    /// Takes memory for another entry of the manifest; false if the partner has taken all that it may.
    #[must_use]
    pub fn take_entry(&mut self, name_bytes: usize) -> bool {
        self.take_bytes(ENTRY_BYTES + name_bytes as u64)
    }

    /// Takes memory; false if the partner has taken all that it may.
    #[must_use]
    pub fn take_bytes(&mut self, bytes: u64) -> bool {
        let mut taken = self.shares.lock();
        let of_partner = taken.entry(self.partner).or_default();
        if of_partner.manifest_bytes + bytes > MANIFEST_BYTES_MAX {
            return false;
        }
        of_partner.manifest_bytes += bytes;
        self.manifest_bytes += bytes;
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(of_partner) = taken.get_mut(&self.partner) {
            of_partner.sessions -= 1;
            of_partner.manifest_bytes -= self.manifest_bytes;
            if of_partner.sessions == 0 {
                taken.remove(&self.partner);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partner_takes_no_more_than_its_share_and_leaves_the_others_theirs() {
        let shares = Arc::new(Shares::default());
        let (one, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let mut held: Vec<_> = (0..SESSIONS_MAX).map(|_| shares.take(one).unwrap()).collect();
        assert!(shares.take(one).is_none());
        let mut others = shares.take(other).unwrap();
        let half = (MANIFEST_BYTES_MAX / 2) as usize;
        assert!(held[0].take_entry(half) && !held[1].take_entry(half) && others.take_entry(half));
        drop(held.swap_remove(0));
        assert!(held[1].take_entry(half) && shares.take(one).is_some());
        drop((held, others));
        assert!(shares.lock().is_empty());
    }
}
