//! The meaning of an operating system error: the refusal code with which it ends a transfer, and
//! its remedy.
//!
//! All code that turns such an error into a [`RefusalCode`], an exit code or a remedy uses this
//! module. For users, a file that does not exist, a file that may not be used, and a file that this
//! process merely lacks the means to open are three different things.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use culvert_protocol::control::{Refusal, RefusalCode};
use rustix::io::Errno;

pub use culvert_link::aside::without_numbers;

use crate::descriptors;

/// The code of a file's error that is not about the file: this process or its host lacks resources.
/// It ends the transfer, which resumes later, and is never sent as the error of a file.
pub const SHORTAGE: &str = "temporary";

/// Whether an error means that this process or its host lacks descriptors or memory.
#[must_use]
pub const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// The code with which the error ends a transfer.
#[must_use]
pub const fn code(errno: Errno) -> RefusalCode {
    match errno {
        errno if is_shortage(errno) => RefusalCode::Temporary,
        Errno::AGAIN | Errno::INTR => RefusalCode::Temporary,
        Errno::NOENT | Errno::NOTDIR => RefusalCode::NotFound,
        Errno::ACCESS | Errno::PERM | Errno::ROFS => RefusalCode::NotPermitted,
        Errno::NOSPC | Errno::DQUOT => RefusalCode::NoSpace,
        _ => RefusalCode::Failed,
    }
}

/// As [`code`], for an error that may be wrapped.
#[must_use]
pub fn code_of(error: &io::Error) -> RefusalCode {
    errno_of(error).map_or(RefusalCode::Failed, code)
}

/// The error for a number from the data plane or from a text. A number that no kernel returns
/// becomes an I/O error, because [`Errno`] cannot represent it.
#[must_use]
pub fn errno_of_number(number: i32) -> Errno {
    /// The largest that a system call returns (include/linux/err.h, `MAX_ERRNO`).
    const ERRNO_MAX: i32 = 4_095;
    if (1..=ERRNO_MAX).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO }
}

