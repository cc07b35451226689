//! Whether everything read from a source belongs to a single version of it.
//!
//! A file is checked when it is opened and again after its last byte was read. Changes show in its
//! size, its modification time, and its change time (`ctime`), which cannot be set back. A change
//! is invisible if it falls within the same tick of the file system's clock as the previous one. A
//! file that was changed just now is therefore not read before that tick is over.
//!
//! The change time also changes with the mode, the owner, a name or a link. The file is then read
//! again, and counts as unchanged if its content is ([`SourceVersion::check_content`]).

use std::os::fd::OwnedFd;

use culvert_protocol::control::FileError;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error::{SHORTAGE, is_shortage, words};
use culvert_system::settling::{now_ns, time_to_settle};
use rustix::fs::{Stat, fstat};
use rustix::io::Errno;

use crate::fs::sources::{UNSIZED_REMEDY, reading_words};

/// How often a file is read again whose inode keeps changing.
pub const TRIES_MAX: u32 = 3;
/// Bytes that are read at a time for hashing.
const READ_BYTES: usize = 1 << 20;

/// The version of a source that is being read.
#[derive(Clone, Copy, Debug)]
pub struct SourceVersion {
    stat: Stat,
}

impl SourceVersion {
    /// The version that is open, once no further change can look like the last. Blocks until then.
    ///
    /// # Errors
    /// The error of this file if it is not the one that was listed.
    pub fn begin(manifest: &Manifest, file: u32, opened: &OwnedFd) -> Result<Self, FileError> {
        let look = || fstat(opened).map_err(|error| unreadable(manifest, file, error));
        let mut stat = look()?;
        check_listed(manifest, file, &stat)?;
        let wait = time_to_settle(&stat, now_ns());
        if !wait.is_zero() {
            std::thread::sleep(wait);
            stat = look()?;
            check_listed(manifest, file, &stat)?;
        }
        Ok(Self { stat })
    }

    /// Checks whether the file is still this version.
    ///
    /// # Errors
    /// The error of this file if it is not.
    pub fn check(&self, manifest: &Manifest, file: u32, opened: &OwnedFd) -> Result<Recheck, FileError> {
        let now = fstat(opened).map_err(|error| unreadable(manifest, file, error))?;
        check_listed(manifest, file, &now)?;
        look(&self.stat, &now).ok_or_else(|| changed(manifest, file))
    }

    /// As [`SourceVersion::check`]. A file whose inode has changed is read again and must have
    /// `hash`, that of the bytes sent; without a hash it counts as changed.
    ///
    /// # Errors
    /// The error of this file if it is not.
    pub fn check_content(
        &self,
        manifest: &Manifest,
        file: u32,
        opened: &OwnedFd,
        hash: Option<ChunkHash>,
    ) -> Result<(), FileError> {
        let mut tries = 0;
        let mut seen = *self;
        while seen.check(manifest, file, opened)? == Recheck::Touched {
            tries += 1;
            let Some(hash) = hash.filter(|_| tries <= TRIES_MAX) else { return Err(changed(manifest, file)) };
            seen = Self::begin(manifest, file, opened)?;
            let found = hash_of_content(opened).map_err(|error| unreadable(manifest, file, error))?;
            if found != hash {
                return Err(changed(manifest, file));
            }
        }
        Ok(())
    }

    /// Whether a file that was opened again is the same version, judging by its attributes.
    #[must_use]
    pub fn is_of(&self, earlier: &Self) -> bool {
        look(&earlier.stat, &self.stat).is_some()
    }

    /// The error of a file that ended before its size: it has changed, or it has no true size.
    #[must_use]
    pub fn ended_early(&self, manifest: &Manifest, file: u32, opened: &OwnedFd) -> FileError {
        match self.check(manifest, file, opened) {
            Ok(_) => unsized_file(manifest, file),
            Err(error) => error,
        }
    }

    /// The file's size in bytes.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.stat.st_size as u64
    }

    /// The status when it was opened.
    #[must_use]
    pub const fn stat(&self) -> &Stat {
        &self.stat
    }
}

