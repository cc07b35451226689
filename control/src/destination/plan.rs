//! What will happen to each entry of a manifest, decided before the first byte moves.
//!
//! Names that contradict each other are refused as they come. The plan refuses the whole transfer if files would be overwritten that may not be, or if there is not enough room;
//! it notes what is there already and need not be sent. Only when nothing speaks against it does it make directories and
//! symlinks.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{Options, Overwrite, Refusal, RefusalCode};
use culvert_protocol::manifest::{Entry, EntryKind, Manifest};
use culvert_protocol::names::printable;
use rustix::fs::{AtFlags, FileType, Mode, Stat, fstatvfs, mkdirat, statat, symlinkat, unlinkat};
use rustix::io::Errno;

use super::{Destination, split_name};
use crate::sources::hash_of;

/// Collisions that a refusal names.
const NAMED_MAX: usize = 5;

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing is there: it is made.
    Create,
    /// A file is there that it replaces, at once and only when it is whole.
    Replace,
    /// The same is there: it is not sent.
    Skip,
    /// An earlier attempt of this transfer stored it: it is not sent, and counts as stored.
    Resumed,
}

/// What is known of a destination file from an earlier attempt.
pub trait StoredBefore {
    /// Whether entry `file` was stored whole by an earlier attempt, and `stat` shows that nobody has touched it since.
    fn is_stored(&self, file: u32, entry: &Entry<'_>, stat: &Stat) -> bool;
}

/// What is to happen to files that exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What the user said.
    pub overwrite: Overwrite,
    /// Larger files can be compared by their chunks' hashes.
    pub compared_above_bytes: u64,
}

impl Policy {
    /// The policy of a transfer.
    #[must_use]
    pub const fn of(options: &Options) -> Self {
        Self { overwrite: options.overwrite, compared_above_bytes: ChunkMap::pack_file_bytes_max(options.chunk_bytes) }
    }
}

/// The plan: an action for each entry.
#[derive(Debug)]
pub struct Plan {
    /// By entry.
    pub actions: Vec<Action>,
}

/// Decides about a manifest whose names have been checked ([`NameCheck`]). Nothing is changed.
///
/// # Errors
/// [`Refusal`] with the names in question.
pub fn decide(
    destination: &Destination,
    manifest: &Manifest,
    policy: Policy,
    before: &dyn StoredBefore,
) -> Result<Plan, Refusal> {
    let mut looker = Looker { destination, parent: None, missing: HashSet::new(), missing_parent: Vec::new() };
    let mut actions = Vec::with_capacity(manifest.len());
    let mut taken: HashMap<(u64, u64), u32> = HashMap::new();
    let mut collisions = Vec::new();
    let mut collision_count = 0u64;
    for (file, entry) in manifest.entries() {
        let name = destination.name(manifest, file);
        let there = looker.look(&name, entry.kind == EntryKind::Directory)?;
        let action = match there {
            None => Action::Create,
            Some(stat) => {
                let decided = match has_one_name(&stat).then(|| taken.insert(identity(&stat), file)).flatten() {
                    Some(other) => {
                        let other = printable(&destination.name(manifest, other));
                        Err(format!("is the same name as '{other}' to the file system, which folds them"))
                    }
                    None => decide_existing(&entry, &stat, policy, before.is_stored(file, &entry, &stat))
                        .map_err(str::to_owned),
                };
                decided.unwrap_or_else(|reason| {
                    collision_count += 1;
                    if collisions.len() < NAMED_MAX {
                        collisions.push(format!("'{}' {reason}", printable(&name)));
                    }
                    Action::Skip
                })
            }
        };
        actions.push(action);
    }
    if collision_count > 0 {
        let more = collision_count - collisions.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Refusal::new(
            RefusalCode::Collision,
            format!(
                "in {} {}{more}: nothing was sent; use --overwrite changed, content or always to replace files, or another destination",
                destination.path.display(),
                collisions.join(", ")
            ),
        ));
    }
    Ok(Plan { actions })
}

/// What a name leads to, whatever it is called.
const fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

/// Whether only one name can lead to what is there: two that do are one to the file system, by case or by the form of a letter.
fn has_one_name(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory || stat.st_nlink == 1
}

