//! Where an incoming transfer is stored: a directory that is open, and nothing that is not beneath
//! it.
//!
//! Names come from a partner. Each was checked when it was parsed ([`culvert_protocol::names`]);
//! here it is opened with `openat2(RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)`, so that even a name
//! that changes its meaning between two calls cannot lead outside. [`plan`] decides what will
//! happen to each entry before the first byte moves; [`files`] carries it out.

pub mod attributes;
pub mod files;
pub mod fresh_directories;
pub mod modes;
pub mod old_files;
pub mod opened;
mod opener;
mod patterns;
pub mod permitted;
pub mod plan;
pub mod rights;
pub mod room;
pub mod small_files;
pub mod temporary;
pub mod times;

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use culvert_model::profile::{Leaves, PermittedRoot};
use culvert_protocol::control::{Leave, Refusal, RefusalCode};
use culvert_protocol::manifest::Manifest;
use culvert_system::accounts::may_not;
use culvert_system::os_error::{self, duplicate, words};
use rustix::fs::{Mode, OFlags, fstat, syncfs};
use rustix::io::Errno;

use crate::fs::destination::opened::OpenedDirectories;
use crate::fs::destination::opener::Opener;
use crate::fs::destination::temporary::Attempt;
use crate::fs::sources::named::{SourceOpener, wants_contents};
use crate::fs::sources::{Source, open_beneath};

/// Which part of this host's files a request may reach.
#[derive(Clone, Debug)]
pub enum Reach {
    /// Everything that the user who runs this process may reach: for that user's own requests.
    /// Relative paths start in the directory.
    Owner {
        /// Where relative paths begin.
        directory: PathBuf,
    },
    /// What a profile permits a partner.
    Permitted(Vec<PermittedRoot>),
}

/// What has happened to a destination since it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// Its path leads to it.
    InPlace,
    /// Its path leads to nothing, or to something else.
    Moved,
    /// It is gone, and what was stored in it too. Another transfer may have put a filled directory
    /// into its place.
    Removed,
}

/// An open destination.
#[derive(Debug)]
pub struct Destination {
    /// The directory that the manifest's names are relative to.
    base: OwnedFd,
    /// The base's file system, and a directory of each other one that is mounted below it and was
    /// come by.
    device: u64,
    others: Mutex<HashMap<u64, OwnedFd>>,
    /// How it is shown.
    pub path: PathBuf,
    /// The name that a single file gets instead of its own.
    pub single_name: Option<Vec<u8>>,
    /// Whether the directory was made just now, so that nothing can be in it.
    pub is_fresh: bool,
    /// What the temporary names of this transfer have in common.
    pub attempt: Attempt,
    /// Directories that are open for as long as this is; none if none may be opened ([`opened`]).
    opened: Option<Arc<OpenedDirectories>>,
}

/// What is made of a destination that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Making {
    /// Nothing: this is a dry run.
    Nothing,
    /// Its directories. The last one gets this mode, as far as the umask permits, if the transfer
    /// knows one.
    WithMode(Option<u16>),
}

fn not_permitted(text: String) -> Refusal {
    Refusal::new(RefusalCode::NotPermitted, text)
}

impl Reach {
    /// Whether files may be stored here, and whether they may be fetched. May wait for a disk.
    #[must_use]
    pub fn leaves(&self) -> Leaves {
        match self {
            Self::Owner { .. } => Leaves { store: Leave::Yes, fetch: Leave::Yes },
            Self::Permitted(roots) => permitted::leaves_of(roots),
        }
    }

