//! Probes between two nodes: echoes, MTU, trains, traces.
//!
//! Each probe is a function that blocks for a bounded time and belongs on its own thread. [`ramp`]
//! and [`mtu`] decide what to send next, as pure functions of the results so far.

pub mod echo;
pub mod mtu;
pub mod ramp;
pub mod reflect;
pub mod trace;
pub mod train;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::stamp::Authentication;

/// Buffer bytes requested for each probing socket.
pub const SOCKET_BUFFER_BYTES: usize = 16 << 20;
/// UDP payload of the shortest probe.
//= P-1
//# A probe is a STAMP packet in authenticated mode (RFC 8762 4.2.2, 4.3.2), 112 bytes and Extra
//# Padding (RFC 8972 4.1). Its SSID is the step's number.
pub const PROBE_BYTES_MIN: u16 = crate::stamp::packet::SEALED_BYTES as u16;

/// The key of a check's probes, from the control connection's secret.
//= P-2
//# The key is HMAC-SHA-256(exporter secret of the control connection, `culvert path probes 1`).
#[must_use]
pub fn authentication(secret: &[u8]) -> Authentication {
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, secret);
    Authentication::with_secret(aws_lc_rs::hmac::sign(&key, b"culvert path probes 1").as_ref())
}

/// Stops a probe from another thread.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Stops the probe.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the probe is to stop.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    /// Stops the probe when dropped, so that it does not outlive the task that waits for it.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stamp::sender::SenderConfig;
    use crate::stamp::{Request, SenderSession};

    #[test]
    fn a_probe_is_an_authenticated_stamp_packet_whose_ssid_is_the_step() {
        //= P-1
        //# A probe is a STAMP packet in authenticated mode (RFC 8762 4.2.2, 4.3.2), 112 bytes and
        //# Extra Padding (RFC 8972 4.1). Its SSID is the step's number.
        //= P-2
        //# The key is HMAC-SHA-256(exporter secret of the control connection, `culvert path probes
        //# 1`).
        let key = authentication(b"exporter secret");
        let secret = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, b"exporter secret");
        let same = aws_lc_rs::hmac::sign(&secret, b"culvert path probes 1");
        let config = SenderConfig { authentication: key, packet_bytes: 400, ..SenderConfig::stamp(9) };
        let mut session = SenderSession::new(config, crate::clock::ClockQuality::UNKNOWN);
        let mut packet = Vec::new();
        session.next_request(1_800_000_000_000_000_000, &mut packet);
        let read = Request::read(&Authentication::with_secret(same.as_ref()), &packet).expect("the key is this one");
        assert_eq!((read.ssid, PROBE_BYTES_MIN, packet.len()), (9, 112, 400));
        // Everything beyond 112 bytes is the Extra Padding TLV.
        assert_eq!(packet[112..116], [0x80, 1, 1, 28]);
        assert!(Request::read(&authentication(b"another secret"), &packet).is_err());
    }
}