/// Checks that a file is the one that was listed, by size and time.
///
/// # Errors
/// The error of this file if it is not.
pub fn check_listed(manifest: &Manifest, file: u32, now: &Stat) -> Result<(), FileError> {
    let entry = manifest.entry(file);
    let same_bytes = matches!(entry.kind, EntryKind::File { bytes, .. } if bytes == now.st_size as u64);
    let same_time = now.st_mtime == entry.modified.seconds && now.st_mtime_nsec as u32 == entry.modified.nanoseconds;
    if same_bytes && same_time { Ok(()) } else { Err(changed(manifest, file)) }
}

/// The result of checking a file whose size and modification time have not changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// The same version.
    Same,
    /// Its inode has changed: its mode, owner, name or links; or its content, whose time was set
    /// back.
    Touched,
}

/// The error of a file that changed while it was read.
#[must_use]
pub fn changed(manifest: &Manifest, file: u32) -> FileError {
    let name = printable(manifest.entry(file).name);
    let text = format!("'{name}' changed while it was sent; send it again when nothing writes to it");
    FileError { file, code: "changed".to_owned(), text }
}

/// The error of a file that cannot be read.
#[must_use]
pub fn unreadable(manifest: &Manifest, file: u32, error: Errno) -> FileError {
    let name = printable(manifest.entry(file).name);
    let (code, text) = match error {
        Errno::NOENT => ("vanished", format!("'{name}' was removed during the transfer")),
        Errno::LOOP => ("changed", format!("'{name}' became a symlink during the transfer")),
        error if is_shortage(error) => (SHORTAGE, format!("'{name}' cannot be read: {}", words(error))),
        error => ("unreadable", format!("'{name}' cannot be read: {}", reading_words(error))),
    };
    FileError { file, code: code.to_owned(), text }
}

