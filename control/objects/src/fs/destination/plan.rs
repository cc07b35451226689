//! The plan: what happens to each entry of a manifest, decided before the first byte moves.
//!
//! Names that contradict each other were refused as they arrived ([`super::name_check`]). The plan
//! refuses the whole transfer if it would overwrite files that it may not, and notes entries that
//! exist already and need not be sent. Directories and symlinks are made afterwards
//! ([`super::making`]).

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use culvert_protocol::chunk_map::ChunkMap;
use culvert_protocol::control::{Options, Overwrite, Refusal, RefusalCode};
use culvert_protocol::dry_run::Fate;
use culvert_protocol::manifest::{Entry, EntryKind, Manifest};
use culvert_protocol::names::printable;
use culvert_system::os_error;
use rustix::fs::{AtFlags, FileType, Stat, readlinkat, statat};
use rustix::io::Errno;

use crate::fs::destination::Destination;
use crate::fs::destination::action::Action;
use crate::fs::destination::attributes::{has_other_mode, is_own};
use crate::fs::destination::identity::{Identity, identity};
use crate::fs::destination::names::split_name;
use crate::fs::destination::times::Granularities;
use crate::fs::sources::hash_of;

/// Collisions that a refusal lists.
const NAMED_MAX: usize = 5;

/// What an earlier attempt of the transfer did to an existing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EarlierResult {
    /// Nothing, or the file has changed since.
    Nothing,
    /// Stored it whole.
    Stored,
    /// Stored it whole, but could not set its time.
    StoredAtAnotherTime,
    /// Stored it whole, but without the hash that this attempt must sign.
    StoredWithoutHash,
}

/// Knows what earlier attempts stored.
pub trait StoredBefore {
    /// What an earlier attempt did to `entry`; `stat` is the existing file's status.
    fn before(&self, entry: &Entry<'_>, stat: &Stat) -> EarlierResult;
}

/// The rules for existing files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The user's choice.
    pub overwrite: Overwrite,
    /// Files larger than this, in bytes, can be compared by the hashes of their chunks.
    pub compared_above_bytes: u64,
    /// Whether files get the sender's mode, even those that need not be sent.
    pub preserve: bool,
}

impl Policy {
    /// The policy of a transfer.
    #[must_use]
    pub const fn of(options: &Options) -> Self {
        let compared_above_bytes = ChunkMap::pack_file_bytes_max(options.chunk_bytes);
        Self { overwrite: options.overwrite, compared_above_bytes, preserve: options.preserve }
    }
}

/// The plan: an action for each entry.
#[derive(Debug, Default)]
pub struct Plan {
    /// By entry.
    pub actions: Vec<Action>,
    /// Files that are not sent but get another mode, ascending, with their identities.
    pub other_modes: Vec<(u32, Identity)>,
}

/// The decision about an entry.
struct Decided {
    /// The action, or the reason why there can be none.
    action: Result<Action, String>,
    fate: Fate,
    /// The existing file, if it only gets another mode.
    other_mode: Option<Identity>,
}

impl Plan {
    /// Adds the next entry.
    fn push(&mut self, action: Action, other_mode: Option<Identity>) {
        let file = self.actions.len() as u32;
        self.other_modes.extend(other_mode.map(|there| (file, there)));
        self.actions.push(action);
    }
}

/// Decides about a manifest whose names have been checked ([`super::name_check`]), and changes
/// nothing.
///
/// # Errors
/// [`Refusal`] with the names that collide.
pub fn decide(
    destination: &Destination,
    manifest: &Manifest,
    policy: Policy,
    earlier: &dyn StoredBefore,
) -> Result<Plan, Refusal> {
    let mut plan = Plan { actions: Vec::with_capacity(manifest.len()), ..Plan::default() };
    let mut collisions = Vec::new();
    let mut collision_count = 0u64;
    decide_each(destination, manifest, policy, earlier, |name, decided| {
        let action = decided.action.unwrap_or_else(|reason| {
            collision_count += 1;
            if collisions.len() < NAMED_MAX {
                collisions.push(format!("'{}' {reason}", printable(name)));
            }
            Action::Skip
        });
        plan.push(action, decided.other_mode);
    })?;
    assert_eq!(plan.actions.len(), manifest.len(), "a plan has one action for each entry");
    if collision_count > 0 {
        let more = collision_count - collisions.len() as u64;
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        return Err(Refusal::new(
            RefusalCode::Collision,
            format!(
                "in {} {}{more}: nothing was sent; {}",
                destination.path.display(),
                collisions.join(", "),
                match policy.overwrite {
                    Overwrite::Never => {
                        "use --overwrite changed, content or always to replace files, or another destination"
                    }
                    _ =>
                        "a directory and a file never replace each other: move what is there, or use another destination",
                }
            ),
        ));
    }
    Ok(plan)
}

