//! Limits the descriptors of nameless files, so that a slow disk does not use up those that
//! everything else needs.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use culvert_system::descriptors::descriptors_to_share;

/// Descriptors of all transfers' staged files; the condition is notified when some are returned.
static DESCRIPTORS_STAGED: (Mutex<u64>, Condvar) = (Mutex::new(0), Condvar::new());
/// How long a pack waits for descriptors. On a slower disk, temporary names are used.
const PLACES_PATIENCE: Duration = Duration::from_secs(5);
/// Descriptors of one staged file: its own, and its directory's, which files usually share.
const DESCRIPTORS_PER_FILE: u64 = 2;

/// The right to keep a nameless file open until it has its name.
#[derive(Debug)]
pub(super) struct DescriptorPlaces;

impl DescriptorPlaces {
    fn limit() -> u64 {
        descriptors_to_share() / 2
    }

    fn staged() -> MutexGuard<'static, u64> {
        DESCRIPTORS_STAGED.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until `files` more can be staged. The committer, which never waits here, frees
    /// descriptors.
    pub(super) fn wait_for(files: usize) {
        let wanted = files as u64 * DESCRIPTORS_PER_FILE;
        if wanted <= Self::limit() {
            let is_full = |staged: &mut u64| *staged + wanted > Self::limit();
            let _ = DESCRIPTORS_STAGED.1.wait_timeout_while(Self::staged(), PLACES_PATIENCE, is_full);
        }
    }

    /// `None` if staged files have reached the limit.
    pub(super) fn take() -> Option<Self> {
        let mut staged = Self::staged();
        if *staged + DESCRIPTORS_PER_FILE > Self::limit() {
            return None;
        }
        *staged += DESCRIPTORS_PER_FILE;
        // Invariant I-descriptors-staged: staged files never hold more descriptors than their half
        // of this process's limit.
        assert!(*staged <= Self::limit(), "staged files stay within their half of the descriptors");
        Some(Self)
    }
}

impl Drop for DescriptorPlaces {
    fn drop(&mut self) {
        let mut staged = Self::staged();
        *staged -= DESCRIPTORS_PER_FILE;
        // Waiters need descriptors for a whole pack, so not every file wakes them.
        if *staged == 0 || staged.is_multiple_of(32) {
            DESCRIPTORS_STAGED.1.notify_all();
        }
    }
}