/// Compares two statuses of a file; `None` if they are of different versions.
fn look(before: &Stat, after: &Stat) -> Option<Recheck> {
    let content = |stat: &Stat| (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    let inode = |stat: &Stat| (stat.st_ctime, stat.st_ctime_nsec);
    let is_same_content = content(before) == content(after);
    is_same_content.then(|| if inode(before) == inode(after) { Recheck::Same } else { Recheck::Touched })
}

/// The hash of an open file's content.
fn hash_of_content(file: &OwnedFd) -> Result<ChunkHash, Errno> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut offset = 0;
    loop {
        match rustix::io::pread(file, &mut buffer[..], offset) {
            Ok(0) => return Ok(*hasher.finalize().as_bytes()),
            Ok(count) => {
                hasher.update(buffer.get(..count).unwrap_or_default());
                offset += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// The error of a file whose content is shorter than its size, although it does not change.
fn unsized_file(manifest: &Manifest, file: u32) -> FileError {
    let name = printable(manifest.entry(file).name);
    let text = format!("'{name}' ends before its size: {UNSIZED_REMEDY}");
    FileError { file, code: "unsized".to_owned(), text }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::fs::sources::listing::list;
    use crate::fs::sources::named::local_source;
    use crate::source::SourceTree;

    struct Room {
        _room: tempfile::TempDir,
        path: PathBuf,
        tree: SourceTree,
        opened: OwnedFd,
    }

    fn room() -> Room {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("f");
        fs::write(&path, CONTENT).unwrap();
        let tree = list(vec![local_source(&path).unwrap()], drop).unwrap();
        let opened = fs::File::open(&path).unwrap().into();
        Room { _room: room, path, tree, opened }
    }

    fn set_time_back(path: &Path, to: &fs::Metadata) {
        fs::File::options().write(true).open(path).unwrap().set_modified(to.modified().unwrap()).unwrap();
    }

    const CONTENT: &[u8] = b"first version";

    fn hash() -> Option<ChunkHash> {
        Some(*blake3::hash(CONTENT).as_bytes())
    }

    fn write_over(path: &Path) {
        fs::File::options().write(true).open(path).unwrap().write_all_at(b"2", 0).unwrap();
    }

    #[test]
    fn every_change_while_it_is_read_is_seen_also_one_at_once_and_one_that_sets_the_time_back() {
        type Change = fn(&Path, &fs::Metadata);
        let changes: [(&str, Change); 6] = [
            ("grows", |path, _| fs::File::options().append(true).open(path).unwrap().write_all(b"!").unwrap()),
            ("shrinks", |path, _| fs::File::options().write(true).open(path).unwrap().set_len(3).unwrap()),
            ("is written over", |path, _| write_over(path)),
            ("is written over and its time set back", |path, before| {
                write_over(path);
                set_time_back(path, before);
            }),
            ("is written over, its time set back, and its mode changed", |path, before| {
                write_over(path);
                set_time_back(path, before);
                fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
            }),
            ("is written over, its time set back, and removed", |path, before| {
                write_over(path);
                set_time_back(path, before);
                fs::remove_file(path).unwrap();
            }),
        ];
        for (what, change) in changes {
            let room = room();
            let before = fs::metadata(&room.path).unwrap();
            let version = SourceVersion::begin(&room.tree.listing.manifest, 0, &room.opened).unwrap();
            assert_eq!(version.check(&room.tree.listing.manifest, 0, &room.opened).unwrap(), Recheck::Same);
            // Right after the beginning: on a file system with coarse times the stamp would be that
            // of the first version.
            change(&room.path, &before);
            for hash in [hash(), None] {
                let error = version.check_content(&room.tree.listing.manifest, 0, &room.opened, hash).unwrap_err();
                assert_eq!(error.code, "changed", "it {what}");
            }
        }
    }

    #[test]
    fn a_file_that_is_replaced_or_removed_goes_on_as_the_version_that_was_opened() {
        let room = room();
        let version = SourceVersion::begin(&room.tree.listing.manifest, 0, &room.opened).unwrap();
        let other = room.path.with_extension("other");
        fs::write(&other, "other version").unwrap();
        set_time_back(&other, &fs::metadata(&room.path).unwrap());
        fs::rename(&other, &room.path).unwrap();
        version.check_content(&room.tree.listing.manifest, 0, &room.opened, hash()).unwrap();
        // But it is not opened once more.
        let again = fs::File::open(&room.path).unwrap().into();
        assert!(!SourceVersion::begin(&room.tree.listing.manifest, 0, &again).unwrap().is_of(&version));
        fs::remove_file(&room.path).unwrap();
        version.check_content(&room.tree.listing.manifest, 0, &room.opened, hash()).unwrap();
    }

    #[test]
    fn a_new_mode_name_or_link_is_no_new_version_if_the_content_is_the_same() {
        let room = room();
        let version = SourceVersion::begin(&room.tree.listing.manifest, 0, &room.opened).unwrap();
        let check = |hash| version.check_content(&room.tree.listing.manifest, 0, &room.opened, hash);
        fs::set_permissions(&room.path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(version.check(&room.tree.listing.manifest, 0, &room.opened).unwrap(), Recheck::Touched);
        check(hash()).unwrap();
        fs::hard_link(&room.path, room.path.with_extension("link")).unwrap();
        check(hash()).unwrap();
        fs::rename(&room.path, room.path.with_extension("name")).unwrap();
        check(hash()).unwrap();
        assert_eq!(check(None).unwrap_err().code, "changed", "without a hash nobody can tell");
    }

    #[test]
    fn only_what_changed_just_now_is_waited_for() {
        let room = room();
        let mut stat = *SourceVersion::begin(&room.tree.listing.manifest, 0, &room.opened).unwrap().stat();
        let changed = i128::from(fs::metadata(&room.path).unwrap().ctime()) * 1_000_000_000;
        let mut settle = |ctime_nsec: u32, mtime_nsec: u32, age_ms: i128| {
            (stat.st_ctime_nsec, stat.st_mtime_nsec) = (ctime_nsec.into(), mtime_nsec.into());
            time_to_settle(&stat, changed + i128::from(ctime_nsec) + age_ms * 1_000_000).as_millis()
        };
        assert_eq!([settle(5, 5, 0), settle(5, 5, 15), settle(5, 5, 20), settle(5, 5, 1_000)], [20, 5, 0, 0]);
        assert_eq!([settle(0, 0, 0), settle(0, 0, 1_500), settle(0, 7, 30)], [2_000, 500, 0]);
        assert_eq!(
            [settle(5, 5, -10), settle(5, 5, -3_600_000)],
            [30, 0],
            "a clock that is a little ahead, and another"
        );
    }
}
