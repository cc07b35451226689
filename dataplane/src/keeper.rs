//! The rule keeper: a small process that removes the data plane's receive rules from the NIC when
//! the data plane has ended, however it ended.
//!
//! ```text
//!  data plane, at its start ── spawns, tells the rules ──> keeper: ignores requests to end, has CAP_NET_ADMIN only
//!     └── holds the pipe ─────────────────────────────────> reads ... the pipe's end: removes the rules, ends
//! ```
//!
//! The kernel keeps a NIC's rules until they are removed. The data plane drops the privilege to do
//! so before the first segment, and after `kill -9` it could not do it anyway; the control process
//! never had the privilege.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{ChildStdout, Command, Stdio};

use caps::{CapSet, Capability};
use culvert_link::kernel_bypass::SetRule;
use culvert_link::process_name;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};

use crate::datapath::af_xdp::rules::ethtool::EthtoolTable;
use crate::datapath::af_xdp::rules::{self};
use crate::kernel_calls::ignore_requests_to_end;
use crate::sandbox;

/// The argument that makes `culvert` run as this process.
pub const COMMAND: &str = "rule-keeper";
/// What a keeper says when it has its list and is in its sandbox; what that lacks follows.
const READY: &str = "ready";
/// A keeper that takes longer to be ready hangs.
const PATIENCE: Timespec = Timespec { tv_sec: 10, tv_nsec: 0 };
/// A list is no longer: two rules for each of 256 lanes are less.
const LIST_BYTES_MAX: usize = 64 << 10;

/// The keeper's instructions.
#[derive(Debug, Serialize, Deserialize)]
struct List {
    /// The index of the interface.
    interface: u32,
    rules: Vec<SetRule>,
}

/// A running keeper, seen from the data plane. It acts when this is gone.
#[derive(Debug)]
pub struct Keeper {
    /// Never written to again.
    _pipe: OwnedFd,
    process_id: u32,
    sandbox_gaps: Vec<String>,
}

/// Why a process cannot be a keeper.
#[derive(Debug, thiserror::Error)]
pub enum KeeperError {
    /// It received no instructions.
    #[error("this process is started by Culvert's data plane and is not meant to be run directly: {0}")]
    NoList(String),
    /// The operating system refuses.
    #[error("the keeper of the receive rules cannot {what}: {error}")]
    Os {
        /// The operation that failed.
        what: &'static str,
        /// Why it failed.
        error: io::Error,
    },
    /// Rules are still there.
    #[error("{}", .0.join("; "))]
    Left(Vec<String>),
}

impl Keeper {
    /// Starts `program` as the keeper of rules of the interface with this index, and waits until it
    /// is ready.
    ///
    /// # Errors
    /// The operating system's; there is no keeper then.
    pub fn start(program: &Path, interface: u32, rules: &[SetRule]) -> io::Result<Self> {
        let list = postcard::to_stdvec(&List { interface, rules: rules.to_vec() }).map_err(io::Error::other)?;
        let (reads, writes) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let mut command = Command::new(program);
        command.arg0(process_name::PROGRAM).arg(COMMAND).current_dir("/").stdin(reads).stdout(Stdio::piped());
        let mut child = with_inherited_right(|| command.spawn())?;
        drop(command);
        let mut pipe = std::fs::File::from(writes);
        let told = pipe.write_all(&(list.len() as u32).to_ne_bytes()).and_then(|()| pipe.write_all(&list));
        let answer = told.and_then(|()| answer_of(child.stdout.take()));
        match answer {
            Ok(sandbox_gaps) => Ok(Self { _pipe: pipe.into(), process_id: child.id(), sandbox_gaps }),
            Err(error) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(error)
            }
        }
    }

    /// Its process.
    #[must_use]
    pub const fn process_id(&self) -> u32 {
        self.process_id
    }

    /// What of its sandbox could not be had, in words.
    #[must_use]
    pub fn sandbox_gaps(&self) -> &[String] {
        &self.sandbox_gaps
    }
}

