//! The meaning of an operating system error: which kind a transfer ends with because of it, and
//! what to do about it.
//!
//! All code that turns one into a [`RefusalCode`], an exit code or a remedy uses this module.
//! Something that does not exist, something that may not be used, and something that this process
//! merely lacks the means to look at are three different things for the user.

use std::error::Error;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use culvert_protocol::control::{Refusal, RefusalCode};
use rustix::io::Errno;

pub use culvert_link::aside::without_numbers;

use crate::descriptors;

/// The code of a file's error that is not about the file: the host or this process lacks the
/// resources to continue. It ends the transfer, which resumes where it stopped, and no partner gets
/// it as the error of a file.
pub const SHORTAGE: &str = "temporary";

/// Whether an error says that this process or its host has too little of something, whatever it was
/// needed for.
#[must_use]
pub const fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS)
}

/// The kind that a transfer ends with.
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

/// As [`code`], of an error that others may have wrapped.
#[must_use]
pub fn code_of(error: &io::Error) -> RefusalCode {
    errno_of(error).map_or(RefusalCode::Failed, code)
}

/// The error for a number from the data plane or from a text. A number that no kernel returns
/// becomes an I/O error: the type cannot represent it.
#[must_use]
pub fn errno_of_number(number: i32) -> Errno {
    /// The largest that a system call returns (include/linux/err.h, `MAX_ERRNO`).
    const ERRNO_MAX: i32 = 4_095;
    if (1..=ERRNO_MAX).contains(&number) { Errno::from_raw_os_error(number) } else { Errno::IO }
}

/// The operating system's number of an error that may have been wrapped, for example by the crate
/// for temporary files.
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
    // The crate for temporary files keeps only the text.
    errno_in(&error.to_string())
}

/// As [`errno_of`]; an error of something else is one of input and output.
#[must_use]
pub fn errno_or_io(error: &io::Error) -> Errno {
    errno_of(error).unwrap_or(Errno::IO)
}

/// What to do about an error, whatever failed. It concerns this process and this host, and names
/// both, because the reader may be at another host.
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

/// The words of an error, with what there is to do about it.
#[must_use]
pub fn words(errno: Errno) -> String {
    without_numbers(&explained(errno.to_string()))
}

/// As [`words`], with a hint of the caller's where there is nothing to do that helps whatever
/// failed.
#[must_use]
pub fn words_or_hint(error: &io::Error, hint: &str) -> String {
    let remedy = errno_of(error).and_then(remedy);
    format!("{error}; {}", remedy.as_deref().unwrap_or(hint))
}

/// A sentence of this process that ends with the words of an error, with what there is to do about
/// it. Never one of a partner: its limits are not this process's.
#[must_use]
pub fn explained(text: String) -> String {
    match errno_in(&text).and_then(remedy) {
        Some(remedy) if !text.contains(&remedy) => format!("{text}; {remedy}"),
        _ => text,
    }
}

/// Whether a sentence of this process ends with the words of a shortage.
#[must_use]
pub fn tells_shortage(text: &str) -> bool {
    errno_in(text).is_some_and(is_shortage)
}

/// What a transfer is refused or ended with; the text ends with the error's words.
#[must_use]
pub fn refusal(errno: Errno, text: String) -> Refusal {
    Refusal::new(code(errno), without_numbers(&explained(text)))
}

/// A second descriptor of what is open.
///
/// # Errors
/// The operating system's.
pub fn duplicate(descriptor: impl AsFd) -> Result<OwnedFd, Errno> {
    rustix::io::fcntl_dupfd_cloexec(descriptor, 0)
}

/// The last of the causes is the operating system's, whichever layer wrapped it.
fn errno_in(text: &str) -> Option<Errno> {
    let (_, rest) = text.rsplit_once("(os error ")?;
    rest.split(')').next()?.parse().ok().map(errno_of_number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A data plane that was taken over told one, and the control process fell over it.
    #[test]
    fn numbers_that_no_kernel_says_are_errors_of_input_and_output() {
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

    /// Each was "not found", or a plain failure, at one place or another.
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