    /// Opens the directory that a transfer is stored in, and makes it if it is not there. `typed`
    /// is the path as the user wrote it; a single file takes its last component as its name, unless
    /// a directory of that name exists or a slash ends it. In a dry run nothing is made, and a
    /// missing directory counts as an empty one.
    ///
    /// # Errors
    /// [`Refusal`]: not permitted, a symlink on the way, not a directory.
    pub fn open_destination(&self, typed: &[u8], is_single_file: bool, making: Making) -> Result<Destination, Refusal> {
        let typed_path = Path::new(OsStr::from_bytes(typed));
        let (root, below) = match self {
            Self::Owner { directory } => (PathBuf::from("/"), owner_path(directory, typed_path)?),
            Self::Permitted(roots) => permitted_path(roots, typed_path, true)?,
        };
        let shown = root.join(&below);
        let is_owner = matches!(self, Self::Owner { .. });
        let opener = Opener { root: open_root(&root)?, shown: shown.clone(), follows_symlinks: is_owner, making };
        let wants_directory = typed.ends_with(b"/") || typed.ends_with(b"/.") || below.as_os_str().is_empty();
        match opener.open_directory(&below) {
            Ok(base) => return Ok(Destination::new(base, shown, None, false)),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR) if is_single_file && !wants_directory => {}
            Err(error) => return Err(opener.refusal(error)),
        }
        if is_single_file && !wants_directory {
            let name = below.file_name().unwrap_or_default().as_bytes().to_vec();
            let parent = below.parent().unwrap_or(Path::new("")).to_owned();
            let (base, is_fresh) = opener.make_directories(&parent)?;
            let shown = shown.parent().unwrap_or(&shown).to_owned();
            return Ok(Destination::new(base, shown, Some(name), is_fresh));
        }
        let (base, is_fresh) = opener.make_directories(&below)?;
        Ok(Destination::new(base, shown, None, is_fresh))
    }

    /// Opens what a requester named as sources: each is one, or, if it is a pattern that is no
    /// name, all that match (`patterns`). `host` is what this host is called; `may_open` is asked
    /// before more than one is opened for a pattern, with how many more.
    ///
    /// # Errors
    /// [`Refusal`]: not permitted, not there, nothing that matches or too much.
    pub fn open_sources(
        &self,
        typed: &[Vec<u8>],
        host: &str,
        may_open: &mut dyn FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<Vec<Source>, Refusal> {
        let mut opener = SourceOpener::default();
        let mut sources = Vec::with_capacity(typed.len());
        for typed in typed {
            patterns::open(self, typed, host, &mut opener, may_open, &mut sources)?;
        }
        Ok(sources)
    }

    fn open_source(&self, typed: &[u8], sources: &mut SourceOpener) -> Result<Source, Refusal> {
        let typed_path = Path::new(OsStr::from_bytes(typed));
        let roots = match self {
            Self::Owner { directory } => {
                let path = owners(directory, typed_path)?;
                // Joining drops nothing but must keep the slash that asks for the contents.
                let mut bytes = path.into_os_string().into_vec();
                if typed.ends_with(b"/") && !bytes.ends_with(b"/") {
                    bytes.push(b'/');
                }
                let source = sources.local(Path::new(OsStr::from_bytes(&bytes)));
                return source.map_err(|error| Refusal::new(error.code(), error.to_string()));
            }
            Self::Permitted(roots) => roots,
        };
        let (root, below) = permitted_path(roots, typed_path, false)?;
        let shown = root.join(&below);
        let contents = wants_contents(typed_path) || below.as_os_str().is_empty();
        let root = sources.bases.root(&root, open_root)?;
        sources
            .beneath(&root, &below, contents, shown.clone())
            .map_err(|error| refusal(&shown, false, "read it", error))
    }
}

/// A path of the owner's, relative to `/`.
fn owner_path(directory: &Path, typed: &Path) -> Result<PathBuf, Refusal> {
    if typed.as_os_str().as_bytes().contains(&0) {
        return Err(Refusal::new(RefusalCode::Protocol, "the destination's path contains a NUL byte"));
    }
    let joined = owners(directory, typed)?;
    Ok(joined.strip_prefix("/").unwrap_or(&joined).to_owned())
}

/// A path of the owner's in full. No shell has looked at it, so a leading `~` is read here, as
/// scp's far end does.
fn owners(directory: &Path, typed: &Path) -> Result<PathBuf, Refusal> {
    let mut below = typed.components();
    match below.next() {
        Some(Component::Normal(first)) if first == "~" => match below.as_path() {
            path if path.as_os_str().is_empty() => Ok(directory.to_owned()),
            path => Ok(directory.join(path)),
        },
        Some(Component::Normal(first)) if first.as_bytes().starts_with(b"~") => Err(Refusal::new(
            RefusalCode::NotFound,
            format!(
                "'{}' is in another user's home directory, which Culvert does not look up: write \
                 the full path, or put ./ in front of a name that starts with ~",
                typed.display()
            ),
        )),
        _ => Ok(directory.join(typed)),
    }
}

/// Whether a path begins as those do that a shell looks up.
fn is_in_a_home(typed: &Path) -> bool {
    matches!(typed.components().next(), Some(Component::Normal(first)) if first.as_bytes().starts_with(b"~"))
}

/// What a partner is told first that may not do what it asks.
pub const NOT_PERMITTED: &str = "the partner does not permit this node";

