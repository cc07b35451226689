//! Existing files, compared by content with those that would replace them.
//!
//! Existing files are only read. One that turns out to have the sender's bytes stays, and gets the
//! sender's time. If one has some of them, those are copied to the new file. As with sources, a
//! file is still the one that was hashed if its identity, size, modification time and change time
//! are the same.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use culvert_system::settling::settle;
use rustix::fs::{
    FallocateFlags, FileType, Mode, OFlags, SeekFrom, Stat, copy_file_range, fallocate, fstat, fsync, openat, seek,
};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::attributes::{Attributes, PERMISSIONS, Refused, has_other_mode, is_own, set_attributes};
use crate::fs::destination::files::{PartialFile, open_direct};
use crate::fs::destination::identity::{Identity, identity};
use crate::fs::destination::modes::set_mode;
use crate::fs::destination::names::split_name;

/// The version of a file that was hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OldVersion {
    identity: Identity,
    /// Its size.
    pub bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl OldVersion {
    fn of(stat: &Stat) -> Self {
        Self {
            identity: identity(stat),
            bytes: stat.st_size as u64,
            modified: (stat.st_mtime, stat.st_mtime_nsec as i64),
            changed: (stat.st_ctime, stat.st_ctime_nsec as i64),
        }
    }
}

/// An existing file, opened to be hashed.
#[derive(Debug)]
pub struct OldFile {
    /// For access through the page cache.
    pub buffered: OwnedFd,
    /// For direct access, if the file system supports it.
    pub direct: Option<OwnedFd>,
    /// The version that was opened.
    pub version: OldVersion,
}

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC).union(OFlags::NONBLOCK);

impl OldFile {
    /// Opens the file that has this name, once no further change can look like the last.
    ///
    /// Pages written through a memory mapping are written back first: a store to a page that is
    /// already dirty changes neither timestamp, one to a clean page does. On file systems without
    /// writeback (tmpfs), such stores remain unseen.
    ///
    /// # Errors
    /// Those of the operating system; `INVAL` if it is not a regular file.
    pub fn open(destination: &Destination, name: &[u8]) -> Result<Self, Errno> {
        destination.in_parent_of(name, |parent, last| {
            let buffered = openat(parent, last, READ, Mode::empty())?;
            fsync(&buffered)?;
            let stat = settle(&buffered)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return Err(Errno::INVAL);
            }
            let direct = open_direct(parent, last, &stat, READ);
            Ok(Self { buffered, direct, version: OldVersion::of(&stat) })
        })
    }
}

/// A part of a file: offset and length in bytes.
pub type Range = (u64, u32);

/// Copies ranges of the existing file to the partial file; if the file system can, the two share
/// blocks, and nothing is read or written. False if the existing file is no longer `version`: it is
/// then unknown what was copied.
///
/// # Errors
/// Those of the operating system.
pub fn copy_ranges(
    destination: &Destination,
    name: &[u8],
    version: OldVersion,
    partial: &PartialFile,
    ranges: &[Range],
) -> Result<bool, Errno> {
    let (directory, last) = split_name(name);
    let parent = destination.open_directory(directory)?;
    let old = openat(&parent, Path::new(OsStr::from_bytes(last)), READ, Mode::empty())?;
    let is_unchanged = || Ok::<_, Errno>(OldVersion::of(&fstat(&old)?) == version);
    if !is_unchanged()? {
        return Ok(false);
    }
    for &(offset, bytes) in ranges {
        if !copy_range(&old, offset..offset.saturating_add(bytes.into()), &partial.buffered)? {
            return Ok(false);
        }
    }
    is_unchanged()
}

/// Keeps an existing file that has the sender's bytes, and gives it the sender's time (and mode, if
/// modes are preserved), all durable when this returns. Returns the refused attributes; `None` if
/// the file is no longer the version that was hashed.
///
/// # Errors
/// Those of the operating system.
pub fn keep(
    destination: &Destination,
    name: &[u8],
    version: OldVersion,
    attributes: &Attributes,
) -> Result<Option<Refused>, Errno> {
    let (directory, last) = split_name(name);
    let parent = destination.open_directory(directory)?;
    let file = match openat(&parent, Path::new(OsStr::from_bytes(last)), READ, Mode::empty()) {
        Err(Errno::NOENT | Errno::LOOP) => return Ok(None),
        opened => opened?,
    };
    // Somebody may have written the bytes a moment ago: they must be as durable as sent ones.
    fsync(&file)?;
    let stat = fstat(&file)?;
    if OldVersion::of(&stat) != version {
        return Ok(None);
    }
    let mode = attributes.preserved_mode().filter(|_| has_other_mode(&stat, attributes.mode));
    let time = attributes.modified.filter(|time| (time.tv_sec, time.tv_nsec) != version.modified);
    if mode.is_none() && time.is_none() {
        return Ok(Some(Refused::default()));
    }
    let wanted = Attributes { modified: time, ..*attributes };
    let mut refused = set_attributes(&file, mode.filter(|_| is_own(&stat)), &wanted)?;
    if mode.is_some() && !is_own(&stat) {
        refused.mode = Some(Errno::PERM);
    }
    fsync(&file)?;
    Ok(Some(refused))
}