/// As [`decide`], for a dry run: collisions refuse nothing, and every entry gets a fate. A file
/// that collides counts as not sent.
///
/// # Errors
/// [`Refusal`] if the destination cannot be examined.
pub fn foretell(
    destination: &Destination,
    manifest: &Manifest,
    policy: Policy,
    earlier: &dyn StoredBefore,
) -> Result<(Plan, Vec<Fate>), Refusal> {
    let mut plan = Plan { actions: Vec::with_capacity(manifest.len()), ..Plan::default() };
    let mut fates = Vec::with_capacity(manifest.len());
    decide_each(destination, manifest, policy, earlier, |_, decided| {
        plan.push(decided.action.unwrap_or(Action::Skip), decided.other_mode);
        fates.push(decided.fate);
    })?;
    //= W-58
    //# Before `PlanEnd`, the receiver reports the outcome of each entry and its reason, in runs
    //# that cover the manifest exactly and in order
    //
    // Invariant I-plan-fates: a dry run has exactly one action and one fate for each entry.
    assert_eq!((plan.actions.len(), fates.len()), (manifest.len(), manifest.len()), "each entry has one fate");
    Ok((plan, fates))
}

/// Decides about every entry, in order; `decided` gets the name at the destination and the
/// decision.
fn decide_each(
    destination: &Destination,
    manifest: &Manifest,
    policy: Policy,
    earlier: &dyn StoredBefore,
    mut decided: impl FnMut(&[u8], Decided),
) -> Result<(), Refusal> {
    let mut looker = ExistingEntries::new(destination);
    let mut taken: HashMap<Identity, u32> = HashMap::new();
    for (file, entry) in manifest.entries() {
        let name = destination.name(manifest, file);
        let Some(stat) = looker.look(&name, entry.kind == EntryKind::Directory)? else {
            decided(&name, Decided { action: Ok(Action::Create), fate: Fate::New, other_mode: None });
            continue;
        };
        if let Some(other) = has_one_name(&stat).then(|| taken.insert(identity(&stat), file)).flatten() {
            let other = printable(&destination.name(manifest, other));
            let reason = format!("is the same name as '{other}' to the file system, which folds names");
            decided(&name, Decided { action: Err(reason), fate: Fate::CollidesByName, other_mode: None });
            continue;
        }
        let before = earlier.before(&entry, &stat);
        let is_same = looker.is_same(&entry, split_name(&name).1, &stat);
        let action = decide_existing(&entry, &stat, policy, before, is_same);
        let is_left_alone = matches!(action, Ok(Action::Skip | Action::Resumed));
        let gets_mode = policy.preserve && is_left_alone && matches!(entry.kind, EntryKind::File { .. });
        let other_mode = (gets_mode && has_other_mode(&stat, entry.mode)).then(|| identity(&stat));
        let fate = match fate_of(&entry, &stat, policy, action) {
            Fate::Same if other_mode.is_some() && is_own(&stat) => Fate::SameButMode,
            fate => fate,
        };
        decided(&name, Decided { action: action.map_err(str::to_owned), fate, other_mode });
    }
    Ok(())
}

