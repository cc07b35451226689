//! The journal of an incoming transfer: an append-only file that says what is stored, so that an
//! interrupted transfer resumes.
//!
//! ```text
//! Place ──> path ──> Journal::open ──> EarlierAttempts (read once)
//!                          └──> append, … ──> remove, once the transfer's record is written
//! ```
//!
//! A journal belongs to a partner, a destination and the names stored there ([`Place`]). Stored
//! data is recorded after it is durable; an attempt or a directory is announced before it is made.
//! Both are read when the same partner repeats the request. Several transfers of one partner can
//! therefore fill one directory at the same time, each with its own journal. A journal takes over
//! what interrupted transfers of the same files have left in others ([`absorb_others`]).
//!
//! What opening a journal may find, and what happens:
//!
//! | found | action |
//! |---|---|
//! | version 1 | rewritten in one step as the current version, with every record |
//! | a version, or an intact record, that this program does not know | refused; no byte is changed |
//! | an append that a crash cut short | removed: nothing in it was reported as stored |
//! | bytes that are no record, and records after them | the whole is copied to `….journal.damaged`; the part before the damage continues |
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

#[macro_use(say_aside)]
extern crate culvert_link;

mod absorbing;
mod appending;
mod bounding;
mod error;
mod file;
mod place;
mod reading;
mod record;
mod unused;

