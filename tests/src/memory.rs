//! How much of the host's memory a node's processes take, and how much they may take.
//!
//! A process's own memory counts: `RssAnon` (heap and stacks) and `RssFile` (the pages of the
//! program that it has touched) in `/proc/PID/status`. `RssShmem` and hugepages do not count: they
//! are the memory of chunk buffers and rings, which an admin configures (`--memory`), and which
//! both processes map. The frames of AF_XDP are part of it, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crate::node::RunningNode;

/// What the control process of an idle node may have.
pub const IDLE_KIB_MAX: u64 = 30 << 10;
/// How much of that may be heap and stacks.
pub const IDLE_HEAP_KIB_MAX: u64 = 10 << 10;
/// What either process of a node may have, whatever strangers and partners do to it.
pub const ATTACKED_KIB_MAX: u64 = 256 << 10;

/// A process's own memory, in KiB; 0 if it is gone.
#[must_use]
pub fn own_kib(process: u32) -> u64 {
    status_kib(process, "RssAnon:") + status_kib(process, "RssFile:")
}

/// A process's heap and stacks, in KiB; 0 if it is gone.
#[must_use]
pub fn heap_kib(process: u32) -> u64 {
    status_kib(process, "RssAnon:")
}

/// The most memory that a node's processes have had while it is watched.
#[derive(Debug)]
pub struct MemoryWatch {
    stop: Arc<AtomicBool>,
    most: Arc<[AtomicU64; 2]>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl MemoryWatch {
    /// Begins watching.
    #[must_use]
    pub fn of(node: &RunningNode) -> Self {
        let processes = [node.process_id(), node.data_plane()];
        let (stop, most) = (Arc::new(AtomicBool::new(false)), Arc::new([AtomicU64::new(0), AtomicU64::new(0)]));
        let (stopped, seen) = (stop.clone(), most.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                for (process, most) in processes.iter().zip(seen.iter()) {
                    most.fetch_max(own_kib(*process), Ordering::Relaxed);
                }
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, most, thread: Some(thread) }
    }

    /// The most so far, in KiB: of the control process and of the data plane.
    #[must_use]
    pub fn most(&self) -> (u64, u64) {
        (self.most[0].load(Ordering::Relaxed), self.most[1].load(Ordering::Relaxed))
    }

    /// Asserts that neither process has had more than it may, whoever did what.
    ///
    /// # Panics
    /// If one has.
    pub fn assert_bounded(&self, attack: &str) {
        self.assert_below(attack, ATTACKED_KIB_MAX);
    }

    /// As [`MemoryWatch::assert_bounded`], with another bound.
    ///
    /// # Panics
    /// If one has had more.
    pub fn assert_below(&self, attack: &str, kib_max: u64) {
        let (control, data_plane) = self.most();
        eprintln!("{attack}: the control process had {control} KiB at most, the data plane {data_plane} KiB");
        assert!(control > 0, "nothing was seen of the control process");
        assert!(control <= kib_max, "{attack}: the control process grew to {control} KiB");
        assert!(data_plane <= kib_max, "{attack}: the data plane grew to {data_plane} KiB");
    }
}

impl Drop for MemoryWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn status_kib(process: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok()).unwrap_or(0)
}
