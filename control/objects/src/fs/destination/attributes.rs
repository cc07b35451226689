//! What a stored file gets beside its bytes: its mode and its times.
//!
//! A file system may take bytes and refuse these (CIFS, exFAT, object stores under FUSE, files of
//! another owner). What is whole and verified is not thrown away for that: it gets its name, and
//! what was refused is noted and said ([decision
//! 0069](../../../docs/decisions/0069-refused-attributes.md)). Any other error, of a disk that
//! fails or is full, fails the file as it always did.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd};

use culvert_protocol::control::{FileError, NOT_KEPT_LISTED_MAX};
use culvert_protocol::manifest::Entry;
use rustix::fs::{Mode, Stat, Timespec, Timestamps, fchmod, fstat, futimens};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::fs::destination::Destination;

/// Whether an error says that an attribute cannot be had here, and nothing about the bytes.
///
/// `INVAL` and `OVERFLOW` are what a file system says of a time that it has no form for, `ACCESS`
/// what a file server says for `PERM`.
#[must_use]
pub fn is_refusal(error: Errno) -> bool {
    // `NOTSUP` and `OPNOTSUPP` are one number on Linux.
    let refusals = [Errno::PERM, Errno::ACCESS, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::OVERFLOW];
    refusals.contains(&error)
}

/// What a stored file gets in addition to its data.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    /// The sender's mode.
    pub mode: u16,
    /// Whether it gets exactly that.
    pub is_mode_preserved: bool,
    /// The sender's time of modification.
    pub modified: Option<Timespec>,
}

impl Attributes {
    /// What `entry` gets. Files always keep their time, because by size and time the same file is
    /// recognised next time; modes, and the times of directories, are kept on request.
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

/// What was refused of a file's attributes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refused {
    /// Why its mode is another.
    pub mode: Option<Errno>,
    /// Why its time is another.
    pub time: Option<Errno>,
}

impl Refused {
    /// Whether everything was kept.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.mode.is_none() && self.time.is_none()
    }

    /// A word for programs, and what people are told.
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
    /// How many there are.
    pub count: u64,
    /// The first of them.
    pub first: Vec<FileError>,
}

impl NotKept {
    /// Notes what was refused of an entry, if anything was.
    pub fn note(&mut self, file: u32, refused: Refused) {
        if refused.is_nothing() {
            return;
        }
        self.count = self.count.saturating_add(1);
        if self.first.len() < NOT_KEPT_LISTED_MAX {
            let (code, text) = refused.words();
            self.first.push(FileError { file, code: code.to_owned(), text });
        }
    }
}

/// Sets mode and times. The second is tried whatever the result of the first. A mode that was not
/// requested counts as refused only if others may then read or write the file who should not.
///
/// # Errors
/// The operating system's, unless it is a refusal.
pub(super) fn set_attributes(file: impl AsFd, mode: Option<Mode>, attributes: &Attributes) -> Result<Refused, Errno> {
    let file = file.as_fd();
    let mut refused = Refused::default();
    if let Some(mode) = mode {
        let is_other = |stat: &Stat| match attributes.is_mode_preserved {
            true => Mode::from_raw_mode(stat.st_mode & 0o7777) != mode,
            false => is_more_open(stat, mode),
        };
        // Where all files have one mode, that may be the one.
        refused.mode = unless_refused(fchmod(file, mode))?.filter(|_| fstat(file).as_ref().map_or(true, is_other));
    }
    if let Some(modified) = attributes.modified {
        let times = Timestamps { last_access: modified, last_modification: modified };
        refused.time = unless_refused(futimens(file, &times))?;
    }
    Ok(refused)
}

/// Whether users other than the owner may read or write a file beyond what a mode permits.
pub(super) const fn is_more_open(file: &Stat, mode: Mode) -> bool {
    const OTHERS_READ_AND_WRITE: u32 = 0o066;
    file.st_mode & !mode.as_raw_mode() & OTHERS_READ_AND_WRITE != 0
}

/// Permissions, without the setuid, setgid and sticky bits.
pub(super) const PERMISSIONS: u32 = 0o777;

/// Whether a file that is there has other permissions than the sender's.
#[must_use]
pub const fn has_other_mode(there: &Stat, wanted: u16) -> bool {
    (there.st_mode ^ wanted as u32) & PERMISSIONS != 0
}

/// Whether this account may be asked to change the mode of a file that it did not write just now:
/// root could change anybody's.
#[must_use]
pub fn is_own(there: &Stat) -> bool {
    there.st_uid == geteuid().as_raw()
}

/// Sets a directory's mode and time, after everything in it has been stored. A directory that the
/// transfer created keeps the setgid bit that it inherited from its parent, as with `mkdir -p` and
/// `cp -a`. One that the transfer did not create keeps its setuid, setgid and sticky bits: they
/// determine not who reads and writes, but who owns the files in it.
///
/// # Errors
/// The operating system's, unless it is a refusal.
pub fn set_directory_attributes(
    destination: &Destination,
    name: &[u8],
    attributes: &Attributes,
    is_own: bool,
) -> Result<Refused, Errno> {
    let directory = match destination.open_directory(name) {
        // Another user's, which this one may not look into.
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
    fn what_is_said_of_many_is_a_count_and_the_first() {
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
