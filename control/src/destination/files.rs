//! Large files: made under a temporary name, written by the data plane, and renamed when they are whole and durable.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use culvert_protocol::manifest::Entry;
use rustix::fs::{
    AtFlags, FallocateFlags, Mode, OFlags, RenameFlags, Timespec, Timestamps, copy_file_range, fallocate, fchmod,
    fstat, fsync, ftruncate, futimens, ioctl_ficlone, openat, renameat, renameat_with, unlinkat,
};
use rustix::io::Errno;

use super::plan::Action;
use super::{Destination, partial_name};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 30;

/// A file that is being received.
#[derive(Debug)]
pub struct PartialFile {
    /// The directory that holds it.
    parent: OwnedFd,
    /// Its final name in there.
    last: PathBuf,
    /// Its temporary name.
    partial: PathBuf,
    /// For access through the page cache.
    pub buffered: OwnedFd,
    /// For direct access, where the file system has it.
    pub direct: Option<OwnedFd>,
}

/// What a stored file gets beside its bytes.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// The sender's mode, if it is preserved.
    pub mode: Option<u16>,
    /// The sender's time of modification.
    pub modified: Option<Timespec>,
}

impl Attributes {
    /// What `entry` gets. Files always keep their time, because by size and time the same file is recognised next time;
    /// modes, and the times of directories, are kept on request.
    #[must_use]
    pub fn of(entry: &Entry<'_>, preserve: bool) -> Self {
        let modified = Timespec { tv_sec: entry.modified.seconds, tv_nsec: i64::from(entry.modified.nanoseconds) };
        Self { mode: preserve.then_some(entry.mode), modified: Some(modified) }
    }

    /// The mode to be set on a file that was made with another.
    pub(super) fn mode_to_set(&self) -> Option<Mode> {
        self.mode.map(|mode| Mode::from_raw_mode(mode.into()))
    }
}

impl PartialFile {
    /// Makes or, if `resumed`, reopens the partial file of `name`, and gives it its final size. Room is reserved unless
    /// the file has holes.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(
        destination: &Destination,
        name: &[u8],
        bytes: u64,
        is_sparse: bool,
        resumed: bool,
    ) -> Result<Self, Errno> {
        let (parent, last) = destination.parent_of(name)?;
        let partial = partial_name(name);
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let flags = if resumed { flags } else { flags | OFlags::TRUNC };
        let buffered = openat(&parent, &partial, flags, Mode::from_raw_mode(0o600))?;
        let stat = fstat(&buffered)?;
        // Somebody else's file, or something with a second name, is not ours to write.
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile || stat.st_nlink != 1
        {
            return Err(Errno::EXIST);
        }
        if stat.st_size as u64 != bytes {
            ftruncate(&buffered, bytes)?;
        }
        if !is_sparse {
            match fallocate(&buffered, FallocateFlags::empty(), 0, bytes) {
                // A file system that cannot reserve room finds out when it is written.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error),
            }
        }
        let direct = openat(
            &parent,
            &partial,
            OFlags::RDWR | OFlags::DIRECT | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        );
        let direct = direct.ok().filter(|direct| {
            fstat(direct).is_ok_and(|direct| (direct.st_dev, direct.st_ino) == (stat.st_dev, stat.st_ino))
        });
        Ok(Self { parent, last: last.to_owned(), partial, buffered, direct })
    }

    /// Copies as much of the file that this one replaces as fits into `bytes`: shares its blocks where the file system can, so that nothing is
    /// read or written. The old file is only read.
    ///
    /// # Errors
    /// The operating system's.
    pub fn copy_old(&self, bytes: u64) -> Result<(), Errno> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let old = openat(&self.parent, &self.last, flags, Mode::empty())?;
        let stat = fstat(&old)?;
        if rustix::fs::FileType::from_raw_mode(stat.st_mode) != rustix::fs::FileType::RegularFile {
            return Err(Errno::INVAL);
        }
        if ioctl_ficlone(&self.buffered, &old).is_ok() {
            return ftruncate(&self.buffered, bytes);
        }
        let (mut from, end) = (0, bytes.min(stat.st_size as u64));
        let mut to = 0;
        while from < end {
            let most = usize::try_from(end - from).unwrap_or(usize::MAX).min(COPY_BYTES);
            match copy_file_range(&old, Some(&mut from), &self.buffered, Some(&mut to), most) {
                // It became shorter meanwhile: what is missing is not the sender's, and its hash shows it.
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Makes a range a hole, so that what an earlier attempt wrote there reads as zeros.
    ///
    /// # Errors
    /// The operating system's.
    pub fn punch(&self, offset: u64, bytes: u64) -> Result<(), Errno> {
        let stat = fstat(&self.buffered)?;
        if stat.st_blocks == 0 {
            return Ok(());
        }
        fallocate(&self.buffered, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, bytes)
    }

    /// Makes what is written so far durable.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> Result<(), Errno> {
        rustix::fs::fdatasync(&self.buffered)
    }

    /// Gives the whole file its size, attributes and name, all of it durable when this returns.
    ///
    /// # Errors
    /// The operating system's; `EXIST` if the name was taken meanwhile and may not be replaced.
    pub fn finish(
        &self,
        destination: &Destination,
        bytes: u64,
        attributes: &Attributes,
        action: Action,
    ) -> Result<(), Errno> {
        // Direct writes come in whole blocks, so the last one may reach beyond the end.
        ftruncate(&self.buffered, bytes)?;
        set_attributes(&self.buffered, Some(destination.file_mode(attributes.mode)), attributes.modified)?;
        fsync(&self.buffered)?;
        rename_into_place(&self.parent, &self.partial, &self.last, action)?;
        fsync(&self.parent)
    }

    /// Removes the file.
    pub fn discard(&self) {
        // If it cannot be removed it stays under its temporary name, which no result shows as stored.
        let _ = unlinkat(&self.parent, &self.partial, AtFlags::empty());
    }
}

