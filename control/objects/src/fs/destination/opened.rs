//! Directories of the destination whose modes forbid their owner to write: opened (made writable)
//! while the transfer stores in them, and closed (given their modes again) at its end.
//!
//! A transfer with `--preserve` leaves directories with the source's modes, which may be read-only.
//! The next transfer that stores something there gives the owner all permissions and restores the
//! mode at its end, as rsync does. A directory is journaled before it is opened, so an attempt that
//! continues after a crash restores the mode too.
//!
//! A directory is opened only once the kernel has reported that its mode is in the way
//! ([`super::Destination::opening`]). If another transfer ends and closes a directory in which this
//! one is still storing, this one opens it again. Only directories of this user are opened, beneath
//! the destination, through descriptors found without following a symlink. A mode is restored only
//! on the directory that had it, and only if nobody else has changed it meanwhile. The descriptors
//! are kept, so a directory is found even if it, or one above it, has been moved; without free
//! descriptors, it is found only by its name.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use culvert_system::descriptors::leaves_half;
use rustix::fs::{Mode, OFlags, Stat, fstat, syncfs};
use rustix::io::Errno;
use rustix::process::{getegid, geteuid, getgroups};

use crate::fs::destination::identity::{Identity, identity};
use crate::fs::destination::modes::set_mode;
use crate::fs::sources::open_beneath;

/// Attempts to open a directory. Each other transfer that ends may close it once.
const OPENED_TRIES: usize = 10;
/// Directories whose descriptors are kept; further ones are found by name.
const KEPT_MAX: usize = 64;
const OWNER_ALL: u32 = 0o700;
const SETGID: u32 = 0o2000;

/// A directory and the mode that it had before it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// The directory.
    pub identity: Identity,
    /// Its permissions, and the setuid, setgid and sticky bits.
    pub mode: u32,
}

impl Closed {
    const fn opened_mode(self) -> u32 {
        self.mode | OWNER_ALL
    }

    /// Whether a directory is this one, open, and its mode has not been changed by others.
    fn is_still(self, stat: &Stat) -> bool {
        identity(stat) == self.identity && stat.st_mode & 0o7777 == self.opened_mode()
    }
}

/// The log of opened directories.
pub trait OpenedLog: Debug + Send + Sync {
    /// Records that a directory is about to be opened; durable when this returns.
    ///
    /// # Errors
    /// Those of the operating system; the directory is then not opened.
    fn opens(&self, name: &[u8], closed: Closed) -> Result<(), Errno>;

    /// Records that these directories are closed, durably.
    fn closed(&self, names: &[Vec<u8>]);
}

/// The directories that a transfer has opened.
#[derive(Debug)]
pub struct OpenedDirectories {
    /// The directory to which names are relative.
    base: OwnedFd,
    notes: Box<dyn OpenedLog>,
    opened: Mutex<Opened>,
}

#[derive(Debug)]
struct OpenedDirectory {
    was: Closed,
    kept: Option<OwnedFd>,
}

#[derive(Debug, Default)]
struct Opened {
    /// By name, which sorts a directory before those in it.
    directories: BTreeMap<Vec<u8>, OpenedDirectory>,
    /// Directories whose names now belong to others, which were opened too.
    moved: Vec<(Vec<u8>, OpenedDirectory)>,
    /// Whether no directory may be opened anymore.
    is_over: bool,
}

impl Opened {
    fn insert(&mut self, name: &[u8], was: Closed, directory: OwnedFd) {
        let kept = self.directories.values().filter(|opened| opened.kept.is_some()).count() + self.moved.len();
        let kept = (kept < KEPT_MAX && leaves_half(&directory)).then_some(directory);
        let before = self.directories.insert(name.to_vec(), OpenedDirectory { was, kept });
        // One without a descriptor cannot be found once its name is another's.
        self.moved.extend(before.filter(|before| before.kept.is_some()).map(|before| (name.to_vec(), before)));
    }
}