/// The operating system's error in an error that may be wrapped, for example by the crate
/// `tempfile`.
#[must_use]
pub fn errno_of(error: &io::Error) -> Option<Errno> {
    if let Some(number) = error.raw_os_error() {
        return Some(errno_of_number(number));
    }
    let mut cause: Option<&(dyn Error + 'static)> = error.get_ref().map(|inner| inner as _);
    while let Some(inner) = cause {
        if let Some(inner) = inner.downcast_ref::<io::Error>() {
            return errno_of(inner);
        }
        if let Some(errno) = inner.downcast_ref::<Errno>() {
            return Some(*errno);
        }
        cause = inner.source();
    }
    // `tempfile` keeps only the text.
    errno_in(&error.to_string())
}

/// As [`errno_of`]; an error of another origin counts as an I/O error.
#[must_use]
pub fn errno_or_io(error: &io::Error) -> Errno {
    errno_of(error).unwrap_or(Errno::IO)
}

/// The remedy for an error, independent of what failed. It names this process and this host,
/// because the reader may be at another host.
#[must_use]
pub fn remedy(errno: Errno) -> Option<String> {
    let text = match errno {
        Errno::MFILE => return Some(descriptors::own_limit()),
        Errno::NFILE => return Some(descriptors::limit_of_host()),
        Errno::NOMEM | Errno::NOBUFS => {
            return Some(format!("the host {} is short of memory: stop some programs there", descriptors::host_name()));
        }
        Errno::ROFS => "its file system is mounted read-only: mount it so that it can be written",
        Errno::IO => "the disk or its server is at fault: check the kernel log (dmesg)",
        Errno::NAMETOOLONG => "most file systems permit names of 255 bytes and paths of 4,095: use a shorter one",
        Errno::LOOP => "symlinks form a loop, or are where none are permitted: remove them",
        _ => return None,
    };
    Some(text.to_owned())
}

/// The text of an error, with its remedy.
#[must_use]
pub fn words(errno: Errno) -> String {
    without_numbers(&explained(errno.to_string()))
}

/// As [`words`], with the caller's hint for errors without a general remedy.
#[must_use]
pub fn words_or_hint(error: &io::Error, hint: &str) -> String {
    let remedy = errno_of(error).and_then(remedy);
    format!("{error}; {}", remedy.as_deref().unwrap_or(hint))
}

/// Adds the remedy to a sentence of this process that ends with the text of an error. Never use it
/// for a partner's sentence, which is about the partner's limits.
#[must_use]
pub fn explained(text: String) -> String {
    match errno_in(&text).and_then(remedy) {
        Some(remedy) if !text.contains(&remedy) => format!("{text}; {remedy}"),
        _ => text,
    }
}

/// Whether a sentence of this process ends with the text of a shortage.
#[must_use]
pub fn tells_shortage(text: &str) -> bool {
    errno_in(text).is_some_and(is_shortage)
}

/// The refusal for an error; `text` ends with the error's text.
#[must_use]
pub fn refusal(errno: Errno, text: String) -> Refusal {
    Refusal::new(code(errno), without_numbers(&explained(text)))
}

/// A second descriptor of an open file.
///
/// # Errors
/// Those of the operating system.
pub fn duplicate(descriptor: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(descriptor, 0)
}

/// The last error number in a text: the innermost cause, whatever wrapped it.
fn errno_in(text: &str) -> Option<Errno> {
    let (_, rest) = text.rsplit_once("(os error ")?;
    rest.split(')').next()?.parse().ok().map(errno_of_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A compromised data plane sent one, and the control process panicked.
    #[test]
    fn numbers_that_no_kernel_returns_are_io_errors() {
        for number in [i32::MIN, -1, 0, 4_096, i32::MAX] {
            assert_eq!(errno_of_number(number), Errno::IO, "{number}");
            assert_eq!(errno_of(&io::Error::from_raw_os_error(number)), Some(Errno::IO), "{number}");
            assert!(!tells_shortage(&format!("it failed (os error {number})")), "{number}");
        }
        assert_eq!(errno_of_number(2), Errno::NOENT);
        assert_eq!(errno_of_number(4_095).raw_os_error(), 4_095);
    }

    #[test]
    fn the_own_limit_and_the_hosts_are_told_apart_and_told_once() {
        let text = |errno: Errno| explained(format!("cannot make memory: {}", io::Error::from(errno)));
        assert!(text(Errno::MFILE).contains("ulimit -n") && !text(Errno::MFILE).contains("fs.file-max"));
        assert!(text(Errno::NFILE).contains("fs.file-max") && !text(Errno::NFILE).contains("ulimit"));
        assert_eq!(text(Errno::NOENT), "cannot make memory: No such file or directory (os error 2)");
        let wrapped = format!("cannot listen at /x: {}; choose another --state", io::Error::from(Errno::MFILE));
        let once = explained(wrapped);
        assert!(once.contains("ulimit -n") && explained(once.clone()) == once);
        // The reader may be at another host.
        assert!(once.contains(&format!("process {} on {}", std::process::id(), descriptors::host_name())), "{once}");
    }

    /// Each had the code "not found", or a plain failure, in one place or another.
    #[test]
    fn the_kind_follows_from_the_error() {
        let kinds = [
            (Errno::NOENT, RefusalCode::NotFound),
            (Errno::NOTDIR, RefusalCode::NotFound),
            (Errno::ACCESS, RefusalCode::NotPermitted),
            (Errno::PERM, RefusalCode::NotPermitted),
            (Errno::ROFS, RefusalCode::NotPermitted),
            (Errno::MFILE, RefusalCode::Temporary),
            (Errno::NFILE, RefusalCode::Temporary),
            (Errno::NOMEM, RefusalCode::Temporary),
            (Errno::NOSPC, RefusalCode::NoSpace),
            (Errno::DQUOT, RefusalCode::NoSpace),
            (Errno::IO, RefusalCode::Failed),
            (Errno::LOOP, RefusalCode::Failed),
            (Errno::NAMETOOLONG, RefusalCode::Failed),
        ];
        for (errno, kind) in kinds {
            assert_eq!(code(errno), kind, "{errno}");
            assert_eq!(code_of(&io::Error::other(io::Error::from(errno))), kind, "{errno}");
        }
    }

    #[test]
    fn an_error_that_others_have_wrapped_is_found() {
        let missing = tempfile::Builder::new().tempfile_in("/nowhere/at/all").unwrap_err();
        assert_eq!((missing.raw_os_error(), errno_of(&missing)), (None, Some(Errno::NOENT)));
        assert_eq!(errno_of(&io::Error::other("no error of the system")), None);
    }
}
