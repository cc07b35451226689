//! Large files: created under a temporary name, written by the data plane, and renamed once they
//! are whole and durable.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{
    AtFlags, FallocateFlags, FileType, Mode, OFlags, RenameFlags, Stat, fallocate, fchmod, fstat, fsync, ftruncate,
    openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::attributes::{Attributes, Refused, set_attributes};
use crate::fs::destination::modes::{PRIVATE, mode_to_have, permitted_in, set_mode};
use crate::fs::destination::names::split_name;
use crate::fs::destination::temporary::temporary_name;

/// A file that is being received.
#[derive(Debug)]
pub struct PartialFile {
    /// Its directory.
    parent: Arc<OwnedFd>,
    /// The directory's name.
    directory: Vec<u8>,
    /// Its final name in that directory.
    last: PathBuf,
    /// Its temporary name.
    partial: PathBuf,
    /// What the journal keeps to find it again.
    pub left: LeftFile,
    /// For access through the page cache.
    pub buffered: OwnedFd,
    /// For direct access, if the file system supports it.
    pub direct: Option<OwnedFd>,
}

/// How the next attempt finds a partial file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeftFile {
    /// The number from which its temporary name is derived.
    pub token: u128,
    /// Its inode; zero if an earlier version of Culvert left it, which did not record one.
    pub inode: u64,
}

impl LeftFile {
    /// Whether the file with that name is the one that was left, and not one that somebody else
    /// put there after seeing the name.
    #[must_use]
    pub fn is_this(&self, stat: &Stat) -> bool {
        FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
            && stat.st_nlink == 1
            && stat.st_uid == geteuid().as_raw()
            && (self.inode == 0 || self.inode == stat.st_ino)
    }

    /// Gives the owner the permissions to continue with it, and others none.
    fn make_private(&self, parent: &OwnedFd, partial: &Path) -> Result<(), Errno> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, partial, flags, Mode::empty())?;
        if self.is_this(&fstat(&file)?) { set_mode(&file, PRIVATE) } else { Err(Errno::EXIST) }
    }
}

impl PartialFile {
    /// Creates the partial file of `name`, with its final size. Reserves space unless the file has
    /// holes.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn create(destination: &Destination, name: &[u8], bytes: u64, is_sparse: bool) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        destination.in_parent_of(name, |parent, last| {
            let token = destination.attempt.next_token();
            let partial = temporary_name(token);
            // The contents may be private: others may read nothing before the file has its mode.
            let buffered = openat(parent, &partial, flags, PRIVATE)?;
            let reserved = reserve(&buffered, bytes, is_sparse).and_then(|()| fstat(&buffered));
            let stat = reserved.inspect_err(|_| {
                let _ = unlinkat(parent, &partial, AtFlags::empty());
            })?;
            let direct = open_direct(parent, &partial, &stat, OFlags::RDWR);
            let left = LeftFile { token, inode: stat.st_ino };
            let (directory, _) = split_name(name);
            let (parent, directory, last) = (parent.clone(), directory.to_vec(), last.to_owned());
            Ok(Self { parent, directory, last, partial, left, buffered, direct })
        })
    }

    /// Opens the partial file of `name` that an earlier attempt has left.
    ///
    /// # Errors
    /// Those of the operating system; `EXIST` if what is there now is not that file.
    pub fn reopen(
        destination: &Destination,
        name: &[u8],
        left: LeftFile,
        bytes: u64,
        is_sparse: bool,
    ) -> Result<Self, Errno> {
        let (parent, last) = destination.parent_of(name)?;
        let partial = temporary_name(left.token);
        let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let open = || openat(&parent, &partial, flags, Mode::empty());
        let buffered = match open() {
            // The last attempt had set its final mode already, which denies access.
            Err(Errno::ACCESS) => left.make_private(&parent, &partial).and_then(|()| open())?,
            opened => opened?,
        };
        let stat = fstat(&buffered)?;
        if !left.is_this(&stat) {
            return Err(Errno::EXIST);
        }
        if stat.st_mode & 0o7777 != PRIVATE.as_raw_mode() {
            // A file system that refuses modes has one for all files.
            let _ = fchmod(&buffered, PRIVATE);
        }
        reserve(&buffered, bytes, is_sparse)?;
        let left = LeftFile { inode: stat.st_ino, ..left };
        let direct = open_direct(&parent, &partial, &stat, OFlags::RDWR);
        let (directory, _) = split_name(name);
        let (parent, directory, last) = (Arc::new(parent), directory.to_vec(), last.to_owned());
        Ok(Self { parent, directory, last, partial, left, buffered, direct })
    }

    /// Makes a range a hole, which removes what an earlier attempt wrote there.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn punch(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let stat = fstat(&self.buffered)?;
        if stat.st_blocks == 0 {
            return Ok(());
        }
        fallocate(&self.buffered, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.buffered)
    }

    /// Gives the whole file its size, attributes and name, all durable when this returns. Returns
    /// the attributes that were refused.
    ///
    /// # Errors
    /// Those of the operating system; `EXIST` if the name was taken meanwhile and may not be
    /// replaced; `NODATA` if somebody has cut the file.
    pub fn finish(
        &self,
        destination: &Destination,
        bytes: u64,
        attributes: &Attributes,
        action: Action,
    ) -> Result<Refused, Errno> {
        // It had its full size from the start: if it is shorter, somebody has cut it.
        if (fstat(&self.buffered)?.st_size as u64) < bytes {
            return Err(Errno::NODATA);
        }
        // Direct writes are whole blocks, so the last one may extend beyond the end.
        ftruncate(&self.buffered, bytes)?;
        let mode = match attributes.preserved_mode() {
            Some(mode) => mode,
            None => destination.opening(&self.directory, || {
                let place = (&self.parent, self.last.as_path());
                mode_to_have(attributes.mode, &self.buffered, place, permitted_in(&self.parent), action)
            })?,
        };
        let refused = set_attributes(&self.buffered, Some(mode), attributes)?;
        fsync(&self.buffered)?;
        let rename = || rename_into_place(&self.parent, &self.partial, &self.last, action);
        destination.opening(&self.directory, rename)?;
        fsync(&self.parent)?;
        Ok(refused)
    }

    /// Removes the file.
    pub fn discard(&self, destination: &Destination) {
        let remove = || unlinkat(&self.parent, &self.partial, AtFlags::empty());
        // If it cannot be removed, it stays under its temporary name, and no result counts it.
        let _ = destination.opening(&self.directory, remove);
    }
}

