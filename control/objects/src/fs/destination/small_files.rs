//! Small files: unpacked from a chunk, written without a name, made durable together, and linked
//! into place.
//!
//! A file without a name (`O_TMPFILE`) leaves nothing behind when its process dies. On a file
//! system without such files, they get temporary names. One `syncfs` makes all files of a pack
//! durable before the first gets its name; an `fsync` for each would cost one journal commit of the
//! file system per file.
//!
//! A nameless file exists only as long as its descriptor, and descriptors are scarce: half of this
//! process's are for staged files (`DescriptorPlaces`). A pack waits for its share; one that needs
//! more than all of them is staged under temporary names, which need no descriptors.
//!
//! Files of a directory that is wholly new need neither: see
//! [`FreshDirectories`](crate::fs::destination::fresh_directories).

mod descriptor_places;
pub mod staged;

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use culvert_protocol::control::FileError;
use culvert_protocol::manifest::Manifest;
use culvert_protocol::tree_hash::ChunkHash;
use rustix::fs::{AtFlags, Mode, OFlags, Stat, fstat, openat, unlinkat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::attributes::{Attributes, Refused, is_more_open, set_attributes};
use crate::fs::destination::file_errors::unwritable;
use crate::fs::destination::fresh_directories::{FreshDirectories, FreshDirectory};
use crate::fs::destination::modes::{PRIVATE, mode_to_have, permitted_in};
use crate::fs::destination::names::split_name;
use crate::fs::destination::small_files::descriptor_places::DescriptorPlaces;
use crate::fs::destination::small_files::staged::{Place, StagedFile, StagedPack, StoredFile, UnnamedFile};
use crate::fs::destination::temporary::temporary_name;

/// The directory in which files are being staged.
#[derive(Debug)]
struct OpenDirectory<'a> {
    name: &'a [u8],
    place: OpenPlace,
}

#[derive(Clone, Debug)]
enum OpenPlace {
    /// The directory itself: its files are linked one by one.
    There {
        directory: Arc<OwnedFd>,
        /// The permissions that new files in it may have.
        permitted: Mode,
    },
    /// A directory that is put in place with all its files.
    Fresh(Arc<FreshDirectory>),
}

/// The context of unpacking.
#[derive(Clone, Copy, Debug)]
pub struct Unpacking<'a> {
    /// The destination.
    pub destination: &'a Destination,
    /// The transfer's files.
    pub manifest: &'a Manifest,
    /// The action for each.
    pub actions: &'a [Action],
    /// Whether modes and times are kept.
    pub preserve: bool,
    /// The directories that are filled under temporary names.
    pub fresh: &'a FreshDirectories,
}