/// The opened directories of all transfers of this process.
static ALL: Mutex<Vec<Weak<OpenedDirectories>>> = Mutex::new(Vec::new());

/// Closes all directories that transfers of this process have opened, and lets none be opened
/// again: the process is about to end without waiting for its helper threads.
pub fn close_all() {
    let all = std::mem::take(&mut *ALL.lock().unwrap_or_else(PoisonError::into_inner));
    for directories in all.iter().filter_map(Weak::upgrade) {
        directories.lock().is_over = true;
        let _ = directories.close(|| syncfs(&directories.base));
    }
}

impl OpenedDirectories {
    pub(super) fn new(base: OwnedFd, notes: Box<dyn OpenedLog>) -> Arc<Self> {
        let directories = Arc::new(Self { base, notes, opened: Mutex::default() });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|directories| directories.strong_count() > 0);
        all.push(Arc::downgrade(&directories));
        directories
    }

    fn lock(&self) -> MutexGuard<'_, Opened> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a directory and those above it as far as this user may. Returns whether it is open
    /// now, whether by this call or not.
    fn open_up(&self, directory: &[u8]) -> bool {
        let mut opened = self.lock();
        if directory.is_empty() || opened.is_over {
            return false;
        }
        let slashes = directory.iter().enumerate().filter(|&(_, &byte)| byte == b'/').map(|(at, _)| at);
        let names = slashes.chain([directory.len()]).filter_map(|end| directory.get(..end));
        names.fold(true, |_, name| self.open_one(name, &mut opened).unwrap_or(false))
    }

    fn open_one(&self, name: &[u8], opened: &mut Opened) -> Result<bool, Errno> {
        let (directory, stat) = self.look_at(name)?;
        let mode = stat.st_mode & 0o7777;
        if mode & OWNER_ALL == OWNER_ALL {
            return Ok(true);
        }
        if !is_openable(&stat) {
            return Ok(false);
        }
        let closed = Closed { identity: identity(&stat), mode };
        // A directory that this transfer opened and somebody else closed has its first mode again,
        // and is in the log already.
        let is_known = opened.directories.get(name).is_some_and(|opened| opened.was == closed);
        if !is_known {
            self.notes.opens(name, closed)?;
        }
        set_mode(&directory, Mode::from_raw_mode(closed.opened_mode()))?;
        if !is_known {
            opened.insert(name, closed, directory);
        }
        Ok(true)
    }

    /// Finds a directory, which may be neither readable nor searchable.
    fn look_at(&self, name: &[u8]) -> Result<(OwnedFd, Stat), Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = open_beneath(self.base.as_fd(), Path::new(OsStr::from_bytes(name)), flags)?;
        let stat = fstat(&directory)?;
        Ok((directory, stat))
    }

    /// Runs `act`. If the mode of `directory`, or of one above it, forbids that, opens them and
    /// runs it again.
    pub(super) fn opening<T>(&self, directory: &[u8], mut act: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
        for _ in 0..OPENED_TRIES {
            match act() {
                Err(Errno::ACCESS) if self.open_up(directory) => {}
                done => return done,
            }
        }
        act()
    }

    /// Takes over a directory that an earlier attempt has opened and not closed.
    pub(super) fn adopt(&self, name: &[u8], inode: u64, mode: u32) {
        let Ok((directory, stat)) = self.look_at(name) else { return };
        let closed = Closed { identity: (stat.st_dev, inode), mode };
        if stat.st_uid == geteuid().as_raw() && closed.is_still(&stat) {
            self.lock().insert(name, closed, directory);
        }
    }

    /// Forgets a directory that has got its final mode, which must stay.
    pub(super) fn forget(&self, name: &[u8]) {
        if self.lock().directories.remove(name).is_some() {
            self.notes.closed(&[name.to_vec()]);
        }
    }

    /// Closes the directories, those within a directory before it; `sync` makes the modes durable.
    /// Returns those for which that failed, which stay in the journal for the next attempt.
    pub(super) fn close(&self, sync: impl FnOnce() -> Result<(), Errno>) -> Vec<(Vec<u8>, Errno)> {
        // Locked until the end: when another call finds nothing to close, everything must be
        // closed.
        let mut opened = self.lock();
        if opened.directories.is_empty() {
            return Vec::new();
        }
        let (mut closed, mut failed) = (Vec::new(), Vec::new());
        let moved = std::mem::take(&mut opened.moved);
        for (name, directory) in std::mem::take(&mut opened.directories).into_iter().rev().chain(moved) {
            match self.close_one(&name, directory) {
                Ok(()) => closed.push(name),
                Err(error) => failed.push((name, error)),
            }
        }
        if sync().is_ok() {
            self.notes.closed(&closed);
        }
        failed
    }

    fn close_one(&self, name: &[u8], OpenedDirectory { was, kept }: OpenedDirectory) -> Result<(), Errno> {
        let (directory, stat) = match kept {
            Some(directory) => {
                let stat = fstat(&directory)?;
                (directory, stat)
            }
            // If the name leads to nothing or to another directory, this one cannot be found.
            None => self
                .look_at(name)
                .and_then(|found| if identity(&found.1) == was.identity { Ok(found) } else { Err(Errno::NOENT) })?,
        };
        if was.is_still(&stat) { set_mode(&directory, Mode::from_raw_mode(was.mode)) } else { Ok(()) }
    }
}