/// Splits a partner's path into the permitted root that holds it and the rest.
fn permitted_path(roots: &[PermittedRoot], typed: &Path, writes: bool) -> Result<(PathBuf, PathBuf), Refusal> {
    let action = if writes { "store" } else { "fetch" };
    let shown = typed.display();
    let plain = typed.components().all(|part| !matches!(part, Component::ParentDir | Component::Prefix(_)));
    if is_in_a_home(typed) {
        let text = format!(
            "'{shown}' is in a home directory, but a partner's node has none: write a path in a \
             directory that it permits, or put ./ in front of a name that starts with ~"
        );
        return Err(Refusal::new(RefusalCode::NotFound, text));
    }
    if !plain || typed.as_os_str().as_bytes().contains(&0) {
        return Err(not_permitted(format!(
            "'{shown}' contains '..' or a NUL byte, which paths at a partner must not contain"
        )));
    }
    let may = |root: &&PermittedRoot| if writes { root.permission.writes() } else { root.permission.reads() };
    let mut permitted = roots.iter().filter(may);
    let found = if typed.is_absolute() {
        permitted.find_map(|root| Some((root.path.clone(), typed.strip_prefix(&root.path).ok()?.to_owned())))
    } else {
        let below = typed.components().filter(|part| matches!(part, Component::Normal(_))).collect();
        permitted.next().map(|root| (root.path.clone(), below))
    };
    found.ok_or_else(|| {
        let right = if writes { "write" } else { "read" };
        let edit = "culvert profile edit NAME --permit";
        // Whether it is a directory is not revealed to partners without permission.
        let above = typed.parent().filter(|above| typed.is_absolute() && above.parent().is_some());
        not_permitted(if let Some(above) = above.filter(|_| !writes && !wants_contents(typed)) {
            format!(
                "the partner does not permit this node to {action} '{shown}': its admin can permit the directory that \
                 it is in with '{edit} {}:{right}', or itself if it is a directory",
                above.display()
            )
        } else if typed.is_absolute() {
            format!(
                "{NOT_PERMITTED} to {action} '{shown}': its admin can permit it, or a directory \
                 above it, with '{edit} {shown}:{right}'"
            )
        } else {
            format!(
                "{NOT_PERMITTED} to {action} anything: its admin can permit a directory with \
                 '{edit} DIRECTORY:{right}'"
            )
        })
    })
}

fn open_root(root: &Path) -> Result<OwnedFd, Refusal> {
    rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| {
        let text = format!("the permitted directory {} cannot be opened: {error}", root.display());
        os_error::refusal(error, text)
    })
}

/// What is said of a path that cannot be used; `wanted` is what the account would have had to be
/// permitted.
fn refusal(path: &Path, follows_symlinks: bool, wanted: &str, error: Errno) -> Refusal {
    let shown = path.display();
    let (code, reason) = match error {
        Errno::NOENT => (RefusalCode::NotFound, "it does not exist".to_owned()),
        Errno::LOOP if !follows_symlinks => (
            RefusalCode::NotPermitted,
            "a symlink is in the path, and paths from partners do not follow symlinks".to_owned(),
        ),
        Errno::XDEV if follows_symlinks => (RefusalCode::NotFound, "it leads out of the file system".to_owned()),
        Errno::XDEV => (RefusalCode::NotPermitted, "it leads outside of the permitted directory".to_owned()),
        Errno::NOTDIR => (RefusalCode::NotFound, no_directory(path)),
        Errno::ACCESS | Errno::PERM => (RefusalCode::NotPermitted, may_not(wanted)),
        error => (os_error::code(error), words(error)),
    };
    Refusal::new(code, format!("cannot use {shown}: {reason}"))
}

