//! Bounds the number of one partner's journals. Journals of abandoned transfers stay for the next
//! attempt, but a partner that keeps beginning transfers must not fill the disk with them.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use culvert_system::regular_file::{self, Links};

use crate::file::JOURNAL_BYTES_MAX;
use crate::place::{PARTNER_DIGITS, Place};
use crate::unused::{is_over, remove_unused};

/// Removes journals of the partner of `place` until at most `most` are left: first those without
/// useful content, then the oldest. Journals in use stay, and so does `place`'s own. A transfer
/// whose journal was removed sends its incomplete files again; its partial files stay under their
/// temporary names. Returns the number removed.
pub fn bound(place: &Place, most: usize) -> usize {
    let of_partner = place.key.get(..PARTNER_DIGITS).unwrap_or_default();
    let own = place.path();
    let is_of_partner = |path: &Path| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with(of_partner) && name.ends_with(".journal") && *path != own
    };
    let entries = std::fs::read_dir(&place.directory).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()));
    let paths: Vec<PathBuf> = files.map(|entry| entry.path()).filter(|path| is_of_partner(path)).collect();
    // The one more is `place`'s own.
    let excess = paths.len().saturating_add(1).saturating_sub(most);
    if excess == 0 {
        return 0;
    }
    let mut candidates: Vec<(bool, SystemTime, PathBuf)> = paths
        .into_iter()
        .map(|path| {
            let modified = std::fs::metadata(&path).and_then(|metadata| metadata.modified());
            let bytes = regular_file::read(&path, JOURNAL_BYTES_MAX, Links::Refused);
            let is_useful = bytes.map_or(true, |bytes| !is_over(&bytes));
            (is_useful, modified.unwrap_or(SystemTime::UNIX_EPOCH), path)
        })
        .collect();
    candidates.sort_unstable();
    candidates.into_iter().filter(|(_, _, path)| remove_unused(path, |_| true)).take(excess).count()
}

#[cfg(test)]
mod tests {
    use culvert_objects::fs::destination::temporary::Attempt;
    use culvert_protocol::identity::PublicKey;

    use super::*;
    use crate::{Journal, Record};

    /// Each abandoned push left a journal, without bound.
    #[test]
    fn journals_of_one_partner_are_bounded_and_the_least_useful_go_first() {
        let room = tempfile::tempdir().unwrap();
        let place = |partner: u8, destination: &str| {
            Place::new(room.path(), PublicKey([partner; 32]), destination.as_bytes(), [b"a".as_slice()])
        };
        let leave = |place: &Place| {
            let (mut journal, _) = Journal::open(place.path(), None).unwrap();
            journal.begin_attempt(Attempt::from_number(7), place).unwrap();
            journal
        };
        let other = place(2, "other");
        drop(leave(&other));
        let begun = place(1, "begun");
        leave(&begun).append([Record::Filling { staging: 5 }]).unwrap();
        let used = place(1, "used");
        let in_use = leave(&used);
        for number in 0..10 {
            drop(leave(&place(1, &number.to_string())));
        }
        let newest = place(1, "newest");
        drop(leave(&newest));
        assert_eq!(bound(&newest, 13), 0);
        assert_eq!(bound(&newest, 5), 8);
        for (place, why) in [(&other, "another's"), (&begun, "it is useful"), (&used, "in use"), (&newest, "own")] {
            assert!(place.path().exists(), "{why}");
        }
        assert_eq!(bound(&newest, 1), 3, "all that is not in use");
        assert!(used.path().exists() && other.path().exists() && !begun.path().exists());
        drop(in_use);
    }

    /// Journals that an earlier version named are found.
    #[test]
    fn journals_of_former_names_are_those_of_the_same_partner_and_destination() {
        let place = Place::new(Path::new("/"), PublicKey([1; 32]), b"d", [b"a".as_slice()]);
        assert!(place.has(&format!("{}-{}.journal", place.former_key, place.names)));
        assert!(place.has(&format!("{}.journal", place.former_key)));
        assert!(place.has(&format!("{}-{}.journal", place.key, place.names)));
        assert!(!place.has(&format!("{}x.journal", place.key)));
    }
}