/// Whether this process may open a directory and restore its mode.
pub fn is_openable(stat: &Stat) -> bool {
    stat.st_uid == geteuid().as_raw() && !would_lose_setgid(stat)
}

/// Whether the kernel would clear the setgid bit with any change of the mode (chmod(2)).
fn would_lose_setgid(stat: &Stat) -> bool {
    let is_ours = || {
        stat.st_gid == getegid().as_raw()
            || getgroups().is_ok_and(|groups| groups.iter().any(|group| group.as_raw() == stat.st_gid))
    };
    stat.st_mode & SETGID != 0 && !is_ours()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    use super::*;
    use crate::fs::destination::{Destination, MissingDestination};
    use crate::fs::reach::Reach;

    /// What would be in the journal.
    #[derive(Clone, Debug, Default)]
    struct Noted(Arc<Mutex<Vec<String>>>);

    impl OpenedLog for Noted {
        fn opens(&self, name: &[u8], closed: Closed) -> Result<(), Errno> {
            self.0.lock().unwrap().push(format!("{} {:o}", String::from_utf8_lossy(name), closed.mode));
            Ok(())
        }

        fn closed(&self, names: &[Vec<u8>]) {
            self.0.lock().unwrap().extend(names.iter().map(|name| format!("{} closed", String::from_utf8_lossy(name))));
        }
    }

    struct Fixture {
        room: tempfile::TempDir,
        noted: Noted,
    }

    impl Fixture {
        fn new() -> (Self, Destination) {
            let fixture = Self { room: tempfile::tempdir().unwrap(), noted: Noted::default() };
            fs::create_dir_all(fixture.room.path().join("d/in")).unwrap();
            fixture.set("d/in", 0o2500);
            fixture.set("d", 0o555);
            let reach = Reach::Owner { directory: fixture.room.path().to_owned() };
            let mut destination = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
            destination.may_open(Box::new(fixture.noted.clone())).unwrap();
            (fixture, destination)
        }

        fn set(&self, name: &str, mode: u32) {
            fs::set_permissions(self.room.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
        }

        fn mode(&self, name: &str) -> u32 {
            fs::metadata(self.room.path().join(name)).unwrap().mode() & 0o7777
        }

        fn modes(&self) -> [u32; 2] {
            ["d", "d/in"].map(|name| self.mode(name))
        }

        fn noted(&self) -> Vec<String> {
            std::mem::take(&mut self.noted.0.lock().unwrap())
        }
    }

    /// Does what is forbidden so many times (root is forbidden nothing).
    fn forbidden(destination: &Destination, name: &[u8], times: u32) -> Result<u32, Errno> {
        let mut tries = 0;
        destination.opening(name, || {
            tries += 1;
            if tries > times { Ok(tries) } else { Err(Errno::ACCESS) }
        })
    }

    #[test]
    fn what_is_on_the_way_is_opened_and_gets_its_mode_again() {
        let (fixture, destination) = Fixture::new();
        assert_eq!(forbidden(&destination, b"d/in", 0), Ok(1));
        assert_eq!(fixture.modes(), [0o555, 0o2500], "nothing was in the way");
        assert_eq!(forbidden(&destination, b"d/in", 1), Ok(2));
        assert_eq!((fixture.modes(), fixture.noted()), ([0o755, 0o2700], vec!["d 555".into(), "d/in 2500".into()]));
        assert_eq!(forbidden(&destination, b"d/in", 1), Ok(2));
        assert!(fixture.noted().is_empty(), "they are open");
        assert!(destination.close_opened().is_empty());
        assert_eq!(
            (fixture.modes(), fixture.noted()),
            ([0o555, 0o2500], vec!["d/in closed".into(), "d closed".into()])
        );
        // If closing is never reached, it closes them when it is dropped.
        forbidden(&destination, b"d", 1).unwrap();
        assert_eq!(fixture.modes(), [0o755, 0o2500]);
        drop(destination);
        assert_eq!(fixture.modes(), [0o555, 0o2500]);
    }

    #[test]
    fn a_directory_that_another_transfer_closes_is_opened_again() {
        let (fixture, destination) = Fixture::new();
        let mut tries = 0;
        let done = destination.opening(b"d", || {
            tries += 1;
            if tries < 5 {
                fixture.set("d", 0o555);
                return Err(Errno::ACCESS);
            }
            Ok(fixture.modes()[0])
        });
        assert_eq!((done, fixture.noted()), (Ok(0o755), vec!["d 555".to_owned()]));
        drop(destination);
        assert_eq!(fixture.modes()[0], 0o555);
    }

    #[test]
    fn a_process_that_ends_leaves_nothing_open() {
        let (fixture, destination) = Fixture::new();
        forbidden(&destination, b"d/in", 1).unwrap();
        // As close_all, which would end the other tests of this process too.
        let opened = destination.opened.clone().unwrap();
        opened.lock().is_over = true;
        assert!(opened.close(|| Ok(())).is_empty());
        assert_eq!(fixture.modes(), [0o555, 0o2500]);
        assert_eq!(forbidden(&destination, b"d", 1), Err(Errno::ACCESS), "a helper that goes on");
        assert_eq!(fixture.modes(), [0o555, 0o2500]);
    }

    #[test]
    fn nothing_is_opened_that_may_not_be() {
        let (fixture, destination) = Fixture::new();
        assert_eq!(forbidden(&destination, b"", 100), Err(Errno::ACCESS), "the destination itself");
        symlink("d", fixture.room.path().join("link")).unwrap();
        assert_eq!(forbidden(&destination, b"link", 100), Err(Errno::ACCESS));
        assert_eq!(forbidden(&destination, b"link/in", 100), Err(Errno::ACCESS));
        if geteuid().is_root() {
            std::os::unix::fs::chown(fixture.room.path().join("d"), Some(65_534), None).unwrap();
            assert_eq!(forbidden(&destination, b"d", 100), Err(Errno::ACCESS));
        }
        let reach = Reach::Owner { directory: fixture.room.path().to_owned() };
        let without_preserve = reach.open_destination(b"", false, MissingDestination::WithMode(None)).unwrap();
        assert_eq!(forbidden(&without_preserve, b"d", 100), Err(Errno::ACCESS));
        assert_eq!(fixture.modes(), [0o555, 0o2500]);
        assert!(fixture.noted().is_empty());
    }

    #[test]
    fn a_mode_is_given_back_only_to_the_directory_that_had_it() {
        let (fixture, destination) = Fixture::new();
        forbidden(&destination, b"d/in", 1).unwrap();
        // Somebody gives one another mode, and puts another directory into the place of the other.
        fixture.set("d", 0o711);
        fs::create_dir(fixture.room.path().join("theirs")).unwrap();
        fixture.set("theirs", 0o2700);
        fs::rename(fixture.room.path().join("d/in"), fixture.room.path().join("moved")).unwrap();
        fs::rename(fixture.room.path().join("theirs"), fixture.room.path().join("d/in")).unwrap();
        assert!(destination.close_opened().is_empty());
        assert_eq!(fixture.modes(), [0o711, 0o2700]);
        assert_eq!(fixture.mode("moved"), 0o2500);
    }

    #[test]
    fn a_directory_that_is_moved_with_the_one_above_it_gets_its_mode_again() {
        let (fixture, destination) = Fixture::new();
        forbidden(&destination, b"d/in", 1).unwrap();
        fs::rename(fixture.room.path().join("d"), fixture.room.path().join("moved")).unwrap();
        assert!(destination.close_opened().is_empty());
        assert_eq!(["moved", "moved/in"].map(|name| fixture.mode(name)), [0o555, 0o2500]);
    }

    #[test]
    fn a_directory_whose_name_another_has_that_is_opened_too_gets_its_mode_again() {
        let (fixture, destination) = Fixture::new();
        forbidden(&destination, b"d", 1).unwrap();
        for (moved, mode) in [("moved", 0o500), ("moved again", 0o511)] {
            fs::rename(fixture.room.path().join("d"), fixture.room.path().join(moved)).unwrap();
            fs::create_dir(fixture.room.path().join("d")).unwrap();
            fixture.set("d", mode);
            forbidden(&destination, b"d", 1).unwrap();
        }
        assert!(destination.close_opened().is_empty());
        assert_eq!(["moved", "moved again", "d"].map(|name| fixture.mode(name)), [0o555, 0o500, 0o511]);
    }

    #[test]
    fn of_too_many_directories_those_that_were_moved_are_named() {
        let (fixture, destination) = Fixture::new();
        fixture.set("d", 0o755);
        let names: Vec<String> = (0..KEPT_MAX + 3).map(|number| format!("d/{number:03}")).collect();
        for name in &names {
            fs::create_dir(fixture.room.path().join(name)).unwrap();
            fixture.set(name, 0o500);
            forbidden(&destination, name.as_bytes(), 1).unwrap();
            fs::rename(fixture.room.path().join(name), fixture.room.path().join(format!("{name}-moved"))).unwrap();
        }
        // One is another directory's name now.
        fs::create_dir(fixture.room.path().join(names.last().unwrap())).unwrap();
        let failed: Vec<String> = destination
            .close_opened()
            .into_iter()
            .map(|(name, error)| format!("{} {error:?}", String::from_utf8_lossy(&name)))
            .collect();
        let beyond = &names[KEPT_MAX..];
        let expected: Vec<String> = beyond.iter().rev().map(|name| format!("{name} {:?}", Errno::NOENT)).collect();
        assert_eq!(failed, expected);
        let mode = |name: &String| fixture.mode(&format!("{name}-moved"));
        assert!(names.iter().take(KEPT_MAX).all(|name| mode(name) == 0o500));
        assert!(beyond.iter().all(|name| mode(name) == 0o700));
    }

    #[test]
    fn what_an_earlier_attempt_has_left_open_is_closed_if_it_is_still_that() {
        let (fixture, destination) = Fixture::new();
        let inode = |name: &str| fs::metadata(fixture.room.path().join(name)).unwrap().ino();
        fixture.set("d", 0o755);
        fixture.set("d/in", 0o711);
        destination.adopt_opened(b"d", inode("d"), 0o555);
        destination.adopt_opened(b"d/in", inode("d/in"), 0o500);
        destination.adopt_opened(b"d", inode("d/in"), 0o111);
        destination.adopt_opened(b"none", 5, 0o555);
        drop(destination);
        assert_eq!((fixture.modes(), fixture.noted()), ([0o555, 0o711], vec!["d closed".to_owned()]));
    }
}
