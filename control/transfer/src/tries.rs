//! How often a chunk is sent.

/// A chunk whose bytes were wrong so often is not asked for again.
pub(super) const TRIES_MAX: u32 = 3;
