//! A disk for a state directory that counts the changes made on it and, on request, is slow, is
//! full, or kills the process that writes.
//!
//! It is a FUSE file system in the memory of this process. So the program under test runs
//! unmodified, and every single change to its records, receipts and journals can be made the last
//! one before a crash, or the first that finds no room. The kernel reports which thread makes a
//! request, so it can be shown that a thread never makes one.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::folding_disk;
use crate::fuse::{Answer, Request, serve_in_time};
use crate::memory_tree::{ROOT, Tree};
use crate::node::kill;

// enum fuse_opcode
const SET_ATTRIBUTES: u32 = 4;
const SYMLINK: u32 = 6;
const MAKE_NODE: u32 = 8;
const MAKE_DIRECTORY: u32 = 9;
const UNLINK: u32 = 10;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const RELEASE_DIRECTORY: u32 = 29;
const FSYNC_DIRECTORY: u32 = 30;
const CREATE: u32 = 35;
const RENAME_2: u32 = 45;
/// `FATTR_SIZE`.
const SETS_SIZE: u32 = 8;

/// The prefix of a partial file's name.
const PARTIAL_PREFIX: &str = "/.culvert-partial-";

/// What happens at a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The process dies before the change is made.
    KillBefore(u32),
    /// The process dies when the change is made.
    KillAfter(u32),
    /// The disk is full from then on.
    Fill,
}

#[derive(Debug, Default)]
struct Plan {
    changes: u64,
    fault: Option<(u64, Fault)>,
    is_full: bool,
    flush_takes: Duration,
    removal_takes: Duration,
    removals: u64,
    partial_files: BTreeSet<String>,
    watched: Option<u32>,
    asked: BTreeSet<String>,
}

/// A mounted disk, unmounted when it is dropped; whoever has files open on it must have ended by
/// then.
#[derive(Debug)]
pub struct StateDisk {
    /// Where it is mounted.
    pub mounted: PathBuf,
    plan: Arc<Mutex<Plan>>,
    server: Option<JoinHandle<()>>,
    /// Its own, because a directory that something is mounted on cannot be removed.
    _room: tempfile::TempDir,
}

/// Why such a disk is not possible here, if it is not.
#[must_use]
pub fn missing() -> Option<&'static str> {
    folding_disk::missing()
}

fn lock(plan: &Mutex<Plan>) -> MutexGuard<'_, Plan> {
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StateDisk {
    /// An empty one.
    ///
    /// # Panics
    /// If it cannot be mounted although nothing is [`missing`].
    #[must_use]
    pub fn new() -> Self {
        let room = tempfile::Builder::new().prefix("culvert-disk-").tempdir().expect("a directory can be made");
        let mounted = room.path().join("disk");
        fs::create_dir(&mounted).expect("a directory can be made");
        let plan = Arc::new(Mutex::new(Plan::default()));
        let mut serving = Serving {
            tree: Tree::new(<[u8]>::to_vec),
            paths: HashMap::from([(ROOT, String::new())]),
            plan: plan.clone(),
        };
        let server = serve_in_time(&mounted, "40755", move |request| serving.answer(request));
        Self { mounted, plan, server: Some(server), _room: room }
    }

    /// Makes `fault` happen at the change with this number, counted from now and starting at 0.
    pub fn set_fault(&self, at: u64, fault: Fault) {
        let mut plan = lock(&self.plan);
        (plan.changes, plan.fault) = (0, Some((at, fault)));
    }

    /// Changes since the fault was set, and whether it has happened.
    #[must_use]
    pub fn changes(&self) -> (u64, bool) {
        let plan = lock(&self.plan);
        (plan.changes, plan.fault.is_none())
    }

    /// Cancels the fault, and gives a full disk room again.
    pub fn make_room(&self) {
        let mut plan = lock(&self.plan);
        (plan.fault, plan.is_full) = (None, false);
    }

    /// Sets how long a flush takes.
    pub fn set_flush_takes(&self, time: Duration) {
        lock(&self.plan).flush_takes = time;
    }

    /// Sets how long the removal of a file takes.
    pub fn set_removal_takes(&self, time: Duration) {
        lock(&self.plan).removal_takes = time;
    }

    /// How many removals of files were requested.
    #[must_use]
    pub fn removals(&self) -> u64 {
        lock(&self.plan).removals
    }

    /// The partial files on it whose removal has not been requested yet. Unlike a listing, this
    /// does not wait for a slow removal.
    #[must_use]
    pub fn partial_files(&self) -> BTreeSet<String> {
        lock(&self.plan).partial_files.clone()
    }

    /// From now on, notes what a thread asks of this disk.
    pub fn watch(&self, thread: u32) {
        let mut plan = lock(&self.plan);
        plan.watched = Some(thread);
        plan.asked.clear();
    }

    /// What the watched thread has asked for.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        lock(&self.plan).asked.iter().cloned().collect()
    }
}