/// Sets mode and times of a file that nobody sees yet.
pub(super) fn set_attributes(file: &OwnedFd, mode: Option<Mode>, modified: Option<Timespec>) -> Result<(), Errno> {
    if let Some(mode) = mode {
        fchmod(file, mode)?;
    }
    if let Some(modified) = modified {
        futimens(file, &Timestamps { last_access: modified, last_modification: modified })?;
    }
    Ok(())
}

/// Renames within a directory; replaces only what may be replaced.
pub(super) fn rename_into_place(parent: &OwnedFd, from: &Path, to: &Path, action: Action) -> Result<(), Errno> {
    if action == Action::Replace {
        return renameat(parent, from, parent, to);
    }
    match renameat_with(parent, from, parent, to, RenameFlags::NOREPLACE) {
        // A file system without the flag (NFS): a second link fails if the name is taken, as it should.
        Err(Errno::INVAL | Errno::NOSYS) => {
            rustix::fs::linkat(parent, from, parent, to, AtFlags::empty())?;
            unlinkat(parent, from, AtFlags::empty())
        }
        renamed => renamed,
    }
}

/// Sets a directory's mode and time, after everything in it has been stored.
///
/// # Errors
/// The operating system's.
pub fn set_directory_attributes(destination: &Destination, name: &[u8], attributes: &Attributes) -> Result<(), Errno> {
    let directory = destination.open_directory(name)?;
    if let Some(mode) = attributes.mode {
        fchmod(&directory, Mode::from_raw_mode(mode.into()))?;
    }
    if let Some(modified) = attributes.modified {
        futimens(&directory, &Timestamps { last_access: modified, last_modification: modified })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Reach;
    use std::fs;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    fn destination() -> (tempfile::TempDir, Destination) {
        let directory = tempfile::tempdir().unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let destination = reach.open_destination(b"", false, true).unwrap();
        (directory, destination)
    }

    const PRESERVED: Attributes =
        Attributes { mode: Some(0o640), modified: Some(Timespec { tv_sec: 1_000, tv_nsec: 5 }) };

    #[test]
    fn a_file_has_its_name_only_when_it_is_whole() {
        let (directory, destination) = destination();
        let partial = PartialFile::open(&destination, b"big", 10_000, false, false).unwrap();
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

    #[test]
    fn a_name_that_was_taken_meanwhile_is_not_overwritten() {
        let (directory, destination) = destination();
        let partial = PartialFile::open(&destination, b"big", 1, false, false).unwrap();
        fs::write(directory.path().join("big"), "mine").unwrap();
        assert_eq!(partial.finish(&destination, 1, &PRESERVED, Action::Create), Err(Errno::EXIST));
        assert_eq!(fs::read(directory.path().join("big")).unwrap(), b"mine");
        partial.finish(&destination, 1, &PRESERVED, Action::Replace).unwrap();
        assert_eq!(fs::read(directory.path().join("big")).unwrap(), b"\0");
    }

    #[test]
    fn a_resumed_file_keeps_its_bytes_and_a_new_one_does_not() {
        let (_directory, destination) = destination();
        let first = PartialFile::open(&destination, b"f", 4, false, false).unwrap();
        fs::File::from(first.buffered).write_all_at(b"data", 0).unwrap();
        let read = |resumed| {
            let again = PartialFile::open(&destination, b"f", 4, false, resumed).unwrap();
            let mut bytes = [0; 4];
            fs::File::from(again.buffered).read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert_eq!(&read(true), b"data");
        assert_eq!(&read(false), b"\0\0\0\0");
    }

    #[test]
    fn a_symlink_under_the_temporary_name_is_not_followed() {
        let (directory, destination) = destination();
        let victim = directory.path().join("victim");
        fs::write(&victim, "safe").unwrap();
        std::os::unix::fs::symlink(&victim, directory.path().join(partial_name(b"f"))).unwrap();
        assert_eq!(PartialFile::open(&destination, b"f", 4, false, false).unwrap_err(), Errno::LOOP);
        fs::remove_file(directory.path().join(partial_name(b"f"))).unwrap();
        fs::hard_link(&victim, directory.path().join(partial_name(b"f"))).unwrap();
        assert_eq!(PartialFile::open(&destination, b"f", 4, false, true).unwrap_err(), Errno::EXIST);
        assert_eq!(fs::read(&victim).unwrap(), b"safe");
    }

    #[test]
    fn a_sparse_file_takes_no_room() {
        let (directory, destination) = destination();
        let partial = PartialFile::open(&destination, b"sparse", 1 << 40, true, false).unwrap();
        partial.punch(0, 1 << 30).unwrap();
        partial.finish(&destination, 1 << 40, &PRESERVED, Action::Create).unwrap();
        let stored = fs::metadata(directory.path().join("sparse")).unwrap();
        assert_eq!(stored.len(), 1 << 40);
        assert!(stored.blocks() < 1_000);
    }
}
