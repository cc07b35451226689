//! What stands before each line on standard error: nothing, or the time where the lines are a log
//! and nobody else notes it.

use std::sync::OnceLock;

static STAMP: OnceLock<fn() -> String> = OnceLock::new();

/// From now on each line of [`crate::say_aside`] begins with what this returns.
pub fn stamp_with(stamp: fn() -> String) {
    // A process is a node once.
    let _ = STAMP.set(stamp);
}

/// What the next line begins with.
#[must_use]
pub fn stamp() -> String {
    STAMP.get().map_or_else(String::new, |stamp| stamp())
}