impl Default for StateDisk {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for StateDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.mounted, UnmountFlags::empty()).or_else(|_| unmount(&self.mounted, UnmountFlags::DETACH));
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

struct Serving {
    tree: Tree,
    /// Where nodes were created, or renamed to.
    paths: HashMap<u64, String>,
    plan: Arc<Mutex<Plan>>,
}

impl Serving {
    fn answer(&mut self, request: Request<'_>) -> (Answer, Duration) {
        let path = self.path_of(request);
        let plan = self.plan.clone();
        let mut plan = lock(&plan);
        // What a node prints goes into its log, whichever thread prints it.
        if plan.watched == Some(request.thread) && !path.ends_with("node.log") {
            plan.asked.insert(format!("{} of {path}", name_of(request.operation)));
        }
        let is_change =
            is_change(request) && ["/transfers", "/receipts", "/journals"].iter().any(|of| path.contains(of));
        let mut fault = None;
        if is_change {
            let number = plan.changes;
            fault = plan.fault.take_if(|(at, _)| *at == number).map(|(_, fault)| fault);
            plan.changes += 1;
        }
        match fault {
            Some(Fault::Fill) => plan.is_full = true,
            Some(Fault::KillBefore(process)) => {
                kill(process);
                return (Some(Err(Errno::IO)), Duration::ZERO);
            }
            Some(Fault::KillAfter(_)) | None => {}
        }
        if plan.is_full && needs_room(request.operation) && !path.ends_with("node.log") {
            return (Some(Err(Errno::NOSPC)), Duration::ZERO);
        }
        if request.operation == UNLINK {
            plan.removals += 1;
            plan.partial_files.remove(&path);
        }
        let time = match request.operation {
            FSYNC | FSYNC_DIRECTORY => plan.flush_takes,
            UNLINK => plan.removal_takes,
            _ => Duration::ZERO,
        };
        let answer = self.tree.answer(request.operation, request.node, request.body);
        if let Some(Ok(answer)) = &answer {
            if request.operation == CREATE && path.contains(PARTIAL_PREFIX) {
                plan.partial_files.insert(path.clone());
            }
            self.note_path(request, answer, path);
        }
        if let Some(Fault::KillAfter(process)) = fault {
            kill(process);
        }
        (answer, time)
    }

    /// The path that a request is about.
    fn path_of(&self, Request { operation, node, body, .. }: Request<'_>) -> String {
        let of_node = self.paths.get(&node).cloned().unwrap_or_default();
        // Where the name is in the body.
        let at = match operation {
            UNLINK => 0,
            MAKE_DIRECTORY | RENAME | LINK => 8,
            MAKE_NODE | CREATE | RENAME_2 => 16,
            _ => return of_node,
        };
        let name = body.strings(at).next().unwrap_or_default();
        format!("{of_node}/{}", String::from_utf8_lossy(name))
    }

    fn note_path(&mut self, request: Request<'_>, answer: &[u8], path: String) {
        match request.operation {
            MAKE_DIRECTORY | MAKE_NODE | CREATE => {
                if let Some(made) = answer.first_chunk() {
                    self.paths.insert(u64::from_le_bytes(*made), path);
                }
            }
            RENAME | RENAME_2 => {
                let at = if request.operation == RENAME { 8 } else { 16 };
                let to = self.paths.get(&request.body.long(0)).cloned().unwrap_or_default();
                let new = request.body.strings(at).nth(1).unwrap_or_default();
                let new = format!("{to}/{}", String::from_utf8_lossy(new));
                // The newest, if there were others with that name.
                if let Some((_, named)) = self.paths.iter_mut().filter(|(_, named)| **named == path).max() {
                    *named = new;
                }
            }
            _ => {}
        }
    }
}

fn is_change(request: Request<'_>) -> bool {
    match request.operation {
        SET_ATTRIBUTES => request.body.word(0) & SETS_SIZE != 0,
        CREATE | WRITE | FSYNC | FSYNC_DIRECTORY | RENAME | RENAME_2 | UNLINK | LINK => true,
        _ => false,
    }
}

/// What a full disk refuses. This includes a flush, because many file systems look for room only
/// then.
const fn needs_room(operation: u32) -> bool {
    matches!(
        operation,
        SYMLINK | MAKE_NODE | MAKE_DIRECTORY | RENAME | RENAME_2 | LINK | WRITE | FSYNC | FSYNC_DIRECTORY | CREATE
    )
}

fn name_of(operation: u32) -> String {
    let name = match operation {
        WRITE => "a write",
        FSYNC | FSYNC_DIRECTORY => "a flush",
        RENAME | RENAME_2 => "a rename",
        UNLINK => "the removal",
        CREATE => "the making",
        FLUSH | RELEASE | RELEASE_DIRECTORY => "the closing",
        operation => return format!("request {operation}"),
    };
    name.to_owned()
}
