//! Bounds the records that are kept.
//!
//! Records of transfers requested by a partner are counted for each partner, in number and bytes:
//! however many it requests, they displace only its own. Those requested by this node's user are
//! counted separately.

use std::collections::HashMap;
use std::ops::Deref;

use culvert_engine::limits::{RECORD_BYTES_PER_PARTNER, RECORDS_PER_PARTNER};
use culvert_model::record::TransferRecord;
use culvert_protocol::control::TransferId;

/// Records of ended transfers requested by this node's user; beyond it, the oldest are removed.
const OWN_MAX: usize = 20_000;
/// Removal starts when the limit is exceeded by this fraction (one in so many), so that it is rare.
const EXCESS_PART: usize = 20;

/// The records of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    records: usize,
    bytes: usize,
}

/// Records by id, within the limits of their owners.
#[derive(Debug, Default)]
pub(super) struct RetainedRecords {
    records: HashMap<TransferId, TransferRecord>,
    tallies: HashMap<Option<String>, Tally>,
}

impl Deref for RetainedRecords {
    type Target = HashMap<TransferId, TransferRecord>;

    fn deref(&self) -> &Self::Target {
        &self.records
    }
}

impl RetainedRecords {
    /// Adds or replaces a record; returns the ids of those that it displaces.
    pub(super) fn insert(&mut self, id: TransferId, record: TransferRecord) -> Vec<TransferId> {
        self.remove(id);
        let (owner, bytes) = (owner(&record).map(str::to_owned), bytes_of(&record));
        self.records.insert(id, record);
        let tally = self.tallies.entry(owner.clone()).or_default();
        tally.records += 1;
        tally.bytes += bytes;
        let (records_max, bytes_max) = match owner {
            Some(_) => (RECORDS_PER_PARTNER, RECORD_BYTES_PER_PARTNER),
            None => (OWN_MAX, usize::MAX),
        };
        let excess = |max: usize| max.saturating_add(max / EXCESS_PART);
        if tally.records <= excess(records_max) && tally.bytes <= excess(bytes_max) {
            return Vec::new();
        }
        self.evict(owner.as_deref(), id, Tally { records: records_max, bytes: bytes_max })
    }

    /// Removes ended transfers of an owner except `keep`, the oldest first, until at most `most` is
    /// left.
    fn evict(&mut self, owner_name: Option<&str>, keep: TransferId, most: Tally) -> Vec<TransferId> {
        let is_owners = |&(&of, record): &(&TransferId, &TransferRecord)| {
            of != keep && record.state.is_final() && owner(record) == owner_name
        };
        let ended = self.records.iter().filter(is_owners);
        let mut ended: Vec<(u64, TransferId)> =
            ended.map(|(&of, record)| (record.ended_unix_ms.unwrap_or(0), of)).collect();
        ended.sort_unstable();
        let mut evicted = Vec::new();
        for (_, id) in ended {
            let tally = self.tallies.get(&owner_name.map(str::to_owned)).copied().unwrap_or_default();
            if tally.records <= most.records && tally.bytes <= most.bytes {
                break;
            }
            self.remove(id);
            evicted.push(id);
        }
        evicted
    }

    pub(super) fn remove(&mut self, id: TransferId) {
        let Some(record) = self.records.remove(&id) else { return };
        let owner = owner(&record).map(str::to_owned);
        // Invariant I-records-tally: Every stored record is counted in the tally of its owner, with
        // the bytes it has now.
        let tally = self.tallies.get_mut(&owner).expect("the owner of a stored record has a tally");
        tally.records = tally.records.checked_sub(1).expect("each record is counted once");
        tally.bytes = tally.bytes.checked_sub(bytes_of(&record)).expect("a record's bytes are those counted");
        if tally.records == 0 {
            assert_eq!(tally.bytes, 0, "an owner without records has bytes");
            self.tallies.remove(&owner);
        }
    }
}

/// The name of the partner that requested a transfer; none for this node's user.
fn owner(record: &TransferRecord) -> Option<&str> {
    if record.request.is_some() { None } else { Some(&record.partner) }
}

/// The approximate memory of a record.
fn bytes_of(record: &TransferRecord) -> usize {
    let errors = record.result.iter().flat_map(|result| &result.errors);
    let errors: usize = errors.map(|error| error.path.len() + error.code.len() + error.text.len() + 72).sum();
    let failure = record.error.as_ref().map_or(0, |error| error.text.len());
    size_of::<TransferRecord>() + record.partner.len() + record.description.len() + failure + errors
}

#[cfg(test)]
mod tests {
    use culvert_model::record::{Failure, RecordState};

    use super::*;
    use crate::registry::tests::record;

    fn id(number: u64) -> TransferId {
        TransferId::new(1, number.into())
    }

    /// One partner's records displaced everybody's.
    #[test]
    fn row_11_a_partners_records_make_room_for_its_own_and_for_none_that_is_under_way() {
        let mut kept = RetainedRecords::default();
        kept.insert(id(1 << 40), record(RecordState::Active, "greedy", 0));
        kept.insert(id(1 << 41), record(RecordState::Failed, "other", 0));
        let limit = (RECORDS_PER_PARTNER + RECORDS_PER_PARTNER / EXCESS_PART) as u64;
        for number in 1..limit {
            assert!(kept.insert(id(number), record(RecordState::Failed, "greedy", number)).is_empty());
        }
        let evicted = kept.insert(id(limit), record(RecordState::Active, "greedy", limit));
        assert_eq!((evicted.len(), evicted[0]), (RECORDS_PER_PARTNER / EXCESS_PART + 1, id(1)));
        assert!(kept.contains_key(&id(1 << 40)) && kept.contains_key(&id(1 << 41)) && kept.contains_key(&id(limit)));
        assert!(!kept.contains_key(&id(1)));
    }

    #[test]
    fn row_11_a_partners_records_are_bounded_in_bytes_and_counted_once() {
        let mut kept = RetainedRecords::default();
        let large = |number: u64| {
            let text = "x".repeat(1 << 20);
            let error = Some(Failure { code: String::new(), text, exit_code: 1 });
            TransferRecord { error, ..record(RecordState::Failed, "greedy", number) }
        };
        for number in 0..100 {
            kept.insert(id(number), large(number));
            // Replaced by itself, it counts once.
            kept.insert(id(number), large(number));
        }
        let bytes: usize = kept.values().map(bytes_of).sum();
        assert_eq!(kept.tallies[&Some("greedy".to_owned())], Tally { records: kept.len(), bytes });
        assert!(bytes <= RECORD_BYTES_PER_PARTNER + RECORD_BYTES_PER_PARTNER / EXCESS_PART && kept.len() > 10);
        assert!(kept.contains_key(&id(99)) && !kept.contains_key(&id(0)));
    }
}
