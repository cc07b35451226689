//! Small files: unpacked from a chunk, written without a name, made durable together, and linked into place.
//!
//! A file without a name (`O_TMPFILE`) leaves nothing behind when its process dies. Where a file system has no such files they get a temporary
//! name. One `syncfs` makes all files of a pack durable before the first gets its name, because an `fsync` for each would
//! cost a journal commit for each.
//!
//! A nameless file lives by its descriptor, and descriptors are scarce: half of what this process may have are for staged files
//! (`DescriptorPlaces`). A pack waits for its share; one that would need more than there can be is staged under temporary names
//! instead, which needs none.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use culvert_protocol::control::FileError;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, Stat, fstat, linkat, openat, statat, unlinkat};
use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

use super::files::{Attributes, rename_into_place, set_attributes};
use super::plan::Action;
use super::{Destination, partial_name, split_name};

/// A small file that is written and has no name yet.
#[derive(Debug)]
pub struct StagedFile {
    /// Its entry.
    pub file: u32,
    /// The open file and its directory, if it has no name at all.
    nameless: Option<Nameless>,
    action: Action,
}

/// A file without a name, and where it belongs.
#[derive(Debug)]
struct Nameless {
    file: OwnedFd,
    parent: Arc<OwnedFd>,
    _places: DescriptorPlaces,
}

/// Descriptors of staged files, of all transfers together; told when some are given back.
static DESCRIPTORS_STAGED: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());
/// A pack waits no longer than this for descriptors: a disk that is so slow gets temporary names.
const PLACES_PATIENCE: Duration = Duration::from_secs(5);
/// Of one staged file: its own, and its directory's, which is another file's too in most cases.
const DESCRIPTORS_PER_FILE: u64 = 2;

/// The right to keep a nameless file open until it has its name.
#[derive(Debug)]
struct DescriptorPlaces;

impl DescriptorPlaces {
    fn limit() -> u64 {
        static LIMIT: OnceLock<u64> = OnceLock::new();
        *LIMIT.get_or_init(|| getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) / 2)
    }

    fn staged() -> MutexGuard<'static, u64> {
        DESCRIPTORS_STAGED.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `files` more can be staged. The committer, which never waits for this, makes room.
    fn wait_for(files: usize) {
        let wanted = files as u64 * DESCRIPTORS_PER_FILE;
        if wanted <= Self::limit() {
            let is_full = |staged: &mut u64| *staged + wanted > Self::limit();
            let _ = DESCRIPTORS_STAGED.1.wait_timeout_while(Self::staged(), PLACES_PATIENCE, is_full);
        }
    }

    /// None if staged files have all descriptors that they may have.
    fn take() -> Option<Self> {
        let mut staged = Self::staged();
        if *staged + DESCRIPTORS_PER_FILE > Self::limit() {
            return None;
        }
        *staged += DESCRIPTORS_PER_FILE;
        Some(Self)
    }
}

impl Drop for DescriptorPlaces {
    fn drop(&mut self) {
        let mut staged = Self::staged();
        *staged -= DESCRIPTORS_PER_FILE;
        // Those who wait want room for a pack, not for a file.
        if *staged == 0 || staged.is_multiple_of(256) {
            DESCRIPTORS_STAGED.1.notify_all();
        }
    }
}

/// The files of a pack, written.
#[derive(Debug, Default)]
pub struct StagedPack {
    /// Those that can be linked.
    pub staged: Vec<StagedFile>,
    /// Those that could not be written.
    pub failed: Vec<FileError>,
    /// Those whose bytes do not have the sender's hash.
    pub mismatched: Vec<u32>,
}

/// What unpacking needs to know.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    /// Where to.
    pub destination: &'a Destination,
    /// The transfer's files.
    pub manifest: &'a Manifest,
    /// What becomes of each.
    pub actions: &'a [Action],
    /// Whether modes and times are kept.
    pub preserve: bool,
    /// Whether an earlier attempt may have left files under temporary names.
    pub is_continued: bool,
}