impl Unpacking<'_> {
    /// Writes the files of a pack. The data plane may still write to the pack's buffer, so each
    /// file is copied first, and the copy is both hashed and stored. `hashes` are the sender's, if
    /// the transfer has hashes; `skip` says which files the sender gave up.
    #[must_use]
    pub fn stage(
        &self,
        files: &[u32],
        pack: &[u8],
        hashes: Option<&[ChunkHash]>,
        skip: impl Fn(u32) -> bool,
    ) -> StagedPack {
        self.stage_when(false, files, pack, hashes, skip)
    }

    /// As [`Unpacking::stage`]; waits for descriptors only if it has not `has_waited` already.
    fn stage_when(
        &self,
        mut has_waited: bool,
        files: &[u32],
        pack: &[u8],
        hashes: Option<&[ChunkHash]>,
        skip: impl Fn(u32) -> bool,
    ) -> StagedPack {
        let mut result = StagedPack::default();
        let mut open: Option<OpenDirectory<'_>> = None;
        let mut rest = pack;
        let mut copy = Vec::new();
        for (at, &file) in files.iter().enumerate() {
            let bytes = self.manifest.file_bytes(file).unwrap_or(0) as usize;
            let Some((content, after)) = rest.split_at_checked(bytes) else { break };
            rest = after;
            copy.clear();
            copy.extend_from_slice(content);
            let content = copy.as_slice();
            let place = self.enter(file, files.len() - at, &mut has_waited, &mut open);
            if let Ok(OpenPlace::Fresh(directory)) = &place {
                note_settled(&mut result.settled, directory);
            }
            if skip(file) {
                continue;
            }
            if hashes.is_some_and(|hashes| hashes.get(at) != Some(blake3::hash(content).as_bytes())) {
                result.mismatched.push(file);
                continue;
            }
            match place.and_then(|place| self.stage_one(file, content, place)) {
                Ok(staged) => result.staged.push(staged),
                Err(error) => result.failed.push(unwritable(&self.destination.name(self.manifest, file), file, error)),
            }
        }
        if !result.mismatched.is_empty() {
            // The whole pack is sent again, or fails: nothing of it may remain.
            for staged in result.staged.drain(..) {
                staged.unstage(self.destination, self.name(staged.file));
            }
        }
        result
    }

    /// Opens the directory of a file, unless the previous file was in the same one. `left` is the
    /// number of files from this one on.
    fn enter<'m>(
        &'m self,
        file: u32,
        left: usize,
        has_waited: &mut bool,
        open: &mut Option<OpenDirectory<'m>>,
    ) -> Result<OpenPlace, Errno> {
        let (directory, _) = split_name(self.name(file));
        if let Some(open) = open.as_ref().filter(|open| open.name == directory) {
            return Ok(open.place.clone());
        }
        let place = match self.fresh.enter(self.destination, directory) {
            Some(fresh) => OpenPlace::Fresh(fresh),
            None => {
                // Once per pack: a task that holds some descriptors and waits for more could wait
                // for itself.
                if !std::mem::replace(has_waited, true) {
                    DescriptorPlaces::wait_for(left);
                }
                let directory = Arc::new(self.destination.open_directory(directory)?);
                let permitted = if self.preserve { Mode::empty() } else { permitted_in(&directory) };
                OpenPlace::There { directory, permitted }
            }
        };
        *open = Some(OpenDirectory { name: directory, place: place.clone() });
        Ok(place)
    }

    fn name(&self, file: u32) -> &[u8] {
        match &self.destination.single_name {
            Some(name) => name,
            None => self.manifest.entry(file).name,
        }
    }

    fn stage_one(&self, file: u32, content: &[u8], place: OpenPlace) -> Result<StagedFile, Errno> {
        let action = self.actions[file as usize];
        let attributes = Attributes::of(&self.manifest.entry(file), self.preserve);
        let (place, refused) = match place {
            OpenPlace::Fresh(directory) => {
                let (stat, refused) = self.stage_in(&directory, file, content, &attributes)?;
                (Place::Fresh(directory, stat), refused)
            }
            OpenPlace::There { directory, permitted } => {
                let stage = |parent: &Arc<OwnedFd>, last: &Path| {
                    let beside = UnpackTarget { parent, last, permitted, action };
                    self.stage_beside(&beside, content, &attributes)
                };
                self.destination.in_directory_of(self.name(file), directory, stage)?
            }
        };
        Ok(StagedFile { file, place, action, refused })
    }

    /// Creates a file under its own name in a directory that is being filled.
    fn stage_in(
        &self,
        directory: &FreshDirectory,
        file: u32,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(Stat, Refused), Errno> {
        let (_, last) = split_name(self.name(file));
        let last = Path::new(OsStr::from_bytes(last));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        // Nobody else uses this directory before it has its name, so files can have their modes.
        let (begun, mode) = match attributes.preserved_mode() {
            Some(mode) => (PRIVATE, Some(mode)),
            None => (Mode::from_raw_mode(attributes.mode.into()) & directory.permitted, None),
        };
        let written = openat(directory.opened(), last, flags, begun)?;
        let fill = || {
            write_all(&written, content)?;
            let mut refused = set_attributes(&written, mode, attributes)?;
            let mut stat = fstat(&written)?;
            if mode.is_none() && is_more_open(&stat, begun) {
                refused = set_attributes(&written, Some(begun), attributes)?;
                stat = fstat(&written)?;
            }
            Ok((stat, refused))
        };
        fill().inspect_err(|_| {
            let _ = unlinkat(directory.opened(), last, AtFlags::empty());
        })
    }

    /// Creates a file that is linked into place by itself.
    fn stage_beside(
        &self,
        beside: &UnpackTarget<'_>,
        content: &[u8],
        attributes: &Attributes,
    ) -> Result<(Place, Refused), Errno> {
        let &UnpackTarget { parent, last, permitted, action } = beside;
        let new = (!attributes.is_mode_preserved && action != Action::Replace)
            .then(|| Mode::from_raw_mode(attributes.mode.into()) & permitted);
        let (written, place) = self.open_staged(parent, new.unwrap_or(PRIVATE))?;
        let fill = || {
            write_all(&written, content)?;
            let mode = match (attributes.preserved_mode(), &place) {
                (Some(mode), _) => Some(mode),
                // It was created with its final mode.
                (None, StagedPlace::UnnamedFile(_)) if new.is_some() => None,
                (None, _) => Some(mode_to_have(attributes.mode, &written, (&**parent, last), permitted, action)?),
            };
            set_attributes(&written, mode, attributes)
        };
        match (fill(), place) {
            (Ok(refused), StagedPlace::UnnamedFile(places)) => {
                let nameless = UnnamedFile { file: written, parent: parent.clone(), _places: places };
                Ok((Place::UnnamedFile(nameless), refused))
            }
            (Ok(refused), StagedPlace::Named(name)) => Ok((Place::Partial(name, parent.clone()), refused)),
            (Err(error), StagedPlace::UnnamedFile(_)) => Err(error),
            (Err(error), StagedPlace::Named(name)) => {
                let _ = unlinkat(&**parent, &name, AtFlags::empty());
                Err(error)
            }
        }
    }

    /// Creates a file to be staged: without a name if the file system supports that and there are
    /// descriptors to keep it open; otherwise private, under a temporary name.
    fn open_staged(&self, parent: &OwnedFd, mode: Mode) -> Result<(OwnedFd, StagedPlace), Errno> {
        if let Some(places) = DescriptorPlaces::take() {
            match openat(parent, ".", OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, mode) {
                Ok(nameless) => return Ok((nameless, StagedPlace::UnnamedFile(places))),
                Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let name = temporary_name(self.destination.attempt.next_token());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok((openat(parent, &name, flags, PRIVATE)?, StagedPlace::Named(name)))
    }

    /// Gives a staged and durable file its name.
    ///
    /// # Errors
    /// The error of this file; the staged file is removed.
    #[expect(clippy::needless_pass_by_value, reason = "the file is closed when it has its name")]
    pub fn link(&self, staged: StagedFile) -> Result<StoredFile, FileError> {
        let name = self.destination.name(self.manifest, staged.file);
        let (_, last) = split_name(&name);
        let last = Path::new(OsStr::from_bytes(last));
        let file = staged.file;
        staged.link_into_place(self.destination, &name, last).map(|stat| staged.stored(stat)).map_err(|error| {
            // Its temporary name must not remain.
            staged.unstage(self.destination, &name);
            unwritable(&name, file, error)
        })
    }
}

/// The place of a file that is linked by itself.
#[derive(Clone, Copy, Debug)]
struct UnpackTarget<'a> {
    parent: &'a Arc<OwnedFd>,
    last: &'a Path,
    /// The permissions that new files there may have.
    permitted: Mode,
    action: Action,
}

/// Where a staged file is meanwhile.
#[derive(Debug)]
enum StagedPlace {
    UnnamedFile(DescriptorPlaces),
    Named(PathBuf),
}

/// Creates an empty file under its name at once: it has no content that could be incomplete.
///
/// # Errors
/// The error of this file.
pub fn store_empty(unpacking: &Unpacking<'_>, file: u32) -> Result<StoredFile, FileError> {
    // The committer calls this. It also frees descriptors, so it would wait for itself.
    let staged = unpacking.stage_when(true, &[file], &[], None, |_| false);
    match (staged.staged.into_iter().next(), staged.failed.into_iter().next()) {
        (Some(staged), _) => unpacking.link(staged),
        (None, Some(failed)) => Err(failed),
        (None, None) => Err(unwritable(&unpacking.destination.name(unpacking.manifest, file), file, Errno::IO)),
    }
}

/// Counts one of the pack's files for its directory.
fn note_settled(settled: &mut Vec<(Arc<FreshDirectory>, u32)>, directory: &Arc<FreshDirectory>) {
    match settled.last_mut().filter(|(last, _)| Arc::ptr_eq(last, directory)) {
        Some((_, files)) => *files += 1,
        None => settled.push((directory.clone(), 1)),
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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use culvert_protocol::manifest::{Entry, EntryKind, FileTime};

    use super::*;
    use crate::fs::destination::MissingDestination;
    use crate::fs::reach::Reach;

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
        let destination = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
        (directory, destination)
    }

    fn unpacking<'a>(
        destination: &'a Destination,
        manifest: &'a Manifest,
        actions: &'a [Action],
        fresh: &'a FreshDirectories,
    ) -> Unpacking<'a> {
        Unpacking { destination, manifest, actions, preserve: true, fresh }
    }

    #[test]
    fn a_pack_becomes_files_that_appear_whole() {
        let (directory, destination) = destination();
        let manifest = manifest();
        let actions = [Action::Create; 5];
        let fresh = FreshDirectories::default();
        let unpacking = unpacking(&destination, &manifest, &actions, &fresh);
        let hashes = [b"aaa".as_slice(), b"bb", b"xxxx"].map(|content| *blake3::hash(content).as_bytes());
        let damaged = unpacking.stage(&[1, 2, 3], b"aaabbcccc", Some(&hashes), |_| false);
        assert_eq!((&*damaged.mismatched, damaged.staged.len()), ([3].as_slice(), 0), "a pack comes again as a whole");
        let pack = unpacking.stage(&[1, 2, 3], b"aaabbxxxx", Some(&hashes), |_| false);
        assert!(pack.mismatched.is_empty());
        assert!(!directory.path().join("a").exists(), "nothing has its name before it is durable");
        let stored: Vec<u32> = pack.staged.into_iter().map(|staged| unpacking.link(staged).unwrap().file).collect();
        assert_eq!(stored, [1, 2, 3]);
        assert_eq!(fs::read(directory.path().join("d/b")).unwrap(), b"bb");
        let metadata = fs::metadata(directory.path().join("a")).unwrap();
        assert_eq!((metadata.mode() & 0o777, metadata.mtime()), (0o600, 77));
        assert_eq!(store_empty(&unpacking, 4).unwrap().file, 4);
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
                fresh: &FreshDirectories::default(),
            };
            let mut pack = unpacking.stage(&[1], b"aaa", None, |_| false);
            let linked = unpacking.link(pack.staged.pop().unwrap());
            assert_eq!(linked.is_ok(), action == Action::Replace);
            assert_eq!(fs::read_to_string(directory.path().join("a")).unwrap(), expected);
        }
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names.len(), 2, "no temporary file remains: {names:?}");
    }

    /// A new directory `d` with sixteen files of one byte.
    fn new_directory() -> Manifest {
        let mut manifest = Manifest::default();
        let mut push = |name: &str, kind| {
            let (name, modified) = (name.as_bytes(), FileTime { seconds: 77, nanoseconds: 0 });
            manifest.push(&Entry { name, kind, target: b"", mode: 0o640, modified }).unwrap();
        };
        push("d", EntryKind::Directory);
        for file in 1..=16 {
            push(&format!("d/{file}"), EntryKind::File { bytes: 1, is_sparse: false });
        }
        manifest
    }

    #[test]
    fn files_of_a_new_directory_come_with_it_and_one_by_one_if_it_is_not_empty_any_more() {
        let (directory, destination) = destination();
        let (manifest, actions) = (new_directory(), [Action::Create; 17]);
        let made = crate::fs::destination::identity::identity(&rustix::fs::stat(directory.path().join("d")).unwrap());
        let fresh = FreshDirectories::find(&manifest, &actions, 4 << 20, |_| Some(made));
        let unpacking = unpacking(&destination, &manifest, &actions, &fresh);
        let files: Vec<u32> = (1..=16).collect();
        let hashes = vec![*blake3::hash(b"x").as_bytes(); 16];
        let damaged = unpacking.stage(&files, b"xxxxxxx?xxxxxxxx", Some(&hashes), |_| false);
        assert_eq!((&*damaged.mismatched, damaged.staged.len()), ([8].as_slice(), 0));
        drop(damaged);
        let pack = unpacking.stage(&files, &[b'x'; 16], Some(&hashes), |file| file == 3);
        assert_eq!(pack.staged.len(), 15);
        let [(filled, 16)] = pack.settled.as_slice() else { panic!("one directory settles: {:?}", pack.settled) };
        let names = |directory: &Path| fs::read_dir(directory).unwrap().count();
        let place = directory.path().join("d");
        assert_eq!(names(&place), 0);
        fs::write(place.join("5"), "theirs").unwrap();
        assert_eq!(filled.put_in_place(), Err(Errno::NOTEMPTY));
        for staged in pack.staged {
            let file = staged.file;
            match unpacking.link(staged) {
                Ok(StoredFile { stat, .. }) => {
                    assert_eq!((stat.st_size, stat.st_mtime, stat.st_mode & 0o777), (1, 77, 0o640));
                }
                Err(error) => assert_eq!((file, error.code.as_str()), (5, "collision")),
            }
        }
        assert_eq!(names(&place), 15, "the third was skipped, the fifth is somebody else's");
        assert_eq!(fs::read(place.join("5")).unwrap(), b"theirs");
        drop((pack.settled, fresh));
        assert_eq!(names(directory.path()), 1, "nothing temporary remains");
    }
}
