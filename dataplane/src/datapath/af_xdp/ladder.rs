//! AF_XDP for all lanes of a data plane, in the best mode that the host has.
//!
//! The rungs: zero copy, copy in the driver, copy behind the driver, and the UDP sockets that the
//! lanes have anyway. Each refusal is kept as a sentence with its remedy. A rung is used for
//! all lanes or for none, so that a host's measurements are of one mode.

use std::io;

use culvert_link::kernel_bypass::{AfXdpStart, Mode};

use super::queue::Queue;
use super::socket::{SocketError, SocketOptions, XdpSocket};
use super::steering::{AttachMode, Steering, SteeringError};
use super::umem::{RECEIVE_CAPACITY_BYTES, Umem, UmemLayout};
use super::{AfXdpDatapath, privilege};
use crate::datapath::udp::UdpDatapath;

/// Frames for packets that arrive, of each lane: 16 MiB, as many packets of one chunk as a UDP
/// socket of the default buffer holds.
const RECEIVE_FRAMES: u32 = 4_096;
/// Frames for packets that leave, of each lane.
const TRANSMIT_FRAMES: u32 = 512;
/// Entries of RX and TX: all transmit frames of three chunks fit.
const RING_ENTRIES: u32 = 2_048;
/// Ethernet, a VLAN tag, and what a NIC may leave of the check sequence.
const LINK_BYTES: u32 = 14 + 4 + 4;

/// Why a rung cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RungError {
    /// The program.
    #[error(transparent)]
    Steering(#[from] SteeringError),
    /// The sockets.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// More lanes than queues.
    #[error(
        "each lane needs a receive queue, and the interface has too few (lanes: {lanes}, queues: {queues}): use fewer cores (--cores), or give it more (ethtool -L)"
    )]
    Queues {
        /// Lanes.
        lanes: usize,
        /// Queues.
        queues: u32,
    },
    /// The memory.
    #[error("cannot create the packet memory: {0}")]
    Memory(io::Error),
}

/// A lane's datapath, of either kind.
#[derive(Debug)]
pub enum LaneDatapath {
    /// A UDP socket.
    Udp(UdpDatapath),
    /// AF_XDP, together with a UDP socket.
    AfXdp(Box<AfXdpDatapath>),
}

impl LaneDatapath {
    /// The UDP socket.
    #[must_use]
    pub const fn udp(&self) -> &UdpDatapath {
        match self {
            Self::Udp(udp) => udp,
            Self::AfXdp(datapath) => datapath.udp(),
        }
    }
}

/// The result of opening.
#[derive(Debug)]
pub struct Opened {
    /// The lanes' datapaths, in their order.
    pub lanes: Vec<LaneDatapath>,
    /// The program, attached as long as this value lives, and the rung; `None` for UDP.
    pub steering: Option<(Steering, Mode)>,
    /// What each better rung lacks, in words.
    pub refusals: Vec<String>,
}

impl Opened {
    /// Without AF_XDP.
    #[must_use]
    pub fn udp(lanes: Vec<UdpDatapath>) -> Self {
        Self { lanes: lanes.into_iter().map(LaneDatapath::Udp).collect(), steering: None, refusals: Vec::new() }
    }
}

/// Opens AF_XDP in addition to the lanes' UDP sockets, or leaves them as they are and says why.
///
/// # Errors
/// The operating system's, if a descriptor that any datapath needs cannot be created.
pub fn open(start: &AfXdpStart, lanes: Vec<UdpDatapath>) -> io::Result<Opened> {
    let name = &start.name;
    let missing = privilege::missing();
    if !missing.is_empty() {
        let why = SteeringError::NotPermitted(missing);
        let refusals = vec![format!("AF_XDP on {name}: {why}; UDP sockets are used")];
        return Ok(Opened { refusals, ..Opened::udp(lanes) });
    }
    let mut refusals = Vec::new();
    for mode in
        [Mode::ZeroCopy, Mode::Copy, Mode::Skb].into_iter().filter(|&mode| start.only.is_none_or(|only| only == mode))
    {
        match rung(start, mode, &lanes) {
            Ok((steering, parts)) => {
                let opened = lanes.into_iter().zip(parts).map(|(udp, (queues, umem))| {
                    AfXdpDatapath::new(queues, umem, udp, mode).map(|datapath| LaneDatapath::AfXdp(Box::new(datapath)))
                });
                let lanes = opened.collect::<io::Result<Vec<_>>>()?;
                return Ok(Opened { lanes, steering: Some((steering, mode)), refusals });
            }
            Err(why) => refusals.push(format!("AF_XDP on {name}, {} mode: {why}", mode.name())),
        }
    }
    refusals.push(format!("AF_XDP on {name}: UDP sockets are used"));
    Ok(Opened { refusals, ..Opened::udp(lanes) })
}