/// The fate of an entry whose name is taken: the reason for its action, or for its collision.
fn fate_of(entry: &Entry<'_>, there: &Stat, policy: Policy, action: Result<Action, &'static str>) -> Fate {
    let is_file = FileType::from_raw_mode(there.st_mode) == FileType::RegularFile;
    // None if the two are of different kinds.
    let has_same_size = match entry.kind {
        EntryKind::File { bytes, .. } if is_file => Some(there.st_size as u64 == bytes),
        _ => None,
    };
    let is_compared =
        matches!(entry.kind, EntryKind::File { bytes, .. } if is_file && bytes > policy.compared_above_bytes);
    match (action, has_same_size) {
        (Ok(Action::Create), _) => Fate::New,
        (Ok(Action::Skip), _) => Fate::Same,
        (Ok(Action::Resumed), _) => Fate::StoredBefore,
        (Ok(Action::Replace), None) => Fate::DiffersInKind,
        (Ok(Action::Replace), Some(_)) if policy.overwrite == Overwrite::Always => Fate::ReplacedAlways,
        (Ok(Action::Replace), Some(_)) if policy.overwrite == Overwrite::Content && is_compared => Fate::Compared,
        (Ok(Action::Replace), Some(false)) => Fate::DiffersInSize,
        (Ok(Action::Replace), Some(true)) => Fate::DiffersInTime,
        (Err(_), None) => Fate::CollidesInKind,
        (Err(_), Some(false)) => Fate::CollidesInSize,
        (Err(_), Some(true)) => Fate::CollidesInTime,
    }
}

/// Whether only one name can lead to this file. If two entries lead to it nevertheless, the file
/// system folds their names (case, Unicode forms).
fn has_one_name(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory || stat.st_nlink == 1
}

/// The action for an entry whose name is taken, or what it collides with. `is_same` says whether
/// the existing object looks like the entry: a file of its size and time, or a symlink with the
/// same target.
fn decide_existing(
    entry: &Entry<'_>,
    there: &Stat,
    policy: Policy,
    before: EarlierResult,
    is_same: bool,
) -> Result<Action, &'static str> {
    let kind = FileType::from_raw_mode(there.st_mode);
    let overwrite = policy.overwrite;
    match entry.kind {
        EntryKind::Directory if kind == FileType::Directory => Ok(Action::Skip),
        EntryKind::Directory => Err("is there and is not a directory"),
        _ if kind == FileType::Directory => Err("is there and is a directory"),
        EntryKind::File { bytes, .. } => {
            // A user who wants every file sent, or compared by content, does not trust size and
            // time: only hashes prove what is stored.
            let is_proved = match overwrite {
                Overwrite::Never | Overwrite::Changed => true,
                Overwrite::Content => bytes <= policy.compared_above_bytes,
                Overwrite::Always => false,
            };
            match before {
                // On a file system with timestamps of whole seconds, the change time alone does not
                // show a change within one second.
                EarlierResult::Stored if is_proved && is_same => return Ok(Action::Resumed),
                // Its size and change time are unchanged.
                EarlierResult::StoredAtAnotherTime if is_proved => return Ok(Action::Resumed),
                // It is this transfer's own, so no policy protects it: it is hashed if it can be
                // compared, otherwise sent again.
                EarlierResult::StoredWithoutHash => return Ok(Action::Replace),
                EarlierResult::Stored | EarlierResult::StoredAtAnotherTime | EarlierResult::Nothing => {}
            }
            match overwrite {
                Overwrite::Never | Overwrite::Changed if is_same => Ok(Action::Skip),
                Overwrite::Content if is_same && bytes <= policy.compared_above_bytes => Ok(Action::Skip),
                Overwrite::Always | Overwrite::Changed | Overwrite::Content => Ok(Action::Replace),
                Overwrite::Never if kind != FileType::RegularFile => Err("exists already and is not a file"),
                Overwrite::Never => Err("exists already and differs in size or time"),
            }
        }
        EntryKind::Symlink if is_same => Ok(Action::Skip),
        EntryKind::Symlink => match overwrite {
            Overwrite::Never if kind == FileType::Symlink => Err("exists already and leads elsewhere"),
            Overwrite::Never => Err("exists already and is not a symlink"),
            Overwrite::Changed | Overwrite::Content | Overwrite::Always => Ok(Action::Replace),
        },
    }
}

/// Looks up existing entries, directory by directory, and skips everything below a missing one.
struct ExistingEntries<'a> {
    destination: &'a Destination,
    parent: Option<(Vec<u8>, OwnedFd)>,
    missing: HashSet<u128>,
    /// The parent that was found missing last, a cache: files of a directory follow each other.
    missing_parent: Vec<u8>,
    granularities: Granularities,
}

impl<'a> ExistingEntries<'a> {
    fn new(destination: &'a Destination) -> Self {
        let (missing, missing_parent) = (HashSet::new(), Vec::new());
        Self { destination, parent: None, missing, missing_parent, granularities: Granularities::default() }
    }

