//! Somebody who takes whatever there is to take: the same thing again and again, at a given rate,
//! without giving anything back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::node::wait_for;

/// A greedy stranger at work until it is dropped.
#[derive(Debug)]
pub struct Greedy {
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Greedy {
    /// Calls `take` this many times a second and keeps the last `held_max` results; what failed is
    /// tried again.
    #[must_use]
    pub fn start<T: Send + 'static>(
        per_second: u32,
        held_max: usize,
        mut take: impl FnMut() -> Option<T> + Send + 'static,
    ) -> Self {
        let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (stop.clone(), count.clone());
        let thread = std::thread::spawn(move || {
            let mut held = VecDeque::with_capacity(held_max);
            let mut next = Instant::now();
            while !stopped.load(Ordering::Relaxed) {
                if let Some(taken) = take() {
                    counted.fetch_add(1, Ordering::Relaxed);
                    if held.len() == held_max {
                        held.pop_front();
                    }
                    held.push_back(taken);
                }
                // One that was slow for a while does not make up for it in a burst.
                next = (next + Duration::from_secs(1) / per_second).max(Instant::now() - Duration::from_millis(100));
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
        });
        Self { stop, count, thread: Some(thread) }
    }

    /// How many times it has taken something.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// Waits until it has taken something this many times.
    ///
    /// # Panics
    /// If that takes too long.
    pub fn wait_for(&self, count: u64) {
        wait_for("a greedy one at work", || (self.count() >= count).then_some(()));
    }
}

impl Drop for Greedy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(!matches!(ended, Some(Err(_))) || std::thread::panicking(), "the greedy one's thread panicked");
    }
}
