//! What is known of a flow's place.

use std::net::SocketAddr;
use std::time::Instant;

/// What is known of a flow's place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    /// Where it was sent from when the transfer began.
    pub(super) source: SocketAddr,
    /// The port of its lane here.
    pub(super) port: u16,
    /// Which flow of its lane it is.
    pub(super) nth: u32,
    pub(super) moves: u32,
    pub(super) moved_at: Option<Instant>,
}

impl Place {
    pub(super) const fn new(source: SocketAddr, port: u16, nth: u32) -> Self {
        Self { source, port, nth, moves: 0, moved_at: None }
    }
}
