//! One end of a measurement: a datapath that is open, and for AF_XDP what a control process would otherwise do for it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use super::{LimitError, LimitResult, RECEIVE_BUFFER_BYTES, Work, receive_over, send_over};
use crate::datapath::Datapath;
use crate::datapath::af_xdp::ladder::{self, LaneDatapath};
use crate::datapath::af_xdp::steering::Steering;
use crate::datapath::udp::UdpDatapath;
use culvert_link::clock::monotonic_ns;
use culvert_link::kernel_bypass::AfXdpStart;
use culvert_link::kernel_bypass::Mode;
use culvert_link::kernel_bypass::NextHop;

/// How often a next hop is looked for that is not known yet.
const LOOK_NS: u64 = 10_000_000;
/// For how long frames that are under way are waited for at the end.
const SETTLE_NS: u64 = 1_000_000_000;

/// Finds the next hop towards an address, if it is known by now.
pub type FindHop = Box<dyn FnMut(IpAddr) -> Option<NextHop> + Send>;

/// Next hops for a datapath that needs them.
pub(super) struct Hops {
    find: Option<FindHop>,
    next_ns: u64,
}

impl fmt::Debug for Hops {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hops").field("wanted", &self.find.is_some()).finish_non_exhaustive()
    }
}

impl Hops {
    /// Tells the datapath the way to the partner, once it is known. Until then its datagrams go through the kernel, which finds it.
    pub(super) fn look(&mut self, datapath: &mut impl Datapath, to: IpAddr) {
        let Some(find) = &mut self.find else { return };
        let now_ns = monotonic_ns();
        if now_ns < self.next_ns {
            return;
        }
        self.next_ns = now_ns + LOOK_NS;
        if let Some(hop) = find(to) {
            datapath.set_next_hop(to, Some(&hop));
            self.find = None;
        }
    }
}

/// One end of a measurement, open and not running yet.
#[derive(Debug)]
pub struct LimitEnd {
    datapath: LaneDatapath,
    /// Leads packets to the rings for as long as it lives.
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
    /// [`LimitError::NoAfXdp`] with what each mode lacks: measuring another datapath instead would mislead.
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

    /// Receives one run: opens what is sealed, acknowledges, and returns when the sender ends or falls silent.
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

    /// Frames that are neither in the pool nor, for packets to come, at the kernel, after those under way had time to return.
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
