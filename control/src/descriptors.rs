//! Descriptors that are not to be had: whether this process has as many as it may, or the host.
//!
//! The operating system's own words differ by two letters of meaning: "Too many open files" is this process's limit,
//! "Too many open files in system" that of the host. Who reads them should not have to know.

use std::io;

use rustix::io::Errno;
use rustix::process::{Resource, getrlimit};

/// Descriptors without which no command can say what it lacks: those of a runtime, and one or two for what it is about.
const LEAST: usize = 8;

/// What there is to say about an error beside its words; nothing if it is not about descriptors.
#[must_use]
pub fn remedy(error: &io::Error) -> Option<String> {
    match error.raw_os_error().map(Errno::from_raw_os_error)? {
        Errno::MFILE => Some(own_limit()),
        Errno::NFILE => Some(
            "all processes of this host together have as many files open as it permits: end some, or raise the sysctl \
             fs.file-max"
                .to_owned(),
        ),
        _ => None,
    }
}

fn own_limit() -> String {
    let most =
        getrlimit(Resource::Nofile).maximum.map_or_else(|| "all that it wants".to_owned(), |most| most.to_string());
    format!(
        "this process may have {most} files open, which are too few: raise 'ulimit -n', or LimitNOFILE= of its systemd unit"
    )
}

/// A sentence that ends with the words of an error, with what there is to say about it.
#[must_use]
pub fn explained(text: String) -> String {
    // The last of the causes is what the operating system said, whoever wrapped it.
    let number = text.rsplit_once("(os error ").and_then(|(_, rest)| rest.split(')').next()?.parse::<i32>().ok());
    match number.and_then(|number| remedy(&io::Error::from_raw_os_error(number))) {
        Some(remedy) => format!("{text}; {remedy}"),
        None => text,
    }
}

/// Looks whether a runtime can be made: where there are no descriptors for its signals it panics.
///
/// # Errors
/// A sentence.
pub fn require_least() -> Result<(), String> {
    let taken: Result<Vec<_>, Errno> = (0..LEAST).map(|_| rustix::io::dup(rustix::stdio::stderr())).collect();
    match taken {
        // Without standard error there is nobody to say anything to.
        Ok(_) | Err(Errno::BADF) => Ok(()),
        Err(error) => Err(explained(format!("cannot start: {}", io::Error::from(error)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_limit_and_the_hosts_are_told_apart() {
        let text = |errno: Errno| explained(format!("cannot make memory: {}", io::Error::from(errno)));
        assert!(text(Errno::MFILE).contains("ulimit -n") && !text(Errno::MFILE).contains("fs.file-max"));
        assert!(text(Errno::NFILE).contains("fs.file-max") && !text(Errno::NFILE).contains("ulimit"));
        assert_eq!(text(Errno::NOENT), "cannot make memory: No such file or directory (os error 2)");
        let wrapped = format!("cannot listen at /x: {}; choose another --state", io::Error::from(Errno::MFILE));
        assert!(explained(wrapped).contains("ulimit -n"));
    }
}