    /// Whether the object found as `last` in the current directory looks like `entry`.
    fn is_same(&mut self, entry: &Entry<'_>, last: &[u8], there: &Stat) -> bool {
        let Some((_, directory)) = &self.parent else { return false };
        match (entry.kind, FileType::from_raw_mode(there.st_mode)) {
            (EntryKind::File { bytes, .. }, FileType::RegularFile) => {
                there.st_size as u64 == bytes && self.granularities.has_time(directory.as_fd(), there, entry.modified)
            }
            (EntryKind::Symlink, FileType::Symlink) => {
                readlinkat(directory, Path::new(OsStr::from_bytes(last)), Vec::new())
                    .is_ok_and(|target| target.as_bytes() == entry.target)
            }
            _ => false,
        }
    }

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
                // Not a directory: its own entry collides already.
                Err(Errno::NOTDIR | Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error),
            };
            self.parent = Some((parent.to_vec(), directory));
        }
        let Some((_, directory)) = &self.parent else { return Ok(None) };
        // A directory that may be read cannot always be searched.
        let look = || statat(directory, Path::new(OsStr::from_bytes(last)), AtFlags::SYMLINK_NOFOLLOW);
        match self.destination.opening(parent, look) {
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
            error => os_error::refusal(error, format!("cannot look at '{name}' in {path}: {error}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::fs::destination::MissingDestination;
    use crate::fs::destination::making::{Made, make_directories_and_symlinks};
    use crate::fs::reach::Reach;
    use crate::fs::sources::listing::list;
    use crate::fs::sources::named::local_source;

    struct NoEarlierAttempt;
    impl StoredBefore for NoEarlierAttempt {
        fn before(&self, _: &Entry<'_>, _: &Stat) -> EarlierResult {
            EarlierResult::Nothing
        }
    }

    fn policy(overwrite: Overwrite) -> Policy {
        Policy { overwrite, compared_above_bytes: 2, preserve: false }
    }

    fn manifest_of(path: &Path) -> Manifest {
        list(vec![local_source(path).unwrap()], drop).unwrap().listing.manifest
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
        let destination = reach.open_destination(b"destination", false, MissingDestination::WithMode(None)).unwrap();
        (directory, manifest_of(&source.join("")), destination)
    }

    fn make(destination: &Destination, manifest: &Manifest, actions: &[Action]) -> Result<Made, Refusal> {
        let mut made = Made::default();
        make_directories_and_symlinks(destination, manifest, actions, &mut made).map(|()| made)
    }

    #[test]
    fn an_empty_destination_gets_everything() {
        let (directory, manifest, destination) = fixture();
        let plan = decide(&destination, &manifest, policy(Overwrite::Never), &NoEarlierAttempt).unwrap();
        assert!(plan.actions.iter().all(|&action| action == Action::Create));
        make(&destination, &manifest, &plan.actions).unwrap();
        assert!(directory.path().join("destination/d").is_dir());
        assert_eq!(fs::read_link(directory.path().join("destination/l")).unwrap(), Path::new("a"));
    }

    #[test]
    fn a_different_file_refuses_the_transfer_unless_it_may_be_replaced() {
        let (directory, manifest, destination) = fixture();
        fs::write(directory.path().join("destination/a"), "other").unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Never), &NoEarlierAttempt).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Collision);
        assert!(refusal.text.contains("'a'"), "{refusal}");
        let plan = decide(&destination, &manifest, policy(Overwrite::Changed), &NoEarlierAttempt).unwrap();
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
            assert_eq!(
                decide(&destination, &manifest, policy(overwrite), &NoEarlierAttempt).unwrap().actions[0],
                action
            );
        }
    }

    struct AtAnotherTime;
    impl StoredBefore for AtAnotherTime {
        fn before(&self, _: &Entry<'_>, _: &Stat) -> EarlierResult {
            EarlierResult::StoredAtAnotherTime
        }
    }

    /// The transfer could not continue: its own file was taken for somebody else's.
    #[test]
    fn a_file_that_was_stored_without_its_time_counts_as_stored_where_its_content_is_taken_for_granted() {
        let (directory, manifest, destination) = fixture();
        fs::write(directory.path().join("destination/a"), "aaa").unwrap();
        for (overwrite, action) in [
            (Overwrite::Never, Action::Resumed),
            (Overwrite::Changed, Action::Resumed),
            // Of more than two bytes: compared by content.
            (Overwrite::Content, Action::Replace),
            (Overwrite::Always, Action::Replace),
        ] {
            assert_eq!(decide(&destination, &manifest, policy(overwrite), &AtAnotherTime).unwrap().actions[0], action);
        }
    }

    #[test]
    fn kinds_that_contradict_each_other_are_refused_even_if_everything_may_be_replaced() {
        let (directory, manifest, destination) = fixture();
        fs::write(directory.path().join("destination/d"), "a file").unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Always), &NoEarlierAttempt).unwrap_err();
        assert!(refusal.text.contains("not a directory"), "{refusal}");
    }

    #[test]
    fn a_symlink_on_the_way_is_refused() {
        let (directory, manifest, destination) = fixture();
        std::os::unix::fs::symlink("/tmp", directory.path().join("destination/d")).unwrap();
        let refusal = decide(&destination, &manifest, policy(Overwrite::Always), &NoEarlierAttempt).unwrap_err();
        assert_eq!(refusal.code, RefusalCode::Collision, "{refusal}");
    }

    /// A symlink with another target was taken for the same.
    #[test]
    fn a_symlink_that_leads_elsewhere_differs_as_a_file_does() {
        let (directory, manifest, destination) = fixture();
        let place = directory.path().join("destination/l");
        let link = manifest.entries().find(|(_, entry)| entry.kind == EntryKind::Symlink).unwrap().0 as usize;
        let decided = |overwrite| decide(&destination, &manifest, policy(overwrite), &NoEarlierAttempt);
        std::os::unix::fs::symlink("a", &place).unwrap();
        for overwrite in [Overwrite::Never, Overwrite::Changed, Overwrite::Content, Overwrite::Always] {
            assert_eq!(decided(overwrite).unwrap().actions[link], Action::Skip, "{overwrite:?}");
        }
        for (put, said) in [(true, "leads elsewhere"), (false, "not a symlink")] {
            fs::remove_file(&place).unwrap();
            if put {
                std::os::unix::fs::symlink("b", &place).unwrap();
            } else {
                fs::write(&place, "file").unwrap();
            }
            let refusal = decided(Overwrite::Never).unwrap_err();
            assert!(refusal.code == RefusalCode::Collision && refusal.text.contains(said), "{refusal}");
            for overwrite in [Overwrite::Changed, Overwrite::Content, Overwrite::Always] {
                let actions = decided(overwrite).unwrap().actions;
                assert_eq!(actions[link], Action::Replace, "{overwrite:?}");
                make(&destination, &manifest, &actions).unwrap();
                assert_eq!(fs::read_link(&place).unwrap(), Path::new("a"));
                fs::remove_file(&place).unwrap();
                std::os::unix::fs::symlink("b", &place).unwrap();
            }
        }
        let names: Vec<_> = fs::read_dir(directory.path().join("destination"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(names.len(), 2, "nothing temporary remains: {names:?}");
    }

    /// It ended the whole transfer.
    #[test]
    fn a_symlink_whose_name_was_taken_after_the_plan_fails_by_name() {
        let (directory, manifest, destination) = fixture();
        let actions = decide(&destination, &manifest, policy(Overwrite::Never), &NoEarlierAttempt).unwrap().actions;
        let place = directory.path().join("destination/l");
        std::os::unix::fs::symlink("theirs", &place).unwrap();
        let made = make(&destination, &manifest, &actions).unwrap();
        let [error] = made.failed.as_slice() else { panic!("one fails: {:?}", made.failed) };
        assert_eq!((error.code.as_str(), manifest.entry(error.file).name), ("collision", b"l".as_slice()));
        assert_eq!(fs::read_link(&place).unwrap(), Path::new("theirs"));
        assert_eq!(made.directories.len(), 1, "the rest is made");
    }

    #[test]
    fn a_directory_that_somebody_else_made_is_not_counted_as_made() {
        let (directory, manifest, destination) = fixture();
        let actions = decide(&destination, &manifest, policy(Overwrite::Never), &NoEarlierAttempt).unwrap().actions;
        fs::create_dir(directory.path().join("destination/d")).unwrap();
        let made = make(&destination, &manifest, &actions).unwrap();
        assert!(made.has_made && made.directories.is_empty());
    }
}
