//! One end of a measurement: a datapath that is open, and for AF_XDP what a control process would
//! otherwise do for it.

use std::net::{IpAddr, SocketAddr};

use culvert_link::clock::monotonic_ns;
use culvert_link::kernel_bypass::{AfXdpStart, Mode};

use super::hops::{FindHop, Hops};
use super::measuring::{LimitError, LimitResult, RECEIVE_BUFFER_BYTES, Work, receive_over, send_over};
use crate::datapath::Datapath;
use crate::datapath::af_xdp::ladder::{self, LaneDatapath};
use crate::datapath::af_xdp::steering::Steering;
use crate::datapath::udp::UdpDatapath;

/// What a UDP sender's socket holds.
const SEND_BUFFER_BYTES: usize = 4 << 20;
/// How long to wait at the end for frames that the kernel has.
const SETTLE_NS: u64 = 1_000_000_000;

/// One end of a measurement, open and not running yet.
#[derive(Debug)]
pub struct LimitEnd {
    datapath: LaneDatapath,
    /// Directs packets to the rings as long as it lives.
    steering: Option<(Steering, Mode)>,
    hops: Hops,
}

impl LimitEnd {
    /// An end on a UDP socket.
    ///
    /// # Errors
    /// [`LimitError::Open`].
    pub fn udp(bind: IpAddr, port: u16, socket_buffer_bytes: usize) -> Result<Self, LimitError> {
        let datapath = LaneDatapath::Udp(UdpDatapath::open(bind, port, socket_buffer_bytes)?);
        Ok(Self { datapath, steering: None, hops: Hops { find: None, next_ns: 0 } })
    }

    /// An end on AF_XDP, in the best mode that `start` permits.
    ///
    /// # Errors
    /// [`LimitError::NoAfXdp`] with what each mode lacks: measuring another datapath instead would
    /// mislead.
    pub fn af_xdp(start: &AfXdpStart, bind: IpAddr, port: u16, find: FindHop) -> Result<Self, LimitError> {
        let udp = UdpDatapath::open(bind, port, RECEIVE_BUFFER_BYTES)?;
        let mut opened =
            ladder::open(start, vec![udp]).map_err(|error| LimitError::NoAfXdp(vec![error.to_string()]))?;
        let (Some((mut steering, mode)), Some(datapath)) = (opened.steering, opened.lanes.pop()) else {
            return Err(LimitError::NoAfXdp(opened.refusals));
        };
        // The one flow of a measurement.
        steering.add_flow(0, 0).map_err(|error| LimitError::NoAfXdp(vec![error.to_string()]))?;
        Ok(Self { datapath, steering: Some((steering, mode)), hops: Hops { find: Some(find), next_ns: 0 } })
    }

    /// Its UDP port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.datapath.udp().port().unwrap_or(0)
    }

    /// The mode of AF_XDP, if it is on AF_XDP.
    #[must_use]
    pub fn mode(&self) -> Option<Mode> {
        self.steering.as_ref().map(|&(_, mode)| mode)
    }

    /// Receives one run: decrypts, acknowledges, and returns when the sender ends or falls silent.
    #[must_use]
    pub fn receive(mut self) -> LimitResult {
        let mut result = match &mut self.datapath {
            LaneDatapath::Udp(datapath) => receive_over(datapath, &mut self.hops),
            LaneDatapath::AfXdp(datapath) => receive_over(&mut **datapath, &mut self.hops),
        };
        result.frames_missing = self.frames_missing();
        result
    }

    /// Sends.
    ///
    /// # Errors
    /// [`LimitError`].
    pub fn send(mut self, to: SocketAddr, work: Work) -> Result<LimitResult, LimitError> {
        let mut result = match &mut self.datapath {
            LaneDatapath::Udp(datapath) => send_over(datapath, &mut self.hops, to, work),
            LaneDatapath::AfXdp(datapath) => send_over(&mut **datapath, &mut self.hops, to, work),
        }?;
        result.frames_missing = self.frames_missing();
        Ok(result)
    }

    /// Frames that are neither in the pool nor, for incoming packets, with the kernel, after those
    /// in flight had time to return.
    fn frames_missing(&mut self) -> usize {
        let LaneDatapath::AfXdp(datapath) = &mut self.datapath else { return 0 };
        let give_up_ns = monotonic_ns() + SETTLE_NS;
        loop {
            let Some(census) = datapath.ring_census() else { return 0 };
            let missing = census.receive.held + census.transmit.held + census.transmit.kernel;
            if missing == 0 || monotonic_ns() > give_up_ns {
                return missing;
            }
            std::thread::yield_now();
        }
    }
}

/// A receiver on a UDP socket, bound and not running yet.
#[derive(Debug)]
pub struct LimitReceiver {
    end: LimitEnd,
}

impl LimitReceiver {
    /// Binds `address` and `port` (0 for any).
    ///
    /// # Errors
    /// [`LimitError::Open`].
    pub fn bind(address: IpAddr, port: u16) -> Result<Self, LimitError> {
        Ok(Self { end: LimitEnd::udp(address, port, RECEIVE_BUFFER_BYTES)? })
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.end.port()
    }

    /// Receives one run: opens what is sealed, acknowledges, and returns when the sender ends or
    /// falls silent.
    #[must_use]
    pub fn run(self) -> LimitResult {
        self.end.receive()
    }
}

/// Sends to a receiver from a UDP socket for `seconds`, in datagrams of `datagram_bytes`; sealed,
/// or bare for the ledger.
///
/// # Errors
/// [`LimitError`].
pub fn send_limit(
    to: SocketAddr,
    datagram_bytes: usize,
    seconds: f64,
    sealed: bool,
) -> Result<LimitResult, LimitError> {
    let bind = if to.is_ipv6() { "::" } else { "0.0.0.0" };
    let bind = bind.parse().expect("a constant address");
    let work = Work { datagram_bytes, seconds, sealed, windowed: true };
    LimitEnd::udp(bind, 0, SEND_BUFFER_BYTES)?.send(to, work)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_count_the_same() {
        for sealed in [true, false] {
            let receiver = LimitReceiver::bind("127.0.0.1".parse().unwrap(), 0).unwrap();
            let to = SocketAddr::new("127.0.0.1".parse().unwrap(), receiver.port());
            let receiving = std::thread::spawn(move || receiver.run());
            let sent = send_limit(to, 1_472, 0.2, sealed).unwrap();
            let received = receiving.join().unwrap();
            assert!(received.bytes > 0);
            assert!(sent.bytes <= received.bytes, "{} acknowledged, {} received", sent.bytes, received.bytes);
        }
    }

    #[test]
    fn a_receiver_that_is_not_there_is_named() {
        let nobody = "127.0.0.1:1".parse().unwrap();
        let error = send_limit(nobody, 1_472, 30.0, true).unwrap_err().to_string();
        assert!(error.contains("127.0.0.1:1"), "{error}");
        assert!(send_limit(nobody, 100, 0.1, true).is_err());
    }
}