/// What becomes of an entry whose name is taken; the error says by what.
fn decide_existing(entry: &Entry<'_>, there: &Stat, policy: Policy, is_stored: bool) -> Result<Action, &'static str> {
    let kind = FileType::from_raw_mode(there.st_mode);
    let overwrite = policy.overwrite;
    match entry.kind {
        EntryKind::Directory if kind == FileType::Directory => Ok(Action::Skip),
        EntryKind::Directory => Err("is there and is not a directory"),
        _ if kind == FileType::Directory => Err("is there and is a directory"),
        EntryKind::File { bytes, .. } => {
            if is_stored {
                return Ok(Action::Resumed);
            }
            let same_time =
                there.st_mtime == entry.modified.seconds && there.st_mtime_nsec as u32 == entry.modified.nanoseconds;
            let same = kind == FileType::RegularFile && there.st_size as u64 == bytes && same_time;
            match overwrite {
                Overwrite::Never | Overwrite::Changed if same => Ok(Action::Skip),
                Overwrite::Content if same && bytes <= policy.compared_above_bytes => Ok(Action::Skip),
                Overwrite::Always | Overwrite::Changed | Overwrite::Content => Ok(Action::Replace),
                Overwrite::Never => Err("exists already and differs in size or time"),
            }
        }
        EntryKind::Symlink => match overwrite {
            _ if kind == FileType::Symlink => Ok(Action::Skip),
            Overwrite::Never => Err("exists already"),
            Overwrite::Changed | Overwrite::Content | Overwrite::Always => Ok(Action::Replace),
        },
    }
}

/// Checks, entry by entry, that names are unique and that every parent is a directory that is listed before its children.
#[derive(Debug, Default)]
pub struct NameCheck {
    names: HashSet<u128>,
    directories: HashSet<u128>,
    /// The parent that was found listed last: files of a directory follow each other.
    listed_parent: Vec<u8>,
}

impl NameCheck {
    /// Looks at the next entry.
    ///
    /// # Errors
    /// [`Refusal`] if it contradicts those before it.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), Refusal> {
        let hash = hash_of(entry.name);
        if !self.names.insert(hash) {
            return refuse_name(entry.name, "names a file twice");
        }
        let (parent, _) = split_name(entry.name);
        if !parent.is_empty() && parent != self.listed_parent {
            if !self.directories.contains(&hash_of(parent)) {
                return refuse_name(entry.name, "lists a file before its directory");
            }
            self.listed_parent = parent.to_vec();
        }
        if entry.kind == EntryKind::Directory {
            self.directories.insert(hash);
        }
        Ok(())
    }
}

fn refuse_name(name: &[u8], what: &str) -> Result<(), Refusal> {
    let text = format!("the partner's manifest {what} ('{}'): it is not one that Culvert makes", printable(name));
    Err(Refusal::new(RefusalCode::Protocol, text))
}

/// Looks at what is there, directory by directory; below a directory that is missing it need not look.
struct Looker<'a> {
    destination: &'a Destination,
    parent: Option<(Vec<u8>, OwnedFd)>,
    missing: HashSet<u128>,
    /// The parent that was found missing last: files of a directory follow each other.
    missing_parent: Vec<u8>,
}

