//! What netlink says when it does not do as it is asked.

/// A request that the kernel refused, or that could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {reason}")]
pub struct NetlinkError {
    /// What was asked.
    pub request: String,
    /// The kernel's errno, if it answered with one.
    pub errno: Option<i32>,
    /// The reason in words: the kernel's own where it gives one.
    pub reason: String,
}