/// The keeper's process: standard input is the pipe.
///
/// # Errors
/// [`KeeperError`].
pub fn run() -> Result<(), KeeperError> {
    process_name::set(process_name::RULE_KEEPER);
    ignore_requests_to_end();
    // Not a member of the caller's terminal session: what ends that does not end this.
    let _ = rustix::process::setsid();
    let os = |what| move |error| KeeperError::Os { what, error };
    let mut pipe = io::stdin().lock();
    let list = read_list(&mut pipe)?;
    let mut table = EthtoolTable::open(list.interface).map_err(os("open a socket"))?;
    let mut gaps = Vec::new();
    gaps.extend(sandbox::keep_network_administration().err());
    gaps.extend(sandbox::confine_keeper().err());
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{READY} {}", gaps.join("; ")).and_then(|()| stdout.flush()).map_err(os("answer"))?;
    // Nothing more is said: this is the wait for the pipe's end.
    let mut rest = [0; 64];
    while pipe.read(&mut rest).map_err(os("wait"))? > 0 {}
    let left = rules::remove(&mut table, &list.rules);
    if left.is_empty() { Ok(()) } else { Err(KeeperError::Left(left)) }
}

/// Spawns with the right to change interfaces passed on to a program that has none by its file, and
/// takes that back.
fn with_inherited_right<T>(spawn: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let sets = [CapSet::Inheritable, CapSet::Ambient];
    let had = sets.map(|set| caps::has_cap(None, set, Capability::CAP_NET_ADMIN).unwrap_or(false));
    for set in sets {
        // Root's programs have it without.
        let _ = caps::raise(None, set, Capability::CAP_NET_ADMIN);
    }
    let spawned = spawn();
    for (set, had) in sets.into_iter().zip(had).rev() {
        if !had {
            let _ = caps::drop(None, set, Capability::CAP_NET_ADMIN);
        }
    }
    spawned
}

/// A keeper's one line: that it is ready, and what its sandbox lacks.
fn answer_of(stdout: Option<ChildStdout>) -> io::Result<Vec<String>> {
    let no_answer = || io::Error::other("it did not become ready");
    let mut stdout = stdout.ok_or_else(no_answer)?;
    let mut line = Vec::new();
    let mut buffer = [0; 1_024];
    while !line.ends_with(b"\n") {
        let mut fds = [PollFd::from_borrowed_fd(stdout.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&PATIENCE))? == 0 {
            return Err(no_answer());
        }
        match stdout.read(&mut buffer)? {
            0 => return Err(no_answer()),
            bytes => line.extend_from_slice(&buffer[..bytes]),
        }
    }
    let line = String::from_utf8_lossy(&line);
    let gaps = line.trim_end().strip_prefix(READY).ok_or_else(no_answer)?;
    Ok(gaps.split(';').map(str::trim).filter(|gap| !gap.is_empty()).map(str::to_owned).collect())
}

fn read_list(pipe: &mut impl io::Read) -> Result<List, KeeperError> {
    let no_list = |error: io::Error| KeeperError::NoList(error.to_string());
    let mut length = [0; 4];
    pipe.read_exact(&mut length).map_err(no_list)?;
    let length = u32::from_ne_bytes(length) as usize;
    if length > LIST_BYTES_MAX {
        return Err(KeeperError::NoList("the list is too long".to_owned()));
    }
    let mut list = vec![0; length];
    pipe.read_exact(&mut list).map_err(no_list)?;
    postcard::from_bytes(&list).map_err(|error| KeeperError::NoList(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use culvert_link::kernel_bypass::Family;

    #[test]
    fn a_list_is_read_as_it_was_written_and_nonsense_is_refused() {
        let rule = SetRule { port: 7_273, family: Family::Udp6, queue: 1, location: 1_023 };
        let list = postcard::to_stdvec(&List { interface: 7, rules: vec![rule] }).unwrap();
        let framed = [&(list.len() as u32).to_ne_bytes()[..], &list].concat();
        let read = read_list(&mut &framed[..]).unwrap();
        assert_eq!((read.interface, read.rules), (7, vec![rule]));
        for length in 0..framed.len() {
            assert!(read_list(&mut &framed[..length]).is_err(), "{length} bytes are a list");
        }
        assert!(read_list(&mut &u32::MAX.to_ne_bytes()[..]).is_err());
        // More rules than bytes.
        assert!(read_list(&mut &[3u32.to_ne_bytes().as_slice(), &[7, 0xff, 0x7f]].concat()[..]).is_err());
    }

    #[test]
    fn a_program_that_is_no_keeper_is_an_error() {
        for program in ["/bin/true", "/bin/cat", "/no/such/program"] {
            assert!(Keeper::start(Path::new(program), 1, &[]).is_err(), "{program}");
        }
    }
}
