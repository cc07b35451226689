//! A flood of small datagrams that are not segments, at a million per second if the core can.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// Datagrams of one call, segmented by the kernel (`UDP_MAX_SEGMENTS` of older kernels).
const DATAGRAMS: usize = 64;
const DATAGRAM_BYTES: usize = 64;
/// The target rate.
const PER_SECOND: f64 = 1e6;

/// Sends until it is killed; prints its rate on standard error every second.
pub fn send(to: SocketAddr) -> anyhow::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(to)?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &(DATAGRAM_BYTES as i32))?;
    let junk = [0x5a; DATAGRAMS * DATAGRAM_BYTES];
    let (began, mut sent, mut told) = (Instant::now(), 0u64, 0.0);
    loop {
        let elapsed = began.elapsed().as_secs_f64();
        if (sent as f64) < elapsed * PER_SECOND {
            // What the kernel refuses now is sent in the next round.
            if socket.send(&junk).is_ok() {
                sent += DATAGRAMS as u64;
            }
        } else {
            std::thread::sleep(Duration::from_micros(50));
        }
        if elapsed - told >= 1.0 {
            told = elapsed;
            eprintln!("{sent}");
        }
    }
}