/// What it takes to make what a path leads to.
fn writing_above(path: &Path) -> String {
    let above = path.ancestors().find(|part| part.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    format!("write to {}", above.display())
}

/// Which part of a path is none of the directories that it is taken for.
fn no_directory(path: &Path) -> String {
    let found = path.ancestors().find_map(|part| Some((part, part.metadata().ok()?)));
    let Some((part, found)) = found.filter(|(_, found)| !found.is_dir()) else {
        return "a part of it is not a directory".to_owned();
    };
    let name = match path.file_name() {
        Some(name) if part == path => Path::new(name),
        _ => part,
    };
    let kind = if found.is_file() { "a file, not a directory" } else { "not a directory" };
    format!("'{}' is {kind}", name.display())
}

impl Destination {
    fn new(base: OwnedFd, path: PathBuf, single_name: Option<Vec<u8>>, is_fresh: bool) -> Self {
        // A base that cannot be looked at has no other file systems below it that matter.
        let device = fstat(&base).map_or(0, |stat| stat.st_dev);
        let attempt = Attempt::begin();
        let others = Mutex::default();
        Self { base, device, others, path, single_name, is_fresh, attempt, opened: None }
    }

    /// The directory.
    #[must_use]
    pub fn base(&self) -> BorrowedFd<'_> {
        self.base.as_fd()
    }

    /// Whether the path under which this was opened still leads to it.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        let Ok(stat) = fstat(&self.base) else { return Whereabouts::InPlace };
        if stat.st_nlink == 0 {
            return Whereabouts::Removed;
        }
        match rustix::fs::stat(&self.path) {
            Ok(there) if plan::identity(&there) == plan::identity(&stat) => Whereabouts::InPlace,
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Whereabouts::Moved,
            // A directory above it may not be looked into any more: that moves nothing.
            Err(_) => Whereabouts::InPlace,
        }
    }

    /// The name that entry `file` gets here.
    #[must_use]
    pub fn name<'a>(&'a self, manifest: &'a Manifest, file: u32) -> Cow<'a, [u8]> {
        match &self.single_name {
            Some(name) => Cow::Borrowed(name),
            None => Cow::Borrowed(manifest.entry(file).name),
        }
    }

    /// Opens the directory that holds `name`, and returns the last component.
    ///
    /// # Errors
    /// The operating system's.
    pub fn parent_of<'a>(&self, name: &'a [u8]) -> Result<(OwnedFd, &'a Path), Errno> {
        let (parent, last) = split_name(name);
        Ok((self.open_directory(parent)?, Path::new(OsStr::from_bytes(last))))
    }

    /// Does something in the directory that holds `name`, with the name's last component. Another
    /// transfer may put a directory that it has filled into the place of an empty one while that is
    /// open here; then it is done in the one that is there now.
    ///
    /// # Errors
    /// The operating system's.
    pub fn in_parent_of<T>(
        &self,
        name: &[u8],
        act: impl FnMut(&Arc<OwnedFd>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, _) = split_name(name);
        self.in_directory_of(name, Arc::new(self.open_directory(directory)?), act)
    }

    /// As [`Destination::in_parent_of`], beginning with `parent`, which was opened before.
    ///
    /// # Errors
    /// The operating system's.
    pub fn in_directory_of<T>(
        &self,
        name: &[u8],
        mut parent: Arc<OwnedFd>,
        mut act: impl FnMut(&Arc<OwnedFd>, &Path) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let (directory, last) = split_name(name);
        for _ in 0..REPLACED_TRIES {
            match self.opening(directory, || act(&parent, Path::new(OsStr::from_bytes(last)))) {
                Err(_) if is_removed(parent.as_fd()) => {}
                done => return done,
            }
            // During the other transfer's rename, the name still leads to the directory that is
            // being replaced.
            std::thread::sleep(REPLACED_PAUSE);
            parent = Arc::new(self.open_directory(directory)?);
        }
        act(&parent, Path::new(OsStr::from_bytes(last)))
    }

    /// Opens a directory by its name below the base; the base itself for an empty name.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open_directory(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        if name.is_empty() {
            return duplicate(&self.base);
        }
        let path = Path::new(OsStr::from_bytes(name));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let directory = self.opening(name, || open_beneath(self.base.as_fd(), path, flags))?;
        let device = fstat(&directory)?.st_dev;
        if device != self.device {
            let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            if let Entry::Vacant(place) = others.entry(device) {
                place.insert(duplicate(&directory)?);
            }
        }
        Ok(directory)
    }

    /// Makes everything durable that was written, made and named so far: the base's file system,
    /// and those that are mounted below it.
    ///
    /// # Errors
    /// The operating system's.
    pub fn sync(&self) -> Result<(), Errno> {
        syncfs(&self.base)?;
        self.others.lock().unwrap_or_else(PoisonError::into_inner).values().try_for_each(syncfs)
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        // A transfer that has stored everything has done it before, and knows what could not be
        // closed.
        let _ = self.close_opened();
    }
}

/// A directory can be replaced once by the transfer that has made it; a rename takes no longer than
/// this together.
const REPLACED_TRIES: usize = 10;
const REPLACED_PAUSE: Duration = Duration::from_millis(2);