impl Unpacking<'_> {
    /// Writes the files of a pack. `hashes` are the sender's, if the transfer has hashes; `skip` says which files the sender gave up.
    #[must_use]
    pub fn stage(
        &self,
        files: &[u32],
        pack: &[u8],
        hashes: Option<&[ChunkHash]>,
        skip: impl Fn(u32) -> bool,
    ) -> StagedPack {
        let mut result = StagedPack::default();
        DescriptorPlaces::wait_for(files.len());
        let mut parent: Option<(&[u8], Arc<OwnedFd>)> = None;
        let mut rest = pack;
        for (at, &file) in files.iter().enumerate() {
            let bytes = self.manifest.file_bytes(file).unwrap_or(0) as usize;
            let Some((content, after)) = rest.split_at_checked(bytes) else { break };
            rest = after;
            if skip(file) {
                continue;
            }
            if hashes.is_some_and(|hashes| hashes.get(at) != Some(blake3::hash(content).as_bytes())) {
                result.mismatched.push(file);
                continue;
            }
            match self.stage_one(file, content, &mut parent) {
                Ok(staged) => result.staged.push(staged),
                Err(error) => result.failed.push(unwritable(self.manifest, file, error)),
            }
        }
        result
    }

    fn stage_one<'m>(
        &'m self,
        file: u32,
        content: &[u8],
        parent: &mut Option<(&'m [u8], Arc<OwnedFd>)>,
    ) -> Result<StagedFile, Errno> {
        let entry = self.manifest.entry(file);
        let name: &'m [u8] = match &self.destination.single_name {
            Some(name) => name,
            None => self.manifest.entry(file).name,
        };
        let (directory, _) = split_name(name);
        // Files of a directory follow each other: most find it open.
        let parent = match parent {
            Some((open, parent)) if *open == directory => parent.clone(),
            _ => {
                let opened = Arc::new(self.destination.open_directory(directory)?);
                *parent = Some((directory, opened.clone()));
                opened
            }
        };
        let attributes = Attributes::of(&entry, self.preserve);
        let (written, places) = open_staged(&parent, name, attributes.mode)?;
        if self.is_continued && places.is_some() {
            // It was staged under its temporary name before. If there is none, so much the better.
            let _ = unlinkat(&*parent, partial_name(name), AtFlags::empty());
        }
        write_all(&written, content)?;
        set_attributes(&written, attributes.mode.map(|mode| Mode::from_raw_mode(mode.into())), attributes.modified)?;
        let nameless = places.map(|places| Nameless { file: written, parent, _places: places });
        Ok(StagedFile { file, nameless, action: self.actions[file as usize] })
    }

    /// Gives a staged and durable file its name; returns it and what it is now.
    ///
    /// # Errors
    /// What became of it instead.
    #[expect(clippy::needless_pass_by_value, reason = "the file is closed when it has its name")]
    pub fn link(&self, staged: StagedFile) -> Result<(u32, Stat), FileError> {
        let name = self.destination.name(self.manifest, staged.file);
        let (_, last) = split_name(&name);
        let last = Path::new(OsStr::from_bytes(last));
        let file = staged.file;
        self.link_into_place(&staged, &name, last).map(|stat| (file, stat)).map_err(|error| {
            self.remove_temporary(&name);
            unwritable(self.manifest, file, error)
        })
    }

    /// A file that does not get its name keeps no temporary one.
    fn remove_temporary(&self, name: &[u8]) {
        let (directory, _) = split_name(name);
        if let Ok(parent) = self.destination.open_directory(directory) {
            let _ = unlinkat(&parent, partial_name(name), AtFlags::empty());
        }
    }

    fn link_into_place(&self, staged: &StagedFile, name: &[u8], last: &Path) -> Result<Stat, Errno> {
        match &staged.nameless {
            Some(nameless) => {
                link_staged(nameless, name, last, staged.action)?;
                fstat(&nameless.file)
            }
            None => {
                let (directory, _) = split_name(name);
                let parent = self.destination.open_directory(directory)?;
                rename_into_place(&parent, &partial_name(name), last, staged.action)?;
                statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW)
            }
        }
    }
}