/// A second descriptor of the same file, for direct access; `None` if the file system does not
/// support it.
pub(super) fn open_direct(parent: &OwnedFd, name: &Path, file: &Stat, flags: OFlags) -> Option<OwnedFd> {
    let flags = flags | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let direct = openat(parent, name, flags, Mode::empty()).ok()?;
    let stat = fstat(&direct).ok()?;
    ((stat.st_dev, stat.st_ino) == (file.st_dev, file.st_ino)).then_some(direct)
}

/// Renames within a directory; replaces a file only if the plan says so.
pub(super) fn rename_into_place(parent: &OwnedFd, from: &Path, to: &Path, action: Action) -> Result<(), Errno> {
    if action == Action::Replace {
        return renameat(parent, from, parent, to);
    }
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        // A file system without the flag (NFS): a second link also fails if the name is taken.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(parent, from, parent, to, AtFlags::empty())?;
            unlinkat(parent, from, AtFlags::empty())
        }
        renamed => renamed,
    }
}

/// Gives a partial file its final size, and reserves space unless it has holes.
fn reserve(file: &OwnedFd, bytes: u64, is_sparse: bool) -> Result<(), Errno> {
    // A file that an attempt has left may be longer: direct writes are whole blocks.
    if fstat(file)?.st_size as u64 != bytes {
        ftruncate(file, bytes)?;
    }
    if is_sparse {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::empty(), 0, bytes) {
        // Without reservation, a lack of space shows when the file is written.
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        reserved => reserved,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use rustix::fs::Timespec;

    use super::*;
    use crate::fs::destination::MissingDestination;
    use crate::fs::reach::Reach;

    fn destination() -> (tempfile::TempDir, Destination) {
        let directory = tempfile::tempdir().unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let destination = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
        (directory, destination)
    }

    const PRESERVED: Attributes =
        Attributes { mode: 0o640, is_mode_preserved: true, modified: Some(Timespec { tv_sec: 1_000, tv_nsec: 5 }) };

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let (directory, destination) = destination();
        let partial = PartialFile::create(&destination, b"big", 10_000, false).unwrap();
        assert!(!directory.path().join("big").exists());
        fs::File::from(partial.buffered.try_clone().unwrap()).write_all_at(&[7; 10_000], 0).unwrap();
        partial.finish(&destination, 10_000, &PRESERVED, Action::Create).unwrap();
        let stored = fs::metadata(directory.path().join("big")).unwrap();
        assert_eq!(
            (stored.len(), stored.mode() & 0o777, stored.mtime(), stored.mtime_nsec()),
            (10_000, 0o640, 1_000, 5)
        );
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no temporary file remains");
    }

    /// The missing part was filled with zeros.
    #[test]
    fn a_file_that_was_cut_gets_no_name() {
        let (directory, destination) = destination();
        let partial = PartialFile::create(&destination, b"big", 10_000, false).unwrap();
        ftruncate(&partial.buffered, 9_999).unwrap();
        assert_eq!(partial.finish(&destination, 10_000, &PRESERVED, Action::Create), Err(Errno::NODATA));
        assert!(!directory.path().join("big").exists());
    }

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_overwritten() {
        let (directory, destination) = destination();
        let partial = PartialFile::create(&destination, b"big", 1, false).unwrap();
        fs::write(directory.path().join("big"), "mine").unwrap();
        assert_eq!(partial.finish(&destination, 1, &PRESERVED, Action::Create), Err(Errno::EXIST));
        assert_eq!(fs::read(directory.path().join("big")).unwrap(), b"mine");
        partial.finish(&destination, 1, &PRESERVED, Action::Replace).unwrap();
        assert_eq!(fs::read(directory.path().join("big")).unwrap(), b"\0");
    }

    fn read(partial: &PartialFile) -> Vec<u8> {
        let file = fs::File::from(partial.buffered.try_clone().unwrap());
        let mut bytes = vec![0; file.metadata().unwrap().len() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_file_that_was_left_keeps_its_bytes_also_if_its_last_block_was_padded() {
        let (_directory, destination) = destination();
        let first = PartialFile::create(&destination, b"f", 4, false).unwrap();
        fs::File::from(first.buffered).write_all_at(b"data\0\0\0\0", 0).unwrap();
        let again = PartialFile::reopen(&destination, b"f", first.left, 4, false).unwrap();
        assert_eq!(read(&again), b"data");
        assert_eq!(again.left, first.left);
    }

    /// Two transfers that store one name had one temporary file.
    #[test]
    fn two_attempts_share_no_file() {
        let (directory, destination) = destination();
        let partials = [(); 2].map(|()| PartialFile::create(&destination, b"f", 4, false).unwrap());
        for (partial, content) in partials.iter().zip([b"aaaa", b"bbbb"]) {
            fs::File::from(partial.buffered.try_clone().unwrap()).write_all_at(content, 0).unwrap();
        }
        assert_eq!(partials.each_ref().map(read), [b"aaaa", b"bbbb"]);
        partials[0].finish(&destination, 4, &PRESERVED, Action::Create).unwrap();
        assert_eq!(partials[1].finish(&destination, 4, &PRESERVED, Action::Create), Err(Errno::EXIST));
        partials[1].discard(&destination);
        assert_eq!(fs::read(directory.path().join("f")).unwrap(), b"aaaa");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_not_the_file_that_was_left_is_not_touched() {
        let (directory, destination) = destination();
        let left = PartialFile::create(&destination, b"f", 8, false).unwrap().left;
        let (name, victim) = (directory.path().join(temporary_name(left.token)), directory.path().join("victim"));
        let refused = |errno| {
            assert_eq!(PartialFile::reopen(&destination, b"f", left, 4, false).unwrap_err(), errno);
            assert!(!victim.exists() || fs::read(&victim).unwrap() == b"safe file");
        };
        let elsewhere = directory.path().join("elsewhere");
        fs::rename(&name, &elsewhere).unwrap();
        fs::write(&victim, "safe file").unwrap();
        std::os::unix::fs::symlink(&victim, &name).unwrap();
        refused(Errno::LOOP);
        fs::remove_file(&name).unwrap();
        fs::hard_link(&victim, &name).unwrap();
        refused(Errno::EXIST);
        fs::rename(&victim, &name).unwrap();
        fs::remove_file(&name).unwrap();
        fs::write(&name, "another file of ours").unwrap();
        refused(Errno::EXIST);
        assert_eq!(fs::read(&name).unwrap(), b"another file of ours");
        fs::rename(&elsewhere, &name).unwrap();
        assert!(PartialFile::reopen(&destination, b"f", left, 4, false).is_ok());
        if geteuid().is_root() {
            std::os::unix::fs::chown(&name, Some(65_534), None).unwrap();
            refused(Errno::EXIST);
        }
    }

    #[test]
    fn a_sparse_file_takes_no_room() {
        let (directory, destination) = destination();
        let partial = PartialFile::create(&destination, b"sparse", 1 << 40, true).unwrap();
        partial.punch(0, 1 << 30).unwrap();
        partial.finish(&destination, 1 << 40, &PRESERVED, Action::Create).unwrap();
        let stored = fs::metadata(directory.path().join("sparse")).unwrap();
        assert_eq!(stored.len(), 1 << 40);
        assert!(stored.blocks() < 1_000);
    }
}
