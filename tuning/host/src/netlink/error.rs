//! The error of a netlink request.

/// A request that the kernel refused, or that could not be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{request}: {reason}")]
pub struct NetlinkError {
    /// The request in words.
    pub request: String,
    /// The kernel's errno, if it answered with one.
    pub errno: Option<i32>,
    /// The reason, in the kernel's words if it gave any.
    pub reason: String,
}