/// Opens a file to be staged: without a name if there are descriptors to keep it open, and if the file system has such files; else under
/// a temporary name. Without a mode to be preserved the kernel makes it as it makes this user's files.
fn open_staged(
    parent: &OwnedFd,
    name: &[u8],
    preserved: Option<u16>,
) -> Result<(OwnedFd, Option<DescriptorPlaces>), Errno> {
    let mode = Mode::from_raw_mode(if preserved.is_some() { 0o600 } else { 0o666 });
    if let Some(places) = DescriptorPlaces::take() {
        match openat(parent, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
            Ok(nameless) => return Ok((nameless, Some(places))),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok((openat(parent, partial_name(name), flags, mode)?, None))
}

fn link_staged(nameless: &Nameless, name: &[u8], last: &Path, action: Action) -> Result<(), Errno> {
    let (nameless, parent) = (&nameless.file, &*nameless.parent);
    if action != Action::Replace {
        return link_nameless(nameless, parent, last);
    }
    // A link cannot replace; a rename can.
    let partial = partial_name(name);
    match link_nameless(nameless, parent, &partial) {
        Err(Errno::EXIST) => {
            unlinkat(parent, &partial, AtFlags::empty())?;
            link_nameless(nameless, parent, &partial)?;
        }
        linked => linked?,
    }
    rename_into_place(parent, &partial, last, Action::Replace)
}

fn link_nameless(file: &OwnedFd, parent: &OwnedFd, name: &Path) -> Result<(), Errno> {
    // From Linux 6.10 on the owner of a file may link it by its descriptor; before, it takes a capability or the way through /proc.
    match linkat(file, "", parent, name, AtFlags::EMPTY_PATH) {
        Err(Errno::NOENT) => {
            let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
            linkat(CWD, &path, parent, name, AtFlags::SYMLINK_FOLLOW)
        }
        linked => linked,
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> Result<(), Errno> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// What is said of a file that could not be stored.
#[must_use]
pub fn unwritable(manifest: &Manifest, file: u32, error: Errno) -> FileError {
    let name = printable(manifest.entry(file).name);
    let (code, text) = match error {
        Errno::EXIST => ("collision", format!("'{name}' was made by somebody else meanwhile and was not overwritten")),
        Errno::NOSPC | Errno::DQUOT => ("no_space", format!("'{name}' could not be stored: {error}")),
        Errno::LOOP => ("symlink", format!("'{name}' could not be stored: a symlink has appeared on the way")),
        error => ("unwritable", format!("'{name}' could not be stored: {error}")),
    };
    FileError { file, code: code.to_owned(), text }
}

/// Makes an empty file with its name at once; there is nothing that could be half there.
///
/// # Errors
/// What became of it instead.
pub fn store_empty(unpacking: &Unpacking<'_>, file: u32) -> Result<(u32, Stat), FileError> {
    let staged = unpacking.stage(&[file], &[], None, |_| false);
    match (staged.staged.into_iter().next(), staged.failed.into_iter().next()) {
        (Some(staged), _) => unpacking.link(staged),
        (None, Some(failed)) => Err(failed),
        (None, None) => Err(unwritable(unpacking.manifest, file, Errno::IO)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Reach;
    use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    fn manifest() -> Manifest {
        let mut manifest = Manifest::default();
        let file = |name: &'static [u8], bytes| Entry {
            name,
            kind: EntryKind::File { bytes, is_sparse: false },
            target: b"",
            mode: 0o600,
            modified: FileTime { seconds: 77, nanoseconds: 0 },
        };
        manifest.push(&Entry { kind: EntryKind::Directory, ..file(b"d", 0) }).unwrap();
        for entry in [file(b"a", 3), file(b"d/b", 2), file(b"d/\xff", 4), file(b"empty", 0)] {
            manifest.push(&entry).unwrap();
        }
        manifest
    }

    fn destination() -> (tempfile::TempDir, Destination) {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let destination = reach.open_destination(b"", false, true).unwrap();
        (directory, destination)
    }

    #[test]
    fn a_pack_becomes_files_that_appear_whole() {
        let (directory, destination) = destination();
        let manifest = manifest();
        let actions = [Action::Create; 5];
        let unpacking = Unpacking {
            destination: &destination,
            manifest: &manifest,
            actions: &actions,
            preserve: true,
            is_continued: false,
        };
        let hashes = [b"aaa".as_slice(), b"bb", b"xxxx"].map(|content| *blake3::hash(content).as_bytes());
        let pack = unpacking.stage(&[1, 2, 3], b"aaabbcccc", Some(&hashes), |_| false);
        assert_eq!(pack.mismatched, [3]);
        assert!(!directory.path().join("a").exists(), "nothing has its name before it is durable");
        let stored: Vec<u32> = pack.staged.into_iter().map(|staged| unpacking.link(staged).unwrap().0).collect();
        assert_eq!(stored, [1, 2]);
        assert_eq!(fs::read(directory.path().join("d/b")).unwrap(), b"bb");
        let metadata = fs::metadata(directory.path().join("a")).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o600, 77));
        assert_eq!(store_empty(&unpacking, 4).unwrap().0, 4);
        assert_eq!(fs::metadata(directory.path().join("empty")).unwrap().len(), 0);
    }

    #[test]
    fn existing_files_are_replaced_only_if_they_may() {
        let (directory, destination) = destination();
        let manifest = manifest();
        fs::write(directory.path().join("a"), "mine").unwrap();
        for (action, expected) in [(Action::Create, "mine"), (Action::Replace, "aaa")] {
            let actions = [action; 5];
            let unpacking = Unpacking {
                destination: &destination,
                manifest: &manifest,
                actions: &actions,
                preserve: false,
                is_continued: true,
            };
            let mut pack = unpacking.stage(&[1], b"aaa", None, |_| false);
            let linked = unpacking.link(pack.staged.pop().unwrap());
            assert_eq!(linked.is_ok(), action == Action::Replace);
            assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), expected);
        }
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no temporary file remains: {names:?}");
    }
}
