//! Bounds the number of receipts. They are evidence and kept as long as possible, but a partner
//! that requests transfers endlessly must not fill the disk with them.
//!
//! Receipts of transfers requested by this node's user are kept as long as their records. Of those
//! requested by a partner, the newest [`RECEIPTS_PER_PARTNER`] are kept. Existing receipts are
//! counted when the first new one is recorded.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::SystemTime;

use culvert_engine::limits::RECEIPTS_PER_PARTNER;
use culvert_protocol::control::TransferId;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::receipt::Receipt;
use culvert_state::StateDirectory;

/// The file of a transfer's receipt within a state directory.
pub(super) fn receipt_file_of(id: TransferId) -> String {
    format!("receipts/{id}.receipt")
}

/// For each partner, when its receipts were written here, and their transfers. The times in a
/// receipt are the partner's claims.
#[derive(Debug, Default)]
struct Index {
    receipts: HashMap<PublicKey, BTreeSet<(u64, TransferId)>>,
}

impl Index {
    /// Adds a receipt; returns those that it displaces, the oldest first.
    fn note(&mut self, partner: PublicKey, written_unix_ms: u64, id: TransferId, most: usize) -> Vec<TransferId> {
        let of_partner = self.receipts.entry(partner).or_default();
        of_partner.insert((written_unix_ms, id));
        let mut displaced = Vec::new();
        while of_partner.len() > most {
            displaced.extend(of_partner.pop_first().map(|(_, id)| id));
        }
        displaced
    }
}

/// Counts receipts by partner.
#[derive(Debug)]
pub(super) struct Receipts {
    state: StateDirectory,
    own_key: Option<PublicKey>,
    /// Set when the first receipt is recorded: most commands never record one.
    index: OnceLock<Arc<Mutex<Index>>>,
}

impl Receipts {
    /// The receipts of a state directory.
    pub(super) fn new(state: &StateDirectory) -> Self {
        let own_key = state.existing_identity().ok().flatten().map(|identity| identity.public_key());
        Self { state: state.clone(), own_key, index: OnceLock::new() }
    }

    /// Records the receipt of a transfer requested by a partner, and calls `remove` for those that
    /// it displaces. The first call also counts existing receipts, except those of `own_transfers`.
    pub(super) fn note(
        &self,
        id: TransferId,
        receipt: &str,
        written_unix_ms: u64,
        own_transfers: impl FnOnce() -> HashSet<TransferId>,
        remove: impl Fn(TransferId) + Clone + Send + 'static,
    ) {
        let index = self.index.get_or_init(|| {
            let index = Arc::default();
            self.count(Arc::clone(&index), own_transfers(), remove.clone());
            index
        });
        if let Some(partner) = partner_of(receipt, self.own_key) {
            lock(index).note(partner, written_unix_ms, id, RECEIPTS_PER_PARTNER).into_iter().for_each(remove);
        }
    }

    /// Counts existing receipts on a thread of its own.
    fn count(&self, index: Arc<Mutex<Index>>, own: HashSet<TransferId>, remove: impl Fn(TransferId) + Send + 'static) {
        let (state, own_key) = (self.state.clone(), self.own_key);
        std::thread::spawn(move || {
            let names = state.list("receipts", ".receipt").unwrap_or_default();
            for id in names.iter().filter_map(|name| name.parse().ok()).filter(|id| !own.contains(id)) {
                let file = receipt_file_of(id);
                let written = std::fs::metadata(state.path(&file)).and_then(|file| file.modified());
                let written = written.ok().and_then(|at| at.duration_since(SystemTime::UNIX_EPOCH).ok());
                let written_unix_ms = written.map_or(0, |since| since.as_millis() as u64);
                let Ok(Some(text)) = state.read(file) else { continue };
                let partner = partner_of(&String::from_utf8_lossy(&text), own_key);
                let Some(partner) = partner else { continue };
                let displaced = lock(&index).note(partner, written_unix_ms, id, RECEIPTS_PER_PARTNER);
                displaced.into_iter().for_each(&remove);
            }
        });
    }
}

fn lock(index: &Mutex<Index>) -> MutexGuard<'_, Index> {
    index.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The partner of a receipt; none if the text is no valid receipt, in which case it is not
/// Culvert's to remove.
fn partner_of(receipt: &str, own_key: Option<PublicKey>) -> Option<PublicKey> {
    let (_, statement) = Receipt::verify(receipt).ok()?;
    Some(if Some(statement.sender) == own_key { statement.receiver } else { statement.sender })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_receipt_of_a_partner_displaces_its_oldest() {
        let (mut index, id) = (Index::default(), |number: u64| TransferId::new(1, number.into()));
        let (greedy, other) = (PublicKey([1; 32]), PublicKey([2; 32]));
        assert!(index.note(other, 0, id(100), 3).is_empty());
        for number in 0..3 {
            assert!(index.note(greedy, number, id(number), 3).is_empty());
        }
        assert!(index.note(greedy, 1, id(1), 3).is_empty(), "the same receipt counts once");
        assert_eq!(index.note(greedy, 7, id(7), 3), [id(0)]);
        assert_eq!(index.note(greedy, 0, id(8), 3), [id(8)], "age is the time of writing, not the order of calls");
    }
}
