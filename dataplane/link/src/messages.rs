//! What travels on the unix socket: rare things, with descriptors or secrets.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::net::{IpAddr, SocketAddr};

use culvert_protocol::keys::Secret;
use culvert_protocol::seal::Cipher;
use serde::{Deserialize, Serialize};

use crate::kernel_bypass::AfXdpStart;
use crate::kernel_bypass::Mode;
use crate::kernel_bypass::NextHop;
use crate::kernel_bypass::ProgramCounters;

use crate::commands::{FileSlot, ReceiveSlot, SendSlot};

/// How the data plane is to be set up. Comes with descriptors: the pieces of the link's memory,
/// those of each lane's buffer memory, the control process's doorbell, and each lane's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// For each lane its core; `None` leaves it to the scheduler.
    pub cores: Vec<Option<usize>>,
    /// Bytes of each piece of shared memory but the last.
    pub piece_bytes: usize,
    /// Bytes of the link's memory.
    pub link_bytes: usize,
    /// Bytes of each lane's buffer memory.
    pub buffer_memory_bytes: usize,
    /// Bytes of each buffer.
    pub buffer_bytes: usize,
    /// The address that lanes bind; the unspecified IPv6 address serves both families.
    pub bind: std::net::IpAddr,
    /// The lanes' UDP ports: each lane takes the next that is free. Empty leaves them to the
    /// operating system.
    pub ports: Vec<u16>,
    /// Bytes of each lane's socket buffers, if the host grants them.
    pub socket_buffer_bytes: usize,
    /// The interface for AF_XDP, if it shall be tried.
    pub af_xdp: Option<AfXdpStart>,
}

/// A sending flow to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSend {
    /// Its lane.
    pub lane: u16,
    /// Its slot.
    pub slot: SendSlot,
    /// Its id on the wire.
    pub flow_id: u32,
    /// A number for the partner: its flows share one part of the buffers.
    pub holder: u32,
    /// The transfer's secret.
    pub secret: Secret,
    /// The cipher.
    pub cipher: Cipher,
    /// The receiving lane's address.
    pub partner: SocketAddr,
    /// Sizes of datagrams to probe the path with, descending.
    pub probe_datagram_bytes: Vec<u16>,
    /// The transfer's chunk size.
    pub chunk_bytes: u32,
    /// Whether chunks are hashed.
    pub checksum: bool,
}

/// A receiving flow to be opened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenReceive {
    /// Its lane.
    pub lane: u16,
    /// Its slot: the lowest eight bits of the flow's id.
    pub slot: ReceiveSlot,
    /// Its id on the wire.
    pub flow_id: u32,
    /// A number for the partner: its flows share one part of the buffers.
    pub holder: u32,
    /// The transfer's secret.
    pub secret: Secret,
    /// The cipher.
    pub cipher: Cipher,
    /// The sending lane's address, as far as it is known.
    pub partner: SocketAddr,
    /// Chunks of the transfer.
    pub chunk_count: u32,
    /// The transfer's chunk size.
    pub chunk_bytes: u32,
    /// Whether chunks are hashed.
    pub checksum: bool,
    /// Microseconds between reports.
    pub interval_us: u32,
}

/// From the control process to the data plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToDataPlane {
    /// The first message.
    Start(Start),
    /// Opens a file in a slot. Comes with a descriptor for buffered access and, if `direct`, one
    /// for `O_DIRECT`.
    InstallFile {
        /// The slot.
        slot: FileSlot,
        /// Whether the second descriptor is there.
        direct: bool,
    },
    /// Closes a slot's file. The control process has seen the last operation on it finish.
    RemoveFile {
        /// The slot.
        slot: FileSlot,
    },
    /// Opens a sending flow.
    OpenSend(OpenSend),
    /// Opens a receiving flow.
    OpenReceive(OpenReceive),
    /// Another port to send a flow from. Comes with the bound socket's descriptor.
    SetSource {
        /// The lane.
        lane: u16,
        /// The flow.
        slot: SendSlot,
        /// The port.
        port: u16,
        /// Whether it is an IPv6 socket.
        is_v6: bool,
    },
    /// The next hop towards a partner, or that there is none through the interface of AF_XDP.
    SetNextHop {
        /// The lane.
        lane: u16,
        /// The partner.
        to: IpAddr,
        /// The next hop.
        hop: Option<NextHop>,
    },
    /// Asks what the steering program has counted.
    TakeCensus,
    /// Starts to show a lane's packets. Comes with the capture's memory, in which the lane reports
    /// that it has started.
    BeginCapture {
        /// The lane.
        lane: u16,
        /// Bytes of each packet that are taken at most.
        snap_bytes: usize,
    },
    /// Stops showing them; the lane reports in the capture's memory when it has stopped.
    EndCapture {
        /// The lane.
        lane: u16,
    },
}

/// What a lane turned out to have.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneReady {
    /// Its UDP port.
    pub port: u16,
    /// Whether its socket segments super-buffers.
    pub gso: bool,
    /// Whether its socket joins them.
    pub gro: bool,
    /// Bytes of receive buffer that the host granted.
    pub receive_buffer_bytes: usize,
    /// Whether the thread is pinned to its core.
    pub pinned: bool,
}

/// From the data plane to the control process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromDataPlane {
    /// Every lane runs, and the process is in its sandbox.
    Ready {
        /// The process, as it sees itself.
        process_id: u32,
        /// The lanes.
        lanes: Vec<LaneReady>,
        /// What of the sandbox could not be had, in words; empty if all is in place.
        sandbox_gaps: Vec<String>,
        /// How AF_XDP moves packets; `None` if UDP sockets do.
        af_xdp: Option<Mode>,
        /// Whether rules in the NIC lead all packets to the lanes' ports to the lanes' queues.
        has_all_rules: bool,
        /// What a better datapath lacks, in words; empty if the best is in place or none was asked
        /// for.
        refusals: Vec<String>,
    },
    /// It cannot start; it ends now.
    CannotStart {
        /// Why, and what to do.
        text: String,
        /// How many of the ports that it was given are free, if those are too few.
        free_ports: Option<usize>,
    },
    /// The file is there for the lanes.
    FileInstalled {
        /// The slot.
        slot: FileSlot,
    },
    /// The file is not there: its descriptors did not arrive, because this process has as many as
    /// it may have.
    FileNotInstalled {
        /// The slot.
        slot: FileSlot,
    },
    /// The flow is there for the lane's commands.
    SendOpened {
        /// The lane.
        lane: u16,
        /// The slot.
        slot: SendSlot,
    },
    /// The flow is there for the lane's commands.
    ReceiveOpened {
        /// The lane.
        lane: u16,
        /// The slot.
        slot: ReceiveSlot,
    },
    /// What the steering program has counted; empty without one.
    ProgramCounters(ProgramCounters),
}
