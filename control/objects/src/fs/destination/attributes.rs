//! The attributes of a stored file: its mode and its times.
//!
//! A file system may take the bytes and refuse the attributes (CIFS, exFAT, object stores under
//! FUSE, files of another owner). A whole and verified file is not discarded for that: it gets its
//! name, and the refusal is reported ([decision
//! 0069](../../../docs/decisions/0069-refused-attributes.md)). Any other error, such as that of a
//! failing or full disk, fails the file.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_protocol::control::{FileError, NOT_KEPT_LISTED_MAX};
use culvert_protocol::manifest::Entry;
use rustix::fs::{Mode, Stat, Timespec, Timestamps, fchmod, fstat, futimens};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::fs::destination::Destination;

/// Whether an error only means that the attribute cannot be set here, and says nothing about the
/// bytes.
///
/// File systems return `INVAL` and `OVERFLOW` for a time that they cannot represent; some file
/// servers return `ACCESS` for `PERM`.
#[must_use]
pub fn is_refusal(error: Errno) -> bool {
    // `NOTSUP` is the same number as `OPNOTSUPP` on Linux.
    let refusals = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::OVERFLOW];
    refusals.contains(&error)
}

/// The attributes that a stored file gets.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// The sender's mode.
    pub mode: u16,
    /// Whether the file gets exactly that mode.
    pub is_mode_preserved: bool,
    /// The sender's modification time.
    pub modified: Option<Timespec>,
}

impl Attributes {
    /// The attributes of `entry`. Files always keep their time, because size and time identify the
    /// same file next time; modes, and the times of directories, are kept on request.
    #[must_use]
    pub fn of(entry: &Entry<'_>, preserve: bool) -> Self {
        let modified = Timespec { tv_sec: entry.modified.seconds, tv_nsec: i64::from(entry.modified.nanoseconds) };
        Self { mode: entry.mode, is_mode_preserved: preserve, modified: Some(modified) }
    }

    /// The sender's mode, if it is preserved.
    pub(super) fn preserved_mode(&self) -> Option<Mode> {
        self.is_mode_preserved.then(|| Mode::from_raw_mode(self.mode.into()))
    }
}

/// The attributes that were refused for a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Why its mode differs.
    pub mode: Option<Errno>,
    /// Why its time differs.
    pub time: Option<Errno>,
}

impl Refused {
    /// Whether everything was kept.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.mode.is_none() && self.time.is_none()
    }

    /// The word for programs, and the sentence for users.
    fn words(&self) -> (&'static str, String) {
        let code = match (self.mode, self.time) {
            (Some(_), Some(_)) => "mode_and_time",
            (None, Some(_)) => "time",
            _ => "mode",
        };
        let mut text = String::new();
        for (call, error) in [("fchmod", self.mode), ("utimensat", self.time)] {
            let Some(error) = error else { continue };
            let error = error.to_string();
            let error = error.split(" (os error").next().unwrap_or_default();
            let between = if text.is_empty() { "" } else { ", " };
            // Writing to a string does not fail.
            let _ = write!(text, "{between}{call}: {error}");
        }
        (code, text)
    }
}

/// Files and directories that are stored without some of their attributes.
#[derive(Clone, Debug, Default)]
pub struct NotKept {
    /// Their number.
    pub count: u64,
    /// The first of them.
    pub first: Vec<FileError>,
}

impl NotKept {
    /// Notes the refused attributes of an entry, if there are any.
    pub fn note(&mut self, file: u32, refused: Refused) {
        if refused.is_nothing() {
            return;
        }
        //= W-57
        //# It lists at most the first 16, each with a word (`mode`, `time`, `mode_and_time`) and an
        //# explanation.
        self.count = self.count.saturating_add(1);
        if self.first.len() < NOT_KEPT_LISTED_MAX {
            let (code, text) = refused.words();
            self.first.push(FileError { file, code: code.to_owned(), text });
        }
    }
}

/// Sets mode and times; tries the times even if the mode was refused. A mode that the user did not
/// ask to preserve counts as refused only if the file is then readable or writable by users whom it
/// should exclude.
///
/// # Errors
/// Those of the operating system, unless it is a refusal.
pub(super) fn set_attributes(file: impl AsFd, mode: Option<Mode>, attributes: &Attributes) -> Result<Refused, Errno> {
    let file = file.as_fd();
    let mut refused = Refused::default();
    if let Some(mode) = mode {
        let is_other = |stat: &Stat| match attributes.is_mode_preserved {
            true => Mode::from_raw_mode(stat.st_mode & 0o7777) != mode,
            false => is_more_open(stat, mode),
        };
        // On a file system where all files have one mode, it may be the wanted one.
        refused.mode = unless_refused(fchmod(file, mode))?.filter(|_| fstat(file).as_ref().map_or(true, is_other));
    }
    if let Some(modified) = attributes.modified {
        let times = Timestamps { last_access: modified, last_modification: modified };
        refused.time = unless_refused(futimens(file, &times))?;
    }
    Ok(refused)
}

