//! Ends a transfer that makes no progress although everything around it is alive.
//!
//! A dead process, a cut connection and a dark path are detected directly. What remains are
//! transfers in which both nodes answer each other but nothing moves: a disk that hangs, a partner
//! that gives no credit, a defect in one of the programs. From outside they look the same: nothing
//! new for a long time. The transfer then ends with a reason that says what it was waiting for, and
//! is retried from the journal like one whose connection was lost.

use std::time::{Duration, Instant};

use culvert_protocol::control::RefusalCode;

use crate::error::TransferError;

/// How long a transfer may make no progress by default: longer than a file server takes to restart.
pub const PATIENCE_DEFAULT: Duration = Duration::from_secs(600);

/// Watches that a transfer makes progress.
#[derive(Clone, Copy, Debug)]
pub struct ProgressWatchdog {
    /// How long it may make no progress; no limit if none.
    limit: Option<Duration>,
    /// The most so far. Data that is lost and comes again is no progress.
    progress: u64,
    since: Instant,
}

impl ProgressWatchdog {
    /// A transfer that begins now.
    #[must_use]
    pub const fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { limit, progress: 0, since: now }
    }

    /// How long there was no progress.
    #[must_use]
    pub fn still_for(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.since)
    }

    /// Checks whether `progress`, which grows with everything that advances the transfer, has grown
    /// recently. `outstanding` says what is incomplete, and whose turn it is.
    ///
    /// # Errors
    /// [`TransferError`], temporary, if it has not.
    pub fn check(
        &mut self,
        progress: u64,
        now: Instant,
        outstanding: impl FnOnce() -> String,
    ) -> Result<(), TransferError> {
        if progress > self.progress {
            (self.progress, self.since) = (progress, now);
            return Ok(());
        }
        match self.limit {
            Some(limit) if now.saturating_duration_since(self.since) >= limit => {
                let text = format!(
                    "the transfer made no progress for {} s although both nodes are alive ({}): it \
                     was abandoned and can be resumed from what is stored",
                    limit.as_secs(),
                    outstanding()
                );
                Err(TransferError::here(RefusalCode::Temporary, text))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_ends_when_nothing_changes_and_begins_anew_when_something_does() {
        let began = Instant::now();
        let at = |seconds| began + Duration::from_secs(seconds);
        let mut patience = ProgressWatchdog::new(Some(Duration::from_secs(10)), began);
        let what = || "a chunk".to_owned();
        assert!(patience.check(0, at(9), what).is_ok());
        assert!(patience.check(1, at(9), what).is_ok());
        assert!(patience.check(1, at(18), what).is_ok());
        assert!(patience.check(0, at(18), what).is_ok(), "what is lost and comes again is no progress");
        assert_eq!(patience.still_for(at(18)), Duration::from_secs(9));
        let error = patience.check(1, at(19), what).unwrap_err();
        assert!(error.is_worth_another_try() && error.to_string().contains("a chunk"), "{error}");
        let mut endless = ProgressWatchdog::new(None, began);
        assert!(endless.check(0, at(1 << 30), what).is_ok());
    }
}
