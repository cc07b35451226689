//! What the data plane gives up once it runs: every capability, and every system call that moving
//! data does not need; and what its rule keeper ([`crate::keeper`]) gives up.
//!
//! Sockets are opened, memory is mapped and rings are created before that; files arrive as
//! descriptors. The process therefore needs no file names, no new sockets and no other processes.
//! An attacker in control of it could corrupt or read the data of running transfers, but could do
//! nothing else to the host.

use std::collections::BTreeMap;

use caps::{CapSet, Capability};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::kernel_calls::IOCTLS;

/// `BPF_MAP_LOOKUP_ELEM`, `…UPDATE_ELEM`, `…DELETE_ELEM`, `…GET_NEXT_KEY`
/// (include/uapi/linux/bpf.h).
const MAP_COMMANDS: [u64; 4] = [1, 2, 3, 4];

/// Drops the calling thread's capabilities. Returns what could not be had, in words.
///
/// A thread's capabilities are its own: every thread of the process calls this.
pub fn drop_capabilities() -> Result<(), String> {
    let gap = |error: caps::errors::CapsError| format!("capabilities could not be dropped: {error}");
    // Only a privileged process may shrink its bounding set; for others nothing can come back
    // through it anyway, because the filter forbids execve.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(gap)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(gap)?;
    }
    Ok(())
}

/// Drops all capabilities of the calling thread except the one to change interfaces. Returns those
/// that are missing, in words.
///
/// # Errors
/// What failed, in words.
pub fn keep_network_administration() -> Result<(), String> {
    let kept = caps::CapsHashSet::from([Capability::CAP_NET_ADMIN]);
    let gap = |error: caps::errors::CapsError| format!("capabilities could not be dropped: {error}");
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(gap)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable] {
        caps::clear(None, set).map_err(gap)?;
    }
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &kept).map_err(gap)?;
    }
    Ok(())
}

/// Confines the keeper, which has one thread.
///
/// # Errors
/// As [`confine_system_calls`].
pub fn confine_keeper() -> Result<(), String> {
    seccompiler::apply_filter(&keeper_filter()?)
        .map_err(|error| format!("the keeper's system calls could not be confined: {error}"))
}

/// Confines all threads of the process to the system calls that remain. Any other ends the process.
///
/// # Errors
/// What the kernel lacks, in words; the process then runs unconfined.
pub fn confine_system_calls() -> Result<(), String> {
    let program = data_plane_filter()?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| format!("system calls could not be confined: {error}"))
}

/// The system calls that remain.
fn allowed_system_calls() -> Vec<libc::c_long> {
    let mut calls = vec![
        // The data.
        libc::SYS_sendmsg,
        libc::SYS_recvmsg,
        // AF_XDP's wake-up calls.
        libc::SYS_sendto,
        libc::SYS_recvfrom,
        libc::SYS_io_uring_enter,
        libc::SYS_io_uring_register,
        crate::disk::residency::SYS_CACHESTAT,
        libc::SYS_getsockopt,
        // Doorbells, descriptors that come and go, messages.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_ppoll,
        libc::SYS_epoll_ctl,
        libc::SYS_fcntl,
        // Of a capture's memory, before it is mapped.
        libc::SYS_fstat,
        // Memory of flows that come and go.
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        // Threads and time.
        libc::SYS_futex,
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_sched_yield,
        libc::SYS_restart_syscall,
        libc::SYS_getrandom,
        libc::SYS_rseq,
        libc::SYS_membarrier,
        libc::SYS_gettid,
        libc::SYS_getpid,
        // The end, ordered or not.
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigreturn,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigaction,
        libc::SYS_sigaltstack,
        libc::SYS_tgkill,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_poll]);
    calls
}

/// The system calls that remain to the keeper, but for [`IOCTLS`].
fn allowed_to_keeper() -> Vec<libc::c_long> {
    vec![
        // Its pipe, and its messages.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_close,
        libc::SYS_restart_syscall,
        // Memory of answers.
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // The end, ordered or not.
        libc::SYS_sigaltstack,
        libc::SYS_exit,
        libc::SYS_exit_group,
    ]
}

/// Of a call only those whose argument of this number is one of some values.
fn only(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rules = values.iter().map(|&value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    });
    rules.collect()
}

/// Builds a filter of whole calls and one call that is restricted: its number, which argument, and
/// the values that this may have.
fn filter(calls: Vec<libc::c_long>, restricted: (libc::c_long, u8, &[u64])) -> Result<BpfProgram, String> {
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|_| format!("there is no filter for {}", std::env::consts::ARCH))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let (call, argument, values) = restricted;
    let not_built = |error: seccompiler::BackendError| format!("the filter could not be built: {error}");
    rules.insert(call, only(argument, values).map_err(not_built)?);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(not_built)
}

/// The data plane's. Flows come and go in the steering program's maps: of the call that does it
/// only what reads and changes maps that are open.
fn data_plane_filter() -> Result<BpfProgram, String> {
    filter(allowed_system_calls(), (libc::SYS_bpf, 0, &MAP_COMMANDS))
}

/// The keeper's: of ioctls only those that look at an interface's rules and change them.
fn keeper_filter() -> Result<BpfProgram, String> {
    filter(allowed_to_keeper(), (libc::SYS_ioctl, 1, &IOCTLS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_builds_and_leaves_names_and_sockets_out() {
        assert!(!data_plane_filter().unwrap().is_empty() && !keeper_filter().unwrap().is_empty());
        let calls = allowed_system_calls();
        for forbidden in
            [libc::SYS_openat, libc::SYS_socket, libc::SYS_execve, libc::SYS_clone, libc::SYS_ptrace, libc::SYS_connect]
        {
            assert!(
                !calls.contains(&forbidden) && !allowed_to_keeper().contains(&forbidden),
                "system call {forbidden} is allowed"
            );
        }
    }
}
