//! Keeps what a process knows out of cores and from other processes of its account.
//!
//! Both processes have keys in memory. A core would write them to a disk, or hand them to whatever
//! the host collects cores with; and another process of the same account may read the memory of one
//! that can be dumped (`ptrace(2)`, "Ptrace access mode checking").

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// From now on this process leaves no core, also where the host's pattern pipes cores to a program,
/// which the limit alone does not keep from it; and only root reads its memory. Programs that it
/// starts inherit the limit and say the rest themselves.
///
/// # Errors
/// The operating system's, which refuses neither as a rule.
pub fn forbid() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    Ok(())
}
