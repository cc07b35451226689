//! Probes between two nodes: echoes, MTU, trains, traces. Each is a function that blocks for a
//! bounded time and belongs on its own thread; [`ramp`] and [`mtu`] decide what to send next, as
//! pure functions of what came back.
//!
//! All packets are authenticated STAMP packets. Their SSID is the step's number.

pub mod echo;
pub mod mtu;
pub mod ramp;
pub mod reflect;
pub mod trace;
pub mod train;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stamp::Authentication;

/// Bytes asked for each probing socket.
pub const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// The shortest probe.
pub const PROBE_BYTES_MIN: u16 = crate::stamp::packet::SEALED_BYTES as u16;

/// The key of a check's probes, from the control connection's secret.
#[must_use]
pub fn authentication(secret: &[u8]) -> Authentication {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    Authentication::with_secret(aws_lc_rs::hmac::sign(&key, b"culvert path probes 1").as_ref())
}

/// Tells a probe that it is over.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// It is over.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it is.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Signals the end when dropped: a probe does not outlive those who wait for it.
    #[must_use]
    pub fn on_drop(&self) -> StopOnDrop {
        StopOnDrop(self.clone())
    }
}

/// See [`Stop::on_drop`].
#[derive(Debug)]
pub struct StopOnDrop(Stop);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}
