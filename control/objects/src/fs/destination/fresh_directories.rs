//! New directories that receive only small files: filled under a temporary name, and put in place
//! with one rename.
//!
//! Giving each small file its name costs as much as writing it. If a whole directory of small files
//! is new, they are created under their own names in a directory with a temporary name. Once all
//! are durable, that directory replaces the empty one that was made with the plan. The kernel
//! refuses to rename over a directory that is not empty: whatever others have put there stays, and
//! the files are renamed one by one.
//!
//! The temporary names belong to the attempt ([`super::temporary`]), which is journaled before the
//! first is created, so the next attempt finds and removes what a crash has left. A directory
//! created by somebody else after the plan is never replaced, because it may be in use.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use culvert_protocol::chunk_map::{ChunkMap, PACK_FILES_MAX};
use culvert_protocol::manifest::{EntryKind, Manifest};
use rustix::fs::{AtFlags, Dir, Mode, OFlags, fchmod, mkdirat, openat, renameat, statat, unlinkat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::identity::{Identity, identity};
use crate::fs::destination::modes::permitted_in;
use crate::fs::destination::names::split_name;
use crate::fs::destination::temporary::temporary_name;
use crate::fs::sources::hash_of;

/// A directory with fewer files is not worth the extra system calls.
const FILES_MIN: u32 = 16;
/// A directory with more files or bytes would hide too many of them for too long, and lose too many
/// in a crash.
const FILES_MAX: u32 = 4 * PACK_FILES_MAX as u32;
/// As [`FILES_MAX`], in chunks.
const CHUNKS_MAX: u64 = 4;
/// Directories filled at the same time. A sender that follows the manifest's order needs one or two
/// for each pack in progress; beyond this number, files are stored one by one.
const FILLED_AT_ONCE_MAX: usize = 64;

/// The directories of a transfer that can be filled under a temporary name.
#[derive(Debug, Default)]
pub struct FreshDirectories {
    /// By the hash of the directory's name.
    files: HashMap<u128, ToFill>,
    begun: Mutex<PendingDirectories>,
}

/// A directory that can be filled under a temporary name.
#[derive(Clone, Copy, Debug)]
struct ToFill {
    /// The number of its files.
    files: u32,
    /// The empty directory that has its name.
    made: Identity,
}

/// Directories that have been entered.
#[derive(Debug, Default)]
struct PendingDirectories {
    filled: HashMap<u128, Arc<FreshDirectory>>,
    /// Directories that are in place, and those whose files are stored one by one.
    over: HashSet<u128>,
}

impl FreshDirectories {
    /// Finds the directories of `manifest` that this transfer has made (`made` gives their
    /// identities) and in which every entry is a file that arrives in a pack.
    #[must_use]
    pub fn find(
        manifest: &Manifest,
        actions: &[Action],
        chunk_bytes: u32,
        made: impl Fn(u32) -> Option<Identity>,
    ) -> Self {
        #[derive(Clone, Copy, Default)]
        struct Found {
            hash: u128,
            made: Identity,
            files: u32,
            bytes: u64,
            has_others: bool,
        }
        let mut found: Vec<Found> = Vec::new();
        let mut places: HashMap<&[u8], usize> = HashMap::new();
        let (mut listed, mut place): (&[u8], Option<usize>) = (b"", None);
        for (file, entry) in manifest.entries() {
            let (parent, _) = split_name(entry.name);
            // Files of a directory follow each other, unless several sources share it. Then the
            // first files would wait for the last, which may arrive at the end of the transfer.
            if parent != listed {
                (listed, place) = (parent, places.get(parent).copied());
                if let Some(again) = place.map(|place| &mut found[place]) {
                    again.has_others |= again.files > 0;
                }
            }
            let is_created = actions[file as usize] == Action::Create;
            if let Some(place) = place {
                let directory = &mut found[place];
                match entry.kind {
                    EntryKind::File { bytes, .. }
                        if is_created && bytes > 0 && bytes <= ChunkMap::pack_file_bytes_max(chunk_bytes) =>
                    {
                        directory.files += 1;
                        directory.bytes += bytes;
                    }
                    _ => directory.has_others = true,
                }
            }
            if entry.kind == EntryKind::Directory
                && is_created
                && let Some(made) = made(file)
            {
                places.insert(entry.name, found.len());
                found.push(Found { hash: hash_of(entry.name), made, ..Found::default() });
            }
        }
        let is_worth = |directory: &&Found| {
            !directory.has_others
                && (FILES_MIN..=FILES_MAX).contains(&directory.files)
                && directory.bytes <= CHUNKS_MAX * u64::from(chunk_bytes)
        };
        let to_fill = |found: &Found| (found.hash, ToFill { files: found.files, made: found.made });
        let files = found.iter().filter(is_worth).map(to_fill).collect();
        Self { files, begun: Mutex::default() }
    }

    /// The directory in which to create the files of `name`; `None` if they are stored one by one.
    #[must_use]
    pub fn enter(&self, destination: &Destination, name: &[u8]) -> Option<Arc<FreshDirectory>> {
        if self.files.is_empty() {
            return None;
        }
        let hash = hash_of(name);
        let &to_fill = self.files.get(&hash)?;
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(directory) = begun.filled.get(&hash) {
            return Some(directory.clone());
        }
        if begun.over.contains(&hash) {
            return None;
        }
        let has_room = begun.filled.len() < FILLED_AT_ONCE_MAX;
        let made = has_room.then(|| FreshDirectory::make(destination, name, hash, to_fill).ok()).flatten();
        match made.map(Arc::new) {
            Some(directory) => {
                begun.filled.insert(hash, directory.clone());
                Some(directory)
            }
            // The obstacle may affect only the directory: storing one by one may still succeed.
            None => {
                begun.over.insert(hash);
                None
            }
        }
    }

    /// Notes that a directory is in place, or that its files were given up.
    pub fn leave(&self, directory: &FreshDirectory) {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.filled.remove(&directory.hash);
        begun.over.insert(directory.hash);
    }
}

/// A directory that is being filled under a temporary name. If it is dropped before it has its
/// final name, it is removed with its contents.
#[derive(Debug)]
pub struct FreshDirectory {
    hash: u128,
    parent: OwnedFd,
    /// Its final name in the parent.
    last: PathBuf,
    /// The empty directory that has that name.
    made: Identity,
    /// Its temporary name.
    staging: PathBuf,
    opened: OwnedFd,
    /// The permissions that new files in it may have.
    pub permitted: Mode,
    /// The number of its files.
    pub files: u32,
    is_in_place: AtomicBool,
}

impl FreshDirectory {
    fn make(destination: &Destination, name: &[u8], hash: u128, to_fill: ToFill) -> Result<Self, Errno> {
        let (parent, last) = destination.parent_of(name)?;
        let staging = temporary_name(destination.attempt.next_token());
        // Nobody else uses it before it gets its name, and with it the final mode.
        mkdirat(&parent, &staging, Mode::RWXU)?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&parent, &staging, flags, Mode::empty()).inspect_err(|_| {
            let _ = unlinkat(&parent, &staging, AtFlags::REMOVEDIR);
        })?;
        let (last, ToFill { files, made }) = (last.to_owned(), to_fill);
        let permitted = permitted_in(&opened);
        Ok(Self { hash, parent, last, made, staging, opened, permitted, files, is_in_place: AtomicBool::new(false) })
    }

    /// The open directory.
    #[must_use]
    pub fn opened(&self) -> BorrowedFd<'_> {
        self.opened.as_fd()
    }

    /// Gives the directory the mode and the place of the empty one that has its name.
    ///
    /// # Errors
    /// Those of the operating system; `NOTEMPTY` if that directory is not empty, `EXIST` if
    /// somebody else has made another in its place. The files remain, to be renamed one by one.
    pub fn put_in_place(&self) -> Result<(), Errno> {
        let there = statat(&self.parent, &self.last, AtFlags::SYMLINK_NOFOLLOW)?;
        if identity(&there) != self.made {
            return Err(Errno::EXIST);
        }
        fchmod(&self.opened, Mode::from_raw_mode(there.st_mode & 0o7777))?;
        renameat(&self.parent, &self.staging, &self.parent, &self.last)?;
        self.is_in_place.store(true, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for FreshDirectory {
    fn drop(&mut self) {
        if !self.is_in_place.load(Ordering::Relaxed) {
            // If that fails, the next attempt removes it.
            let _ = remove(self.parent.as_fd(), &self.staging);
        }
    }
}

/// Removes a directory that was being filled, and the files in it.
///
/// # Errors
/// Those of the operating system.
pub fn remove(parent: BorrowedFd<'_>, staging: &Path) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = openat(parent, staging, flags, Mode::empty())?;
    for entry in Dir::read_from(&opened)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            unlinkat(&opened, Path::new(OsStr::from_bytes(name)), AtFlags::empty())?;
        }
    }
    unlinkat(parent, staging, AtFlags::REMOVEDIR)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use culvert_protocol::manifest::Entry;

    use super::*;
    use crate::fs::destination::MissingDestination;
    use crate::fs::reach::Reach;

    const CHUNK_BYTES: u32 = 1 << 20;

    /// Directories: name, number of files, bytes of each.
    fn manifest(directories: &[(&str, u32, u64)]) -> Manifest {
        let mut manifest = Manifest::default();
        let mut push = |name: &str, kind| {
            let entry = Entry { name: name.as_bytes(), kind, target: b"", mode: 0o644, modified: Default::default() };
            manifest.push(&entry).unwrap();
        };
        for &(name, files, bytes) in directories {
            push(name, EntryKind::Directory);
            for file in 0..files {
                push(&format!("{name}/{file}"), EntryKind::File { bytes, is_sparse: false });
            }
        }
        manifest
    }

    fn found(manifest: &Manifest, actions: &[Action]) -> Vec<&'static str> {
        let fresh = FreshDirectories::find(manifest, actions, CHUNK_BYTES, |_| Some((0, 0)));
        let names = ["a", "a/b", "c", "d"].into_iter();
        names.filter(|name| fresh.files.contains_key(&hash_of(name.as_bytes()))).collect()
    }

    #[test]
    fn only_new_directories_with_nothing_but_enough_small_files_are_filled_beside_their_place() {
        let of = |directories: &[(&str, u32, u64)]| {
            let manifest = manifest(directories);
            found(&manifest, &vec![Action::Create; manifest.len()])
        };
        assert_eq!(of(&[("a", 16, 1), ("c", 15, 1), ("d", 16, 0)]), ["a"], "too few files, and files without bytes");
        assert_eq!(of(&[("a", 20, 1), ("a/b", 20, 1)]), ["a/b"], "a has a directory in it");
        assert_eq!(of(&[("a", 20, 262_144), ("c", 20, 262_145)]), [] as [&str; 0], "too many bytes, and a large file");
        assert_eq!(of(&[("a", 16, 262_144), ("c", FILES_MAX, 1), ("d", FILES_MAX + 1, 1)]), ["a", "c"]);
        let mut merged = manifest(&[("a", 16, 1), ("c", 16, 1)]);
        let kind = EntryKind::File { bytes: 1, is_sparse: false };
        merged.push(&Entry { name: b"a/more", kind, target: b"", mode: 0o644, modified: Default::default() }).unwrap();
        assert_eq!(found(&merged, &vec![Action::Create; merged.len()]), ["c"], "a is listed in two parts");
        let manifest = manifest(&[("a", 16, 1), ("c", 16, 1)]);
        let mut actions = vec![Action::Create; manifest.len()];
        actions[0] = Action::Skip;
        assert_eq!(found(&manifest, &actions), ["c"], "a has been there");
        actions[20] = Action::Replace;
        assert_eq!(found(&manifest, &actions), [] as [&str; 0], "something is in c");
    }

    fn destination() -> (tempfile::TempDir, Destination, FreshDirectories) {
        let directory = tempfile::tempdir().unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let destination = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
        fs::create_dir(directory.path().join("d")).unwrap();
        let manifest = manifest(&[("d", 16, 1)]);
        let made = identity(&rustix::fs::stat(directory.path().join("d")).unwrap());
        let fresh = FreshDirectories::find(&manifest, &[Action::Create; 17], CHUNK_BYTES, |_| Some(made));
        (directory, destination, fresh)
    }

    fn put(directory: &FreshDirectory, name: &str) {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        openat(directory.opened(), name, flags, Mode::from_raw_mode(0o644)).unwrap();
    }

    fn names(directory: &Path) -> Vec<String> {
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_filled_directory_takes_the_place_and_the_mode_of_the_empty_one() {
        let (room, destination, fresh) = destination();
        let place = room.path().join("d");
        fs::set_permissions(&place, std::os::unix::fs::PermissionsExt::from_mode(0o2751)).unwrap();
        let directory = fresh.enter(&destination, b"d").unwrap();
        assert!(Arc::ptr_eq(&directory, &fresh.enter(&destination, b"d").unwrap()));
        put(&directory, "file");
        assert!(names(&place).is_empty(), "nothing is there before all is");
        directory.put_in_place().unwrap();
        fresh.leave(&directory);
        drop(directory);
        assert_eq!((names(&place), names(room.path())), (vec!["file".to_owned()], vec!["d".to_owned()]));
        assert_eq!(fs::metadata(&place).unwrap().mode() & 0o7777, 0o2751);
        assert!(fresh.enter(&destination, b"d").is_none(), "it is in its place");
    }

    #[test]
    fn what_somebody_put_there_meanwhile_stays() {
        let (room, destination, fresh) = destination();
        let directory = fresh.enter(&destination, b"d").unwrap();
        put(&directory, "ours");
        fs::write(room.path().join("d/theirs"), "").unwrap();
        assert_eq!(directory.put_in_place(), Err(Errno::NOTEMPTY));
        assert_eq!(names(&room.path().join("d")), ["theirs"]);
    }

    #[test]
    fn an_empty_directory_of_somebody_else_stays() {
        let (room, destination, fresh) = destination();
        let place = room.path().join("d");
        let directory = fresh.enter(&destination, b"d").unwrap();
        put(&directory, "ours");
        // Another one, that is: not of the inode that has just become free.
        fs::create_dir(room.path().join("theirs")).unwrap();
        fs::remove_dir(&place).unwrap();
        fs::rename(room.path().join("theirs"), &place).unwrap();
        let theirs = fs::metadata(&place).unwrap().ino();
        assert_eq!(directory.put_in_place(), Err(Errno::EXIST));
        assert_eq!((fs::metadata(&place).unwrap().ino(), names(&place).len()), (theirs, 0));
    }

    #[test]
    fn a_directory_that_does_not_come_to_its_place_leaves_nothing() {
        let (room, destination, fresh) = destination();
        let directory = fresh.enter(&destination, b"d").unwrap();
        put(&directory, "file");
        assert_eq!(names(room.path()).len(), 2);
        drop((directory, fresh));
        assert_eq!(names(room.path()), ["d"]);
    }

    #[test]
    fn what_a_crash_left_is_found_by_the_attempt_and_removed() {
        let (room, destination, fresh) = destination();
        put(&fresh.enter(&destination, b"d").unwrap(), "file");
        std::mem::forget(fresh);
        let left: Vec<String> = names(room.path()).into_iter().filter(|name| name != "d").collect();
        assert!(left.len() == 1 && destination.attempt.has(Path::new(&left[0])));
        remove(destination.base(), Path::new(&left[0])).unwrap();
        assert_eq!(names(room.path()), ["d"]);
    }

    #[test]
    fn a_directory_that_somebody_else_made_is_not_replaced() {
        let manifest = manifest(&[("a", 16, 1), ("c", 16, 1)]);
        let fresh =
            FreshDirectories::find(&manifest, &[Action::Create; 34], CHUNK_BYTES, |file| (file != 0).then_some((0, 0)));
        assert_eq!(fresh.files.keys().copied().collect::<Vec<_>>(), [hash_of(b"c")]);
    }
}
