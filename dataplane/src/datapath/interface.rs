//! What every datapath is to a lane.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::BorrowedFd;

use culvert_link::capture::Tap;
use culvert_link::kernel_bypass::NextHop;

use super::af_xdp::umem::Account;
use super::udp::socket::QueueCondition;
use super::udp::source::SourceSocket;

/// Between which ends a run of datagrams goes.
#[derive(Clone, Copy, Debug)]
pub struct Endpoints<'a> {
    /// To whom.
    pub to: SocketAddr,
    /// From which port; `None` is the lane's own.
    pub source: Option<&'a SourceSocket>,
}

impl From<SocketAddr> for Endpoints<'_> {
    fn from(to: SocketAddr) -> Self {
        Self { to, source: None }
    }
}

/// How a datagram came.
#[derive(Clone, Copy, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub from: SocketAddr,
    /// Whether it came through the kernel although the lane has rings.
    pub is_astray: bool,
    /// When it was taken, which is never before it came: if a lane that was kept from its core
    /// used an earlier time, the measured delay would be below the path's, and all later delays
    /// are compared with the minimum.
    pub taken_ns: u64,
}

/// What came of an attempt to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SendOutcome {
    /// Datagrams sealed. They count as sent even if the network then refused them.
    pub datagrams: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Whether the datapath has no room for more now.
    pub is_blocked: bool,
    /// The operating system's error number, if the network refused.
    pub error: Option<i32>,
}

/// Datagrams of a datapath with rings, through the rings and through the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DatagramCounts {
    /// Datagrams that came through the rings.
    pub ring_received: u64,
    /// Datagrams that came through the kernel.
    pub kernel_received: u64,
    /// Datagrams that left through the rings.
    pub ring_sent: u64,
    /// Datagrams that left through the kernel.
    pub kernel_sent: u64,
}

/// Where the frames of a datapath's packet memory are, and what its rings have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCensus {
    /// Frames for packets that arrive.
    pub receive: Account,
    /// Frames for packets that leave.
    pub transmit: Account,
    /// Of the receive frames that the kernel has, those that lie in a ring. The rest is in the
    /// NIC's hands; in copy mode the kernel keeps back at most a few.
    pub receive_in_rings: usize,
    /// Descriptors from the kernel that made no sense.
    pub malformed: u64,
    /// Calls that woke the kernel.
    pub wakeups: u64,
}

/// How a lane sends and receives.
pub trait Datapath {
    /// The time by which the lane lives, in nanoseconds.
    fn now_ns(&self) -> u64;

    /// Takes what has arrived, up to a batch, and hands each datagram and how it came to `each`.
    /// Returns how many there were.
    fn receive(&mut self, each: impl FnMut(&[u8], Arrival)) -> usize;

    /// As [`Datapath::receive`], of what was sent to another port than the lane's own.
    fn receive_at(&mut self, _source: &SourceSocket, _each: impl FnMut(&[u8], Arrival)) -> usize {
        0
    }

    /// Makes the descriptor of [`Datapath::poll_fd`] ready also when something arrives at another
    /// port, until that is closed.
    fn watch(&mut self, _source: &SourceSocket) {}

    /// Sends up to `datagrams_max` datagrams. `seal` writes the next one into the slice that it is
    /// given and returns its length; the second argument is the most that it may have. `None` ends
    /// the run. Within a run every datagram but the last has the same length.
    fn send_run(
        &mut self,
        endpoints: Endpoints<'_>,
        datagrams_max: usize,
        seal: impl FnMut(&mut [u8], usize) -> Option<usize>,
    ) -> SendOutcome;

    /// How many datagrams of `datagram_bytes` one run can have.
    fn run_datagrams_max(&self, datagram_bytes: usize) -> usize;

    /// Whether an earlier run still waits for room, so that a new one would be blocked.
    fn is_blocked(&mut self) -> bool;

    /// The condition of the receive queue.
    fn queue_condition(&mut self) -> QueueCondition;

    /// The descriptor that becomes readable when datagrams arrive.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// Whether runs are segmented by the kernel or the NIC.
    fn segments_runs(&self) -> bool;

    /// What went through rings and what through the kernel, where a datapath has both.
    fn counts(&self) -> DatagramCounts {
        DatagramCounts::default()
    }

    /// Counts the frames of packet memory, where a datapath has such.
    fn ring_census(&mut self) -> Option<RingCensus> {
        None
    }

    /// Whether frames of packets that were sent are still to come back from the kernel.
    fn awaits_frames(&self) -> bool {
        false
    }

    /// Sets the next hop of packets to `to`; `None` if it is not known. A datapath through the
    /// kernel's stack needs none.
    fn set_next_hop(&mut self, _to: IpAddr, _hop: Option<&NextHop>) {}

    /// Takes the tap to which packets are shown from now on, or `None`. Returns the one before; a
    /// datapath that shows nothing returns what it was given.
    fn set_tap(&mut self, tap: Option<Box<Tap>>) -> Option<Box<Tap>> {
        tap
    }
}