type Parts = (Vec<Queue<XdpSocket>>, Umem);

/// Tries one mode. On an error everything that was opened is closed again.
fn rung(start: &AfXdpStart, mode: Mode, lanes: &[UdpDatapath]) -> Result<(Steering, Vec<Parts>), RungError> {
    if start.queues == 0 || (start.queues as usize) < lanes.len() {
        return Err(RungError::Queues { lanes: lanes.len(), queues: start.queues });
    }
    let mut steering = Steering::load()?;
    steering.count_queues(start.queues);
    for &address in &start.addresses {
        steering.register_address(address)?;
    }
    // Before the sockets are bound: some drivers (gve) make their queues ready for them only with a
    // program.
    steering.attach(start.interface, if mode == Mode::Skb { AttachMode::Skb } else { AttachMode::Driver })?;
    let mut all_parts = Vec::with_capacity(lanes.len());
    for (number, lane) in (0u16..).zip(lanes) {
        let parts = lane_parts(start, mode, number, lanes.len() as u32)?;
        // A lane's queues are spaced by the number of lanes, so an index determines the queue.
        for (queue, at) in queues_of(start, number, lanes.len() as u32).zip(&parts.0) {
            steering.register_queue(queue, number, at.wake())?;
        }
        let port = lane.port().map_err(RungError::Memory)?;
        steering.register_port(port, number)?;
        all_parts.push(parts);
    }
    Ok((steering, all_parts))
}

/// The queues of a lane.
fn queues_of(start: &AfXdpStart, lane: u16, lanes: u32) -> impl Iterator<Item = u32> + use<> {
    (u32::from(lane)..start.queues).step_by(lanes as usize)
}

/// A lane's memory, and its sockets over it.
fn lane_parts(start: &AfXdpStart, mode: Mode, lane: u16, lanes: u32) -> Result<Parts, RungError> {
    let packet_bytes = (start.mtu + LINK_BYTES) as usize;
    let layout = UmemLayout::for_packets(packet_bytes, RECEIVE_FRAMES, TRANSMIT_FRAMES);
    let mut umem = Umem::new(layout).map_err(RungError::Memory)?;
    let options = SocketOptions {
        ring_entries: RING_ENTRIES,
        busy_poll_us: start.busy_poll_us,
        // Drivers whose zero-copy mode has no multi-buffer support refuse the mode entirely if it
        // is requested.
        multi_buffer: packet_bytes > RECEIVE_CAPACITY_BYTES || mode != Mode::ZeroCopy,
    };
    let numbers: Vec<u32> = queues_of(start, lane, lanes).collect();
    let share = RECEIVE_FRAMES as usize / numbers.len();
    let mut queues: Vec<Queue<XdpSocket>> = Vec::with_capacity(numbers.len());
    for &number in &numbers {
        let (socket, rings) = XdpSocket::open(&umem, &options, !queues.is_empty())?;
        let queue = Queue::new(rings, socket, &mut umem, share);
        match queues.first() {
            None => queue.wake().bind(start.interface, number, mode)?,
            Some(first) => queue.wake().bind_shared(start.interface, number, mode, first.wake())?,
        }
        queues.push(queue);
    }
    Ok((queues, umem))
}

#[cfg(test)]
mod tests;
