//! Opens listed files for reading, and checks them again after they were read.

use std::os::fd::OwnedFd;

use culvert_protocol::control::FileError;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{Advice, OFlags, SeekFrom, fadvise, fstat, seek};
use rustix::io::Errno;

use super::Content;
use super::version::{Recheck, SourceVersion, TRIES_MAX, changed, check_listed, unreadable};
use crate::source::{ObjectSource, OpenedSource, SourceContent, Version};

impl ObjectSource for Content {
    fn open(&self, manifest: &Manifest, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError> {
        let fail = |error| unreadable(manifest, file, error);
        let buffered = self.open_file(manifest, file, OFlags::empty()).map_err(fail)?;
        let version = SourceVersion::begin(manifest, file, &buffered)?;
        let earlier = earlier.and_then(Version::mark::<SourceVersion>);
        // Everything sent must be of one version.
        if earlier.is_some_and(|earlier| !version.is_of(earlier)) {
            return Err(changed(manifest, file));
        }
        let version = *earlier.unwrap_or(&version);
        let stat = version.stat();
        let direct = self.open_file(manifest, file, OFlags::DIRECT).ok().filter(|direct| {
            fstat(direct).is_ok_and(|direct| (direct.st_dev, direct.st_ino) == (stat.st_dev, stat.st_ino))
        });
        // Lets the kernel read ahead through the page cache.
        let _ = fadvise(&buffered, 0, None, Advice::Sequential);
        let bytes = version.bytes();
        let holes = if (stat.st_blocks as u64) * 512 < bytes { find_holes(&buffered, bytes) } else { Vec::new() };
        let content = SourceContent::Descriptors { buffered, direct, holes };
        Ok(OpenedSource { content, version: Version::new(version) })
    }

    fn check(
        &self,
        manifest: &Manifest,
        file: u32,
        opened: Option<&OpenedSource>,
        hash: Option<ChunkHash>,
    ) -> Result<(), FileError> {
        if let Some(OpenedSource { content: SourceContent::Descriptors { buffered, .. }, version }) = opened
            && let Some(version) = version.mark::<SourceVersion>()
        {
            return version.check_content(manifest, file, buffered, hash);
        }
        let stat = self.open_file(manifest, file, OFlags::empty()).and_then(fstat);
        check_listed(manifest, file, &stat.map_err(|error| unreadable(manifest, file, error))?)
    }

    fn read_whole(&self, manifest: &Manifest, file: u32, place: &mut [u8]) -> Result<(), FileError> {
        let opened = self.open_file(manifest, file, OFlags::empty());
        let opened = opened.map_err(|error| unreadable(manifest, file, error))?;
        for _ in 0..TRIES_MAX {
            if read_version(manifest, file, &opened, place)? == Recheck::Same {
                return Ok(());
            }
        }
        Err(changed(manifest, file))
    }
}

/// Reads a file, and checks whether everything was of one version.
fn read_version(manifest: &Manifest, file: u32, opened: &OwnedFd, place: &mut [u8]) -> Result<Recheck, FileError> {
    let version = SourceVersion::begin(manifest, file, opened)?;
    let mut read = 0;
    while read < place.len() {
        match rustix::io::pread(opened, &mut place[read..], read as u64) {
            Ok(0) => return Err(version.ended_early(manifest, file, opened)),
            Ok(count) => read += count,
            Err(Errno::INTR) => {}
            Err(error) => return Err(unreadable(manifest, file, error)),
        }
    }
    version.check(manifest, file, opened)
}

/// The file's holes, ascending. None on a file system that cannot report them.
fn find_holes(file: &OwnedFd, bytes: u64) -> Vec<(u64, u64)> {
    let mut holes = Vec::new();
    let mut at = 0;
    while at < bytes {
        let Ok(hole) = seek(file, SeekFrom::Hole(at)) else { break };
        if hole >= bytes {
            break;
        }
        at = match seek(file, SeekFrom::Data(hole)) {
            Ok(data) => data,
            // No data follows the hole.
            Err(Errno::NXIO) => bytes,
            Err(_) => break,
        };
        holes.push((hole, at));
    }
    holes
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;
    use crate::fs::sources::listing::list;
    use crate::fs::sources::named::local_source;

    #[test]
    fn holes_are_found() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(100 << 20).unwrap();
        file.write_all_at(&[1; 4096], 50 << 20).unwrap();
        let holes = find_holes(&file.into(), 100 << 20);
        if holes.is_empty() {
            eprintln!("skipped: this file system does not tell holes");
            return;
        }
        let is_hole =
            |offset: u64, bytes: u64| holes.iter().any(|&(begin, end)| begin <= offset && offset + bytes <= end);
        assert!(is_hole(0, 1 << 20));
        assert!(is_hole(96 << 20, 4 << 20));
        assert!(!is_hole(48 << 20, 4 << 20));
    }

    /// One part of the transfer would be of one file, and the rest of another.
    #[test]
    fn a_file_that_was_replaced_or_changed_is_not_opened_once_more() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("f");
        std::fs::write(&path, "one version").unwrap();
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let tree = list(vec![local_source(&path).unwrap()], drop).unwrap();
        let version = tree.open(0, None).unwrap().version;
        let inode = |version: &Version| version.mark::<SourceVersion>().unwrap().stat().st_ino;
        assert_eq!(inode(&tree.open(0, Some(&version)).unwrap().version), inode(&version));
        let other = room.path().join("other");
        std::fs::write(&other, "two version").unwrap();
        std::fs::File::options().write(true).open(&other).unwrap().set_modified(modified).unwrap();
        std::fs::rename(&other, &path).unwrap();
        // By size and time it is what was listed.
        assert!(tree.open(0, None).is_ok());
        assert_eq!(tree.open(0, Some(&version)).unwrap_err().code, "changed");
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tree.open(0, Some(&version)).unwrap_err().code, "vanished");
    }
}
