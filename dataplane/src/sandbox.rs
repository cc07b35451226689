//! What the data plane gives up once it runs: every capability, and every system call that moving data does not need.
//!
//! Sockets are open, memory is mapped and rings are made before; files come as descriptors. So the process needs no name
//! of a file, no new socket, no other process. A partner who found a way into it could corrupt or read the data of
//! running transfers, and could do nothing else to the host.

use std::collections::BTreeMap;

use caps::{CapSet, Capability};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

/// `BPF_MAP_LOOKUP_ELEM`, `…UPDATE_ELEM`, `…DELETE_ELEM`, `…GET_NEXT_KEY` (include/uapi/linux/bpf.h).
const MAP_COMMANDS: [u64; 4] = [1, 2, 3, 4];

/// Drops the calling thread's capabilities. Returns what could not be had, in words.
///
/// A thread's capabilities are its own: every thread of the process calls this.
pub fn drop_capabilities() -> Result<(), String> {
    let gap = |error: caps::errors::CapsError| format!("capabilities could not be dropped: {error}");
    // Only a privileged process may shrink its bounding set; for others nothing can come back through it anyway, because the
    // filter forbids execve.
    if caps::has_cap(None, CapSet::Effective, Capability::CAP_SETPCAP).unwrap_or(false) {
        caps::clear(None, CapSet::Bounding).map_err(gap)?;
    }
    for set in [CapSet::Ambient, CapSet::Inheritable, CapSet::Effective, CapSet::Permitted] {
        caps::clear(None, set).map_err(gap)?;
    }
    Ok(())
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

/// Builds the filter.
fn filter() -> Result<BpfProgram, String> {
    let arch: TargetArch =
        std::env::consts::ARCH.try_into().map_err(|_| format!("there is no filter for {}", std::env::consts::ARCH))?;
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        allowed_system_calls().into_iter().map(|call| (call, Vec::new())).collect();
    // Flows come and go in the steering program's maps. Of the call that does it only what reads and changes maps that are open.
    let map_commands = MAP_COMMANDS.into_iter().map(|command| {
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command)
            .and_then(|condition| SeccompRule::new(vec![condition]))
    });
    let map_commands =
        map_commands.collect::<Result<_, _>>().map_err(|error| format!("the filter could not be built: {error}"))?;
    rules.insert(libc::SYS_bpf, map_commands);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, arch)
        .and_then(TryInto::try_into)
        .map_err(|error| format!("the filter could not be built: {error}"))
}

/// Confines all threads of the process to the system calls that remain. Any other ends the process.
///
/// # Errors
/// What the kernel lacks, in words; the process then runs unconfined.
pub fn confine_system_calls() -> Result<(), String> {
    let program = filter()?;
    seccompiler::apply_filter_all_threads(&program)
        .map_err(|error| format!("system calls could not be confined: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_builds_and_leaves_names_and_sockets_out() {
        assert!(!filter().unwrap().is_empty());
        let calls = allowed_system_calls();
        for forbidden in
            [libc::SYS_openat, libc::SYS_socket, libc::SYS_execve, libc::SYS_clone, libc::SYS_ptrace, libc::SYS_connect]
        {
            assert!(!calls.contains(&forbidden), "system call {forbidden} is allowed");
        }
    }
}