pub use crate::absorbing::{absorb_others, glimpse};
pub use crate::appending::Journal;
pub use crate::bounding::bound;
pub use crate::error::{JournalError, not_journaled};
pub use crate::file::JOURNAL_BYTES_MAX;
pub use crate::place::Place;
pub use crate::reading::{BegunFile, Contents, DoneFile, EarlierAttempts, End, Unknown, change_time, read, records};
pub use crate::record::{DIRECTORY_BYTES_MAX, Record, TOP_NAMES_MAX, VERSION, encode, encode_v1};
pub use crate::unused::sweep;

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use culvert_objects::fs::sources::hash_of;
    use culvert_protocol::control::RefusalCode;
    use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
    use proptest::prelude::*;

    use super::*;
    use crate::file::beside;

    const MODIFIED: FileTime = FileTime { seconds: 5, nanoseconds: 6 };

    fn begun(name: &[u8], bytes: u64, token: u128) -> Record {
        let directory = b"d".to_vec();
        Record::Begun { name: hash_of(name), bytes, modified: MODIFIED, chunk_bytes: 4, token, inode: 77, directory }
    }

    fn records() -> Vec<Record> {
        vec![
            begun(b"a", 10, 1 << 100),
            Record::Chunk { file: 0, part: 0, hash: Some([1; 32]) },
            begun(b"b", 20, 2),
            Record::Chunk { file: 1, part: 3, hash: None },
            Record::Chunk { file: 0, part: 2, hash: Some([2; 32]) },
            Record::Done {
                name: hash_of(b"c"),
                bytes: 1,
                modified: MODIFIED,
                hash: [3; 32],
                inode: 9,
                changed: MODIFIED,
            },
            Record::Filling { staging: 5 },
        ]
    }

    fn entry(name: &'static [u8], bytes: u64) -> Entry<'static> {
        let kind = EntryKind::File { bytes, is_sparse: false };
        Entry { name, kind, target: b"", mode: 0o644, modified: MODIFIED }
    }

    fn file_of(records: &[Record], encode: impl Fn(&Record) -> Vec<u8>) -> Vec<u8> {
        std::iter::once(&Record::Header { version: VERSION }).chain(records).flat_map(encode).collect()
    }

    /// A record as a newer program may write it: whole, and of no kind that is known.
    fn unknown_record() -> Vec<u8> {
        let body = [99, 1, 2, 3];
        [&4u16.to_be_bytes()[..], &blake3::hash(&body).as_bytes()[..4], &body].concat()
    }

    fn room() -> (tempfile::TempDir, PathBuf) {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("j.journal");
        (room, path)
    }

    fn names(room: &tempfile::TempDir) -> Vec<String> {
        let names = std::fs::read_dir(room.path()).unwrap();
        let mut names: Vec<String> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    fn open(path: &Path) -> (Journal, EarlierAttempts) {
        Journal::open(path.to_owned(), None).unwrap()
    }

    #[test]
    fn the_next_attempt_finds_what_this_one_stored() {
        let (_room, path) = room();
        let (mut journal, past) = open(&path);
        assert!(past.is_empty());
        journal.append(records()).unwrap();
        assert!(matches!(Journal::open(path.clone(), None), Err(JournalError::InUse)));
        drop(journal);
        let (journal, past) = open(&path);
        assert_eq!(journal.next_begun(), 2);
        let begun = past.begun(&entry(b"a", 10), 4).unwrap();
        assert_eq!(begun.chunks, HashMap::from([(0, Some([1; 32])), (2, Some([2; 32]))]));
        assert_eq!((begun.token, begun.inode), (1 << 100, 77));
        assert!(past.begun(&entry(b"a", 11), 4).is_none(), "the source has another size now");
        assert!(past.begun(&entry(b"a", 10), 8).is_none(), "chunks are cut differently now");
        assert_eq!(past.done(&entry(b"c", 1)).unwrap().hash, [3; 32]);
        journal.remove().unwrap();
        assert!(!path.exists());
    }

    /// Row 18: directories of an attempt that was cut are still the transfer's own, others are not.
    #[test]
    fn the_next_attempt_knows_which_directories_are_its_own() {
        let (_room, path) = room();
        let (mut journal, _) = open(&path);
        journal.append([b"ours", b"late"].map(|name| Record::made_directory(hash_of(name)))).unwrap();
        journal.append([Record::not_made_directory(hash_of(b"late"))]).unwrap();
        journal.append(records()).unwrap();
        drop(journal);
        let (_, past) = open(&path);
        let directory = |name| Entry { kind: EntryKind::Directory, ..entry(name, 0) };
        assert!(past.has_made(&directory(b"ours")));
        for name in [&b"theirs"[..], b"late", b"c"] {
            assert!(!past.has_made(&directory(name)));
        }
    }

    /// A journal of another version was emptied, and with it what a newer program had stored.
    #[test]
    fn a_journal_of_a_newer_version_is_refused_with_a_sentence_and_left_as_it_is() {
        let mut newer = encode(&Record::Header { version: 99 });
        newer.extend(unknown_record());
        let unknown_in_the_middle = [file_of(&records(), encode), unknown_record(), encode(&records()[1])].concat();
        let unknown_at_the_end = [file_of(&records(), encode), unknown_record()].concat();
        let unknown_at_the_begin = [unknown_record(), file_of(&records(), encode)].concat();
        for bytes in [newer, unknown_in_the_middle, unknown_at_the_end, unknown_at_the_begin] {
            let (room, path) = room();
            std::fs::write(&path, &bytes).unwrap();
            let error = Journal::open(path.clone(), None).unwrap_err();
            assert_eq!(error.code(), RefusalCode::Failed);
            let text = error.to_string();
            for part in [path.to_str().unwrap(), "left as it is", "remove the file"] {
                assert!(text.contains(part), "{text}");
            }
            sweep(room.path(), Duration::ZERO, Duration::MAX);
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
            assert_eq!(names(&room), ["j.journal"]);
        }
    }

    #[test]
    fn a_journal_of_version_1_is_rewritten_and_keeps_every_record() {
        let (room, path) = room();
        let old = file_of(&records(), encode_v1);
        // A crash in an earlier migration left something under the temporary name, and the last
        // append is cut.
        std::fs::write(beside(&path, "migrating"), "half").unwrap();
        std::fs::write(&path, [&old[..], &encode(&records()[0])[..20]].concat()).unwrap();
        let (mut journal, past) = open(&path);
        let mut expected = records();
        for record in &mut expected {
            if let Record::Begun { name, token, inode, directory, .. } = record {
                (*token, *inode) = (*name, 0);
                directory.clear();
            }
        }
        assert_eq!(std::fs::read(&path).unwrap(), file_of(&expected, encode));
        assert_eq!(names(&room), ["j.journal"]);
        let begun = past.begun(&entry(b"a", 10), 4).unwrap();
        assert_eq!((begun.token, begun.inode, begun.chunks.len()), (hash_of(b"a"), 0, 2));
        assert!(journal.next_begun() > 0);
        assert!(matches!(Journal::open(path.clone(), None), Err(JournalError::InUse)), "the lock went along");
        journal.append([Record::Chunk { file: 1, part: 4, hash: None }]).unwrap();
        drop(journal);
        let (_, past) = open(&path);
        assert_eq!(past.begun(&entry(b"b", 20), 4).unwrap().chunks.len(), 2);
    }

    #[test]
    fn a_single_file_of_version_1_is_found_under_the_name_that_it_has_here() {
        let (_room, path) = room();
        std::fs::write(&path, file_of(&records()[..2], encode_v1)).unwrap();
        let (_, past) = Journal::open(path.clone(), Some(b"copy")).unwrap();
        assert_eq!(past.begun(&entry(b"a", 10), 4).unwrap().token, hash_of(b"copy"));
        // It stays so when it is read again.
        assert_eq!(open(&path).1, past);
    }

    #[test]
    fn a_damaged_journal_is_set_aside_whole_and_goes_on_with_what_comes_before() {
        let (room, path) = room();
        let mut bytes = file_of(&records(), encode);
        let damaged_at = file_of(&records()[..3], encode).len() + 8;
        bytes[damaged_at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        let (mut journal, past) = open(&path);
        assert_eq!(names(&room), ["j.journal", "j.journal.damaged"]);
        assert_eq!(std::fs::read(beside(&path, "damaged")).unwrap(), bytes);
        assert_eq!(past.begun(&entry(b"a", 10), 4).unwrap().chunks.len(), 1);
        journal.append([Record::Chunk { file: 1, part: 4, hash: None }]).unwrap();
        drop(journal);
        assert_eq!(open(&path).1.begun(&entry(b"b", 20), 4).unwrap().chunks, HashMap::from([(4, None)]));
    }

    #[test]
    fn a_journal_that_lost_its_first_block_is_damaged() {
        let (room, path) = room();
        let mut bytes = file_of(&records(), encode);
        bytes[..40].fill(0);
        std::fs::write(&path, &bytes).unwrap();
        assert!(open(&path).1.is_empty());
        assert_eq!(names(&room), ["j.journal", "j.journal.damaged"]);
    }

    #[test]
    fn only_journals_that_have_nothing_to_tell_are_swept() {
        let (room, path) = room();
        let write = |name: &str, records: &[Record]| {
            std::fs::write(path.with_file_name(name), file_of(records, encode)).unwrap();
        };
        write("begun.journal", &records());
        write("complete.journal", &[records(), vec![Record::Complete]].concat());
        write("empty.journal", &[]);
        write("used.journal", &[]);
        let _used = open(&path.with_file_name("used.journal"));
        sweep(room.path(), Duration::ZERO, Duration::MAX);
        assert_eq!(names(&room), ["begun.journal", "used.journal"]);
    }

    proptest! {
        #[test]
        fn a_journal_that_was_cut_anywhere_keeps_whole_records_only(cut: prop::sample::Index, is_old: bool) {
            let encode: fn(&Record) -> Vec<u8> = if is_old { encode_v1 } else { encode };
            let mut bytes = encode(&Record::Header { version: VERSION });
            let mut ends = vec![bytes.len()];
            for record in records() {
                bytes.extend(encode(&record));
                ends.push(bytes.len());
            }
            let cut = cut.index(bytes.len() + 1);
            let contents = read(&bytes[..cut]).unwrap();
            let expected = ends.iter().copied().filter(|&end| end <= cut).max().unwrap_or(0);
            prop_assert_eq!(contents.good_bytes, expected);
            prop_assert_eq!(contents.end, if cut == expected { End::Whole } else { End::Torn });
        }

        /// Whatever is found is refused and stays, or can be appended to and read again.
        #[test]
        fn whatever_a_file_holds_it_is_refused_or_goes_on(
            parts in proptest::collection::vec((0usize..9, any::<prop::sample::Index>()), 0..12),
            is_old: bool,
        ) {
            let (_room, path) = room();
            let encode_any: fn(&Record) -> Vec<u8> = if is_old { encode_v1 } else { encode };
            let mut bytes = encode_any(&Record::Header { version: VERSION });
            for (part, at) in parts {
                match part {
                    0 => bytes.truncate(at.index(bytes.len() + 1)),
                    1 if !bytes.is_empty() => { let at = at.index(bytes.len()); bytes[at] ^= 0x40; }
                    2 => bytes.extend([0; 40]),
                    part => bytes.extend(encode_any(&records()[part % 7])),
                }
            }
            std::fs::write(&path, &bytes).unwrap();
            match Journal::open(path.clone(), None) {
                Err(_) => prop_assert_eq!(std::fs::read(&path).unwrap(), bytes),
                Ok((mut journal, past)) => {
                    journal.append([begun(b"next", 9, 4), Record::Chunk { file: journal.next_begun(), part: 0, hash: None }]).unwrap();
                    drop(journal);
                    let (_, again) = open(&path);
                    prop_assert!(again.begun(&entry(b"next", 9), 4).is_some());
                    prop_assert!(past.filling().is_subset(again.filling()));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }
    }

    /// What a damaged journal is copied to, and what a migrated one is written as, may be anything
    /// by now: what it leads to is not changed.
    #[test]
    fn what_stands_where_a_journal_is_set_aside_leads_nowhere() {
        let damaged = {
            let mut bytes = file_of(&records(), encode);
            bytes[file_of(&records()[..3], encode).len() + 8] ^= 1;
            bytes
        };
        for (suffix, bytes) in [("damaged", damaged), ("migrating", file_of(&records(), encode_v1))] {
            let (room, path) = room();
            let victim = room.path().join("victim");
            std::fs::write(&victim, "safe").unwrap();
            for is_symlink in [true, false] {
                std::fs::write(&path, &bytes).unwrap();
                let aside = beside(&path, suffix);
                if is_symlink {
                    std::os::unix::fs::symlink(&victim, &aside).unwrap();
                } else {
                    std::fs::hard_link(&victim, &aside).unwrap();
                }
                assert!(!open(&path).1.is_empty());
                assert_eq!(std::fs::read(&victim).unwrap(), b"safe", "{suffix}");
                let _ = std::fs::remove_file(&aside);
            }
            // A directory is not ours to remove: no transfer could start that would lose the
            // journal.
            std::fs::write(&path, &bytes).unwrap();
            std::fs::create_dir(beside(&path, suffix)).unwrap();
            let error = Journal::open(path.clone(), None).unwrap_err();
            assert!(error.to_string().contains("cannot use the journal"), "{error}");
            assert_eq!(std::fs::read(&path).unwrap(), bytes);
        }
    }

    /// On a file system with whole seconds, the change time is the same for everything within one.
    #[test]
    fn what_whole_seconds_cannot_show_does_not_count_as_stored() {
        use culvert_objects::fs::destination::plan::{EarlierResult, StoredBefore as _};
        let (room, path) = room();
        let stored = room.path().join("stored");
        std::fs::write(&stored, [7; 20]).unwrap();
        let mut stat = rustix::fs::stat(&stored).unwrap();
        for (nanoseconds, expected) in [(1, EarlierResult::Stored), (0, EarlierResult::Nothing)] {
            stat.st_ctime_nsec = nanoseconds;
            let _ = std::fs::remove_file(&path);
            let (mut journal, _) = open(&path);
            let done = Record::Done {
                name: hash_of(b"stored"),
                bytes: 20,
                modified: MODIFIED,
                hash: [1; 32],
                inode: stat.st_ino,
                changed: change_time(&stat),
            };
            journal.append([done]).unwrap();
            drop(journal);
            assert_eq!(open(&path).1.before(&entry(b"stored", 20), &stat), expected, "{nanoseconds} ns");
        }
    }

    #[test]
    fn what_was_opened_and_what_was_not_kept_stands_in_the_journal() {
        use culvert_objects::fs::destination::attributes::Refused;
        use culvert_objects::fs::destination::plan::{EarlierResult, StoredBefore as _};
        use rustix::io::Errno;
        let (room, path) = room();
        let stored = room.path().join("stored");
        std::fs::write(&stored, [7; 20]).unwrap();
        let mut stat = rustix::fs::stat(&stored).unwrap();
        stat.st_ctime_nsec = 1;
        let inode = stat.st_ino;
        let (name, changed) = (hash_of(b"stored"), change_time(&stat));
        let done = Record::Done { name, bytes: 20, modified: MODIFIED, hash: [1; 32], inode, changed };
        let append = |records: Vec<Record>| open(&path).0.append(records).unwrap();
        append(vec![Record::opened_directory(b"d", 5, 0o2555), Record::opened_directory(b"d/e", 6, 0), done]);
        let past = open(&path).1;
        assert!(past.has_opened());
        assert_eq!(
            [b"d".as_slice(), b"d/e", b"e"].map(|name| past.opened(name)),
            [Some((5, 0o2555)), Some((6, 0)), None]
        );
        assert!(!past.has_made(&entry(b"d", 0)) && past.done(&entry(b"d", 0)).is_none());
        append(vec![Record::closed_directory(b"d"), Record::closed_directory(b"d/e")]);
        let past = open(&path).1;
        assert!(!past.has_opened() && past.opened(b"d").is_none());
        // A refused mode is only told; a file that could not get its time is known without it.
        let file = entry(b"stored", 20);
        for (refused, before) in [
            (Refused { mode: Some(Errno::PERM), time: None }, EarlierResult::Stored),
            (Refused { mode: None, time: Some(Errno::OPNOTSUPP) }, EarlierResult::StoredAtAnotherTime),
            (Refused { mode: Some(Errno::INVAL), time: Some(Errno::NOSYS) }, EarlierResult::StoredAtAnotherTime),
        ] {
            append(vec![Record::not_kept(b"stored", inode, refused)]);
            let past = open(&path).1;
            assert_eq!((past.refused(&file), past.before(&file, &stat)), (Some(refused), before));
        }
        append(vec![Record::not_kept(b"stored", inode + 1, Refused { mode: None, time: Some(Errno::PERM) })]);
        assert_eq!(open(&path).1.refused(&file), None, "that was another file");
    }
}
