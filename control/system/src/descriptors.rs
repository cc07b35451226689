//! Descriptors: how many this process may have, and what to do when they run out.
//!
//! Either this process or the host may have reached its limit. The operating system's messages
//! differ by two words ("Too many open files", "Too many open files in system"); the remedies here
//! say which limit it is.

use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::OnceLock;

use culvert_protocol::counted::noun;
use rustix::process::{Resource, getrlimit};

/// Descriptors for sockets, the state directory and the link to the data plane, in any case.
pub const DESCRIPTORS_RESERVED: u64 = 64;

/// The descriptors that this process may have beyond [`DESCRIPTORS_RESERVED`].
#[must_use]
pub fn descriptors_to_share() -> u64 {
    static LIMIT: OnceLock<u64> = OnceLock::new();
    *LIMIT.get_or_init(|| getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(DESCRIPTORS_RESERVED))
}

/// This host's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The remedy if this process has reached its limit of open files.
#[must_use]
pub fn own_limit() -> String {
    let most = getrlimit(Resource::Nofile).current;
    limit_of(std::process::id(), &most.map_or_else(|| "all that it wants".to_owned(), |most| most.to_string()))
}

/// As [`own_limit`], for another process of this host.
#[must_use]
pub fn limit_of_process(process: u32) -> String {
    let limits = std::fs::read_to_string(format!("/proc/{process}/limits")).unwrap_or_default();
    let most = limits.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    limit_of(process, most.unwrap_or("only so many"))
}

/// The remedy if the host has reached its limit of open files.
#[must_use]
pub fn limit_of_host() -> String {
    format!(
        "the processes of the host {} together have as many files open as it permits: end some, or \
         raise the sysctl fs.file-max there",
        host_name()
    )
}

/// Whether at least half of this process's descriptors are free after `opened`, which it has just
/// got: the kernel assigns the lowest free number.
#[must_use]
pub fn leaves_half(opened: &OwnedFd) -> bool {
    let most = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    u64::try_from(opened.as_raw_fd()).is_ok_and(|number| number < most / 2)
}

fn limit_of(process: u32, most: &str) -> String {
    format!(
        "culvert's process {process} on {} may have {most} {} open, too few for this: raise 'ulimit \
         -n' there, or LimitNOFILE= in its systemd unit",
        host_name(),
        // Without a number, the plural.
        noun(most.parse().unwrap_or(u64::MAX), "file")
    )
}