/// Whether an open directory is in no other any more.
fn is_removed(directory: BorrowedFd<'_>) -> bool {
    fstat(directory).is_ok_and(|stat| stat.st_nlink == 0)
}

/// Parent and last component of a name.
#[must_use]
pub fn split_name(name: &[u8]) -> (&[u8], &[u8]) {
    match name.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&name[..slash], &name[slash + 1..]),
        None => (b"", name),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use culvert_model::profile::Permission;

    use super::*;

    fn permitted(path: &Path, permission: Permission) -> Reach {
        Reach::Permitted(vec![PermittedRoot { path: path.to_owned(), permission }])
    }

    fn refused(reach: &Reach, typed: &[u8]) -> Refusal {
        reach.open_destination(typed, false, Making::WithMode(None)).unwrap_err()
    }

    #[test]
    fn a_tilde_is_the_owners_directory_and_nobody_elses() {
        let home = Path::new("/home/u");
        let path = |typed: &str| owners(home, Path::new(typed)).map(|path| path.display().to_string());
        let right = [
            ("~", "/home/u"),
            ("~/", "/home/u"),
            ("~/in/a", "/home/u/in/a"),
            ("in", "/home/u/in"),
            ("/in/~", "/in/~"),
            ("in/~/x", "/home/u/in/~/x"),
            ("./~x", "/home/u/./~x"),
        ];
        for (typed, meant) in right {
            assert_eq!(path(typed).unwrap(), meant, "{typed}");
        }
        for typed in ["~root", "~root/x", "~~", "~+/x"] {
            let refusal = path(typed).unwrap_err();
            assert!(refusal.code == RefusalCode::NotFound && refusal.text.contains(typed), "{typed}");
        }
    }

    #[test]
    fn a_partner_stays_beneath_its_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("in")).unwrap();
        fs::create_dir(directory.path().join("outside")).unwrap();
        symlink("../outside", root.join("link")).unwrap();
        let reach = permitted(&root, Permission::Both);
        let inside = reach.open_destination(b"in/new/deep", false, Making::WithMode(None)).unwrap();
        assert!(inside.is_fresh && root.join("in/new/deep").is_dir());
        let absolute = root.join("in/new");
        assert!(
            !reach.open_destination(absolute.as_os_str().as_bytes(), false, Making::WithMode(None)).unwrap().is_fresh
        );
        for typed in [b"../outside".as_slice(), b"in/../../outside", b"/etc", b"/", b"link", b"link/x", b"a\0b"] {
            assert_eq!(refused(&reach, typed).code, RefusalCode::NotPermitted, "{typed:?}");
        }
        assert_eq!(fs::read_dir(directory.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn directions_are_permitted_one_by_one() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("file"), "x").unwrap();
        let (reads, writes) =
            (permitted(directory.path(), Permission::Read), permitted(directory.path(), Permission::Write));
        let open = |reach: &Reach, name: &str| reach.open_source(name.as_bytes(), &mut SourceOpener::default());
        assert!(open(&reads, "file").is_ok());
        assert_eq!(open(&writes, "file").unwrap_err().code, RefusalCode::NotPermitted);
        assert!(writes.open_destination(b"", false, Making::WithMode(None)).is_ok());
        assert_eq!(refused(&reads, b"").code, RefusalCode::NotPermitted);
        assert_eq!(open(&reads, "missing").unwrap_err().code, RefusalCode::NotFound);
    }

    #[test]
    fn a_single_file_may_take_the_destinations_name() {
        let directory = tempfile::tempdir().unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        let named = reach.open_destination(b"made/copy", true, Making::WithMode(None)).unwrap();
        assert_eq!(named.single_name.as_deref(), Some(b"copy".as_slice()));
        assert!(directory.path().join("made").is_dir() && !directory.path().join("made/copy").exists());
        assert_eq!(reach.open_destination(b"made", true, Making::WithMode(None)).unwrap().single_name, None);
        assert_eq!(reach.open_destination(b"made/copy/", true, Making::WithMode(None)).unwrap().single_name, None);
        assert!(directory.path().join("made/copy").is_dir());
    }

    #[test]
    fn the_owner_may_go_through_symlinks() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("real")).unwrap();
        symlink(directory.path().join("real"), directory.path().join("link")).unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        reach.open_destination(b"link/new", false, Making::WithMode(None)).unwrap();
        assert!(directory.path().join("real/new").is_dir());
    }
}