impl Looker<'_> {
    fn look(&mut self, name: &[u8], is_directory: bool) -> Result<Option<Stat>, Refusal> {
        let (parent, last) = split_name(name);
        let found = if self.is_missing(parent) {
            None
        } else {
            self.stat(parent, last).map_err(|error| self.refusal(name, error))?
        };
        if found.is_none() && is_directory {
            self.missing.insert(hash_of(name));
        }
        Ok(found)
    }

    fn is_missing(&mut self, directory: &[u8]) -> bool {
        if directory.is_empty() {
            return self.destination.is_fresh;
        }
        if self.missing_parent == directory {
            return true;
        }
        let is_missing = self.missing.contains(&hash_of(directory));
        if is_missing {
            self.missing_parent = directory.to_vec();
        }
        is_missing
    }

    fn stat(&mut self, parent: &[u8], last: &[u8]) -> Result<Option<Stat>, Errno> {
        if self.parent.as_ref().is_none_or(|(open, _)| open != parent) {
            let directory = match self.destination.open_directory(parent) {
                Ok(directory) => directory,
                // Something else is there; the directory's own entry has been found to collide.
                Err(Errno::NOTDIR | Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error),
            };
            self.parent = Some((parent.to_vec(), directory));
        }
        let Some((_, directory)) = &self.parent else { return Ok(None) };
        match statat(directory, Path::new(OsStr::from_bytes(last)), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn refusal(&self, name: &[u8], error: Errno) -> Refusal {
        let (name, path) = (printable(name), self.destination.path.display());
        match error {
            Errno::LOOP => Refusal::new(
                RefusalCode::NotPermitted,
                format!(
                    "'{name}' in {path} would be stored through a symlink: remove the symlink or choose another destination"
                ),
            ),
            Errno::NAMETOOLONG => {
                Refusal::new(RefusalCode::Failed, format!("'{name}' is longer than the file system of {path} permits"))
            }
            error => Refusal::new(RefusalCode::Failed, format!("cannot look at '{name}' in {path}: {error}")),
        }
    }
}

/// Refuses if the file system has not room for `bytes` more.
///
/// # Errors
/// [`Refusal`] with the numbers.
pub fn check_room(destination: &Destination, bytes: u64) -> Result<(), Refusal> {
    let Ok(stat) = fstatvfs(destination.base()) else { return Ok(()) };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    if bytes <= free {
        return Ok(());
    }
    let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
    Err(Refusal::new(
        RefusalCode::NoSpace,
        format!(
            "{} has {:.2} GiB free, the transfer needs {:.2} GiB: make room or choose another destination",
            destination.path.display(),
            gib(free),
            gib(bytes)
        ),
    ))
}

/// Makes the directories and symlinks of the plan; whether there was any to make.
///
/// # Errors
/// [`Refusal`] with the name in question; files have not been touched.
pub fn make_directories_and_symlinks(
    destination: &Destination,
    manifest: &Manifest,
    actions: &[Action],
) -> Result<bool, Refusal> {
    let mut has_made = false;
    let mut made_here = HashSet::new();
    for (file, entry) in manifest.entries() {
        let action = actions[file as usize];
        if action == Action::Skip || matches!(entry.kind, EntryKind::File { .. }) {
            continue;
        }
        has_made = true;
        let name = destination.name(manifest, file);
        let made = destination.parent_of(&name).and_then(|(parent, last)| match entry.kind {
            EntryKind::Directory => {
                let made = mkdirat(&parent, last, Mode::from_raw_mode(0o777));
                let there = identity(&statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW)?);
                match made {
                    // Another transfer may have made it meanwhile; if it is no directory, its files will say so. But if this one has made it,
                    // it was under another name, and the two directories would become one.
                    Err(Errno::EXIST) if !made_here.contains(&there) => Ok(()),
                    Err(error) => Err(error),
                    Ok(()) => {
                        made_here.insert(there);
                        Ok(())
                    }
                }
            }
            _ => {
                let target = Path::new(OsStr::from_bytes(entry.target));
                if action == Action::Replace {
                    unlinkat(&parent, last, AtFlags::empty())?;
                }
                symlinkat(target, &parent, last)
            }
        });
        made.map_err(|error| {
            let code = match error {
                Errno::NOSPC | Errno::DQUOT => RefusalCode::NoSpace,
                Errno::ACCESS | Errno::PERM | Errno::ROFS => RefusalCode::NotPermitted,
                Errno::EXIST => RefusalCode::Collision,
                _ => RefusalCode::Failed,
            };
            let (name, path) = (printable(&name), destination.path.display());
            let reason = match error {
                Errno::EXIST => {
                    "it is there by now, or its name is to the file system the same as another of the transfer"
                        .to_owned()
                }
                error => error.to_string(),
            };
            Refusal::new(code, format!("cannot make '{name}' in {path}: {reason}"))
        })?;
    }
    Ok(has_made)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::Reach;
    use crate::sources::{list, local_source};
    use std::fs;

    struct NothingBefore;
    impl StoredBefore for NothingBefore {
        fn is_stored(&self, _: u32, _: &Entry<'_>, _: &Stat) -> bool {
            false
        }
    }

    fn policy(overwrite: Overwrite) -> Policy {
        Policy { overwrite, compared_above_bytes: 2 }
    }

    fn manifest_of(path: &Path) -> Manifest {
        list(vec![local_source(path).unwrap()], drop).unwrap().manifest
    }

    fn fixture() -> (tempfile::TempDir, Manifest, Destination) {
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("source");
        fs::create_dir_all(source.join("d")).unwrap();
        fs::write(source.join("a"), "aaa").unwrap();
        fs::write(source.join("d/b"), "bbb").unwrap();
        std::os::unix::fs::symlink("a", source.join("l")).unwrap();
        let reach = Reach::Owner { directory: directory.path().to_owned() };
        fs::create_dir(directory.path().join("destination")).unwrap();
        let destination = reach.open_destination(b"destination", false, true).unwrap();
        (directory, manifest_of(&source.join("")), destination)
    }

    #[test]
    fn an_empty_destination_gets_everything() {
        let (directory, manifest, destination) = fixture();
        let plan = decide(&destination, &manifest, policy(Overwrite::Never), &NothingBefore).unwrap();
        assert!(plan.actions.iter().all(|&action| action == Action::Create));
        make_directories_and_symlinks(&destination, &manifest, &plan.actions).unwrap();
        assert!(directory.path().join("destination/d").is_dir());
        assert_eq!(fs::read_link(directory.path().join("destination/l")).unwrap(), Path::new("a"));
    }

    #[test]
    fn a_different_file_refuses_the_transfer_unless_it_may_be_replaced() {
        let (directory, manifest, destination) = fixture();
        fs::write(directory.path().join("destination/a"), "other").unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Never), &NothingBefore).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Collision);
        assert!(refusal.text.contains("'a'"), "{refusal}");
        let plan = decide(&destination, &manifest, policy(Overwrite::Changed), &NothingBefore).unwrap();
        assert_eq!(plan.actions[0], Action::Replace);
    }

    #[test]
    fn the_same_file_is_skipped() {
        let (directory, manifest, destination) = fixture();
        let copy = directory.path().join("destination/a");
        fs::write(&copy, "aaa").unwrap();
        let time = fs::metadata(directory.path().join("source/a")).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&copy).unwrap().set_modified(time).unwrap();
        // The file has three bytes, and larger ones than two are compared by content.
        for (overwrite, action) in [
            (Overwrite::Never, Action::Skip),
            (Overwrite::Changed, Action::Skip),
            (Overwrite::Content, Action::Replace),
            (Overwrite::Always, Action::Replace),
        ] {
            assert_eq!(decide(&destination, &manifest, policy(overwrite), &NothingBefore).unwrap().actions[0], action);
        }
    }

    #[test]
    fn kinds_that_contradict_each_other_are_refused_even_if_everything_may_be_replaced() {
        let (directory, manifest, destination) = fixture();
        fs::write(directory.path().join("destination/d"), "a file").unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Always), &NothingBefore).unwrap_err();
        assert!(refusal.text.contains("not a directory"), "{refusal}");
    }

    #[test]
    fn a_symlink_on_the_way_is_refused() {
        let (directory, manifest, destination) = fixture();
        std::os::unix::fs::symlink("/tmp", directory.path().join("destination/d")).unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Always), &NothingBefore).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Collision, "{refusal}");
    }

    #[test]
    fn manifests_that_contradict_themselves_are_refused() {
        let entry =
            |name: &'static [u8], kind| Entry { name, kind, target: b"", mode: 0o644, modified: Default::default() };
        let file = EntryKind::File { bytes: 1, is_sparse: false };
        for entries in [
            vec![entry(b"a", file), entry(b"a", file)],
            vec![entry(b"a", file), entry(b"a/b", file)],
            vec![entry(b"d/a", file), entry(b"d", EntryKind::Directory)],
        ] {
            let mut check = NameCheck::default();
            let refused = entries.iter().find_map(|entry| check.add(entry).err());
            assert_eq!(refused.unwrap().code, RefusalCode::Protocol);
        }
    }

    #[test]
    fn too_little_room_is_told_with_numbers() {
        let (_directory, _, destination) = fixture();
        assert!(check_room(&destination, 1).is_ok());
        let refusal = check_room(&destination, u64::MAX / 2).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::NoSpace);
        assert!(refusal.text.contains("GiB free"), "{refusal}");
    }
}