/// Whether users other than the owner may read or write a file although `mode` forbids it.
pub(super) const fn is_more_open(file: &Stat, mode: Mode) -> bool {
    const OTHERS_READ_AND_WRITE: u32 = 0o066;
    file.st_mode & !mode.as_raw_mode() & OTHERS_READ_AND_WRITE != 0
}

/// Permissions, without the setuid, setgid and sticky bits.
pub(super) const PERMISSIONS: u32 = 0o777;

/// Whether an existing file has other permissions than the sender's.
#[must_use]
pub const fn has_other_mode(there: &Stat, wanted: u16) -> bool {
    (there.st_mode ^ wanted as u32) & PERMISSIONS != 0
}

/// Whether an existing file belongs to this account, which may then change its mode. Root could,
/// but must not, change everybody's.
#[must_use]
pub fn is_own(there: &Stat) -> bool {
    there.st_uid == geteuid().as_raw()
}

/// Sets a directory's mode and time, after everything in it has been stored. A directory that the
/// transfer created keeps the setgid bit inherited from its parent, as with `mkdir -p` and `cp -a`.
/// Any other keeps its setuid, setgid and sticky bits, which determine who owns the files in it,
/// not who may read or write them.
///
/// # Errors
/// Those of the operating system, unless it is a refusal.
pub fn set_directory_attributes(
    destination: &Destination,
    name: &[u8],
    attributes: &Attributes,
    is_own: bool,
) -> Result<Refused, Errno> {
    let directory = match destination.open_directory(name) {
        // Another user's directory, which this account may not open.
        Err(Errno::ACCESS) => return Ok(Refused { mode: Some(Errno::ACCESS), time: Some(Errno::ACCESS) }),
        opened => opened?,
    };
    let mode = mode_of_directory(directory.as_fd(), attributes.mode, is_own)?;
    let refused = set_attributes(&directory, Some(mode), attributes)?;
    if refused.mode.is_none() {
        destination.forget_opened(name);
    }
    Ok(refused)
}

fn unless_refused(set: Result<(), Errno>) -> Result<Option<Errno>, Errno> {
    match set {
        Ok(()) => Ok(None),
        Err(error) if is_refusal(error) => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

fn mode_of_directory(directory: BorrowedFd<'_>, wanted: u16, is_own: bool) -> Result<Mode, Errno> {
    const SPECIAL: u32 = 0o7000;
    const SETGID: u32 = 0o2000;
    let kept = fstat(directory)?.st_mode & if is_own { SETGID } else { SPECIAL };
    Ok(Mode::from_raw_mode(u32::from(wanted) & PERMISSIONS | kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_says_nothing_of_the_bytes_and_an_error_of_the_disk_is_none() {
        for error in [Errno::PERM, Errno::OPNOTSUPP, Errno::NOTSUP, Errno::NOSYS, Errno::INVAL] {
            assert_eq!(unless_refused(Err(error)), Ok(Some(error)));
        }
        for error in [Errno::IO, Errno::NOSPC, Errno::DQUOT, Errno::ROFS, Errno::STALE, Errno::NODEV] {
            assert_eq!(unless_refused(Err(error)), Err(error));
        }
    }

    /// Times beyond what a kernel keeps are cut or refused, by file system; neither fails the file.
    #[test]
    fn an_impossible_time_is_refused_and_the_mode_is_set() {
        let room = tempfile::tempdir().unwrap();
        let file = std::fs::File::create(room.path().join("f")).unwrap();
        let impossible = Timespec { tv_sec: 0, tv_nsec: 5_000_000_000 };
        let attributes = Attributes { mode: 0o640, is_mode_preserved: true, modified: Some(impossible) };
        let refused = set_attributes(&file, attributes.preserved_mode(), &attributes).unwrap();
        assert_eq!(refused, Refused { mode: None, time: Some(Errno::INVAL) });
        assert_eq!(fstat(&file).unwrap().st_mode & 0o7777, 0o640);
    }

    #[test]
    fn many_refusals_are_a_count_and_the_first_of_them() {
        //= W-57
        //# It lists at most the first 16, each with a word (`mode`, `time`, `mode_and_time`) and an
        //# explanation.
        let mut not_kept = NotKept::default();
        not_kept.note(0, Refused::default());
        for file in 0..1_000 {
            not_kept.note(file, Refused { mode: Some(Errno::PERM), time: (file > 0).then_some(Errno::OPNOTSUPP) });
        }
        assert_eq!((not_kept.count, not_kept.first.len()), (1_000, NOT_KEPT_LISTED_MAX));
        let said = |at: usize| (not_kept.first[at].code.as_str(), not_kept.first[at].text.as_str());
        assert_eq!(said(0), ("mode", "fchmod: Operation not permitted"));
        assert_eq!(said(1), ("mode_and_time", "fchmod: Operation not permitted, utimensat: Operation not supported"));
    }
}