/// Gives the sender's mode to an existing file that equals the sender's, and returns its status
/// then. `there` is the file's identity: another file that has the name by now is left alone. Any
/// error counts as a refusal, because the bytes are not affected.
pub fn set_mode_of_same(
    destination: &Destination,
    name: &[u8],
    there: Identity,
    wanted: u16,
) -> (Refused, Option<Stat>) {
    let set = destination.in_parent_of(name, |parent, last| {
        // O_PATH: even the owner may lack permission to read it.
        let file = openat(parent, last, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
        let stat = fstat(&file)?;
        if identity(&stat) != there {
            return Err(Errno::NOENT);
        }
        if !is_own(&stat) {
            return Err(Errno::PERM);
        }
        set_mode(&file, Mode::from_raw_mode(u32::from(wanted) & PERMISSIONS))?;
        fstat(&file)
    });
    match set {
        // The call may succeed and change nothing where all files have one mode: hence the status.
        Ok(stat) => (Refused::default(), Some(stat)),
        Err(Errno::NOENT) => (Refused::default(), None),
        Err(error) => (Refused { mode: Some(error), time: None }, None),
    }
}

/// Copies a range of a file to the same offset in another, holes as holes. False if the file has
/// become shorter.
fn copy_range(old: &OwnedFd, range: std::ops::Range<u64>, new: &OwnedFd) -> Result<bool, Errno> {
    let mut from = range.start;
    while from < range.end {
        let data = next_extent(old, from, range.end)?;
        make_hole(new, from, data.start, old)?;
        from = data.end;
        if !copy_extent(old, data, new)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The next part of a file between two offsets that is not a hole; empty, at `end`, if there is
/// none. On a file system that does not report holes, everything is data.
fn next_extent(file: &OwnedFd, from: u64, end: u64) -> Result<std::ops::Range<u64>, Errno> {
    let start = match seek(file, SeekFrom::Data(from)) {
        Ok(start) => start.clamp(from, end),
        Err(Errno::NXIO) => end,
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(from..end),
        Err(error) => return Err(error),
    };
    if start == end {
        return Ok(end..end);
    }
    // A virtual hole follows the end of every file.
    let hole = seek(file, SeekFrom::Hole(start)).unwrap_or(end).clamp(start, end);
    Ok(start..hole)
}

/// Makes a part of a file a hole, because an earlier attempt may have left data there. If holes are
/// not supported, copies the old file's zeros.
fn make_hole(file: &OwnedFd, from: u64, end: u64, old: &OwnedFd) -> Result<(), Errno> {
    if from >= end {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, from, end - from) {
        Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) => copy_extent(old, from..end, file).map(drop),
        made => made,
    }
}

/// Copies a part of a file to the same offset in another. False if the file has become shorter.
fn copy_extent(old: &OwnedFd, part: std::ops::Range<u64>, new: &OwnedFd) -> Result<bool, Errno> {
    let (mut from, mut to) = (part.start, part.start);
    while from < part.end {
        let most = usize::try_from(part.end - from).unwrap_or(usize::MAX);
        match copy_file_range(old, Some(&mut from), new, Some(&mut to), most) {
            Ok(0) => return Ok(false),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use super::*;

    /// Holes were filled, so a sparse file that had fitted no longer did.
    #[test]
    fn holes_are_copied_as_holes_over_whatever_was_there() {
        const BYTES: usize = 8 << 20;
        let (old, new) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        old.set_len(BYTES as u64).unwrap();
        for at in [0, 3 << 20, BYTES as u64 - 1] {
            old.write_all_at(b"x", at).unwrap();
        }
        new.write_all_at(&vec![7; BYTES], 0).unwrap();
        let (from, to): (OwnedFd, OwnedFd) = (old.try_clone().unwrap().into(), new.try_clone().unwrap().into());
        assert_eq!(copy_range(&from, 0..BYTES as u64, &to), Ok(true));
        let read = |file: &File| {
            let mut bytes = vec![1; BYTES];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        };
        assert!(read(&old) == read(&new), "the copy has other bytes");
        let taken = |file: &File| file.metadata().unwrap().blocks() * 512;
        assert!(taken(&new) <= taken(&old) + (64 << 10), "{} bytes for {}", taken(&new), taken(&old));
    }
}
