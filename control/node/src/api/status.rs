//! The status of a node in the API. The fields of these structs are the JSON contract, so they are
//! flat and as many as it has.

use culvert_link::counters::{LaneCounter, LaneCounters};
use culvert_link::kernel_bypass::ProgramCounters;
use culvert_model::record::TransferRecord;
use culvert_plane::{DataPlane, Supervisor};
use serde::{Deserialize, Serialize};

/// A lane in the status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LaneStatus {
    /// Its number.
    pub lane: usize,
    /// The core it is pinned to, if it is.
    pub core: Option<usize>,
    /// Its UDP port.
    pub port: u16,
    /// Whether its socket segments datagrams (GSO).
    pub gso: bool,
    /// Whether its socket coalesces datagrams (GRO).
    pub gro: bool,
    /// Size of its socket's receive buffer.
    pub receive_buffer_bytes: usize,
    /// Nanoseconds busy, and idle, since it started.
    pub busy_ns: u64,
    /// See `busy_ns`.
    pub idle_ns: u64,
    /// Payload bytes sent.
    pub sent_bytes: u64,
    /// Payload bytes received.
    pub received_bytes: u64,
    /// Segments sent again.
    pub segments_resent: u64,
    /// Datagrams dropped because a socket buffer was full.
    pub socket_drops: u64,
    /// Chunk buffers in use.
    pub buffers_in_use: u64,
    /// Chunk buffers in total.
    pub buffers: usize,
    /// Datagrams received through the rings of AF_XDP.
    #[serde(default)]
    pub ring_received: u64,
    /// Datagrams received through the kernel instead.
    #[serde(default)]
    pub kernel_received: u64,
    /// Datagrams sent through the rings of AF_XDP.
    #[serde(default)]
    pub ring_sent: u64,
    /// Datagrams sent through the kernel instead.
    #[serde(default)]
    pub kernel_sent: u64,
    /// The packet memory of AF_XDP, when the lane last had no flow.
    #[serde(default)]
    pub frames: FrameStatus,
}

impl LaneStatus {
    fn of(lane: usize, plane: &DataPlane, supervisor: &Supervisor) -> Self {
        let (ready, counters) = (&plane.lanes()[lane], plane.counters(lane));
        Self {
            lane,
            core: supervisor.config().cores.get(lane).copied().flatten().filter(|_| ready.pinned),
            port: ready.port,
            gso: counters.get(LaneCounter::GsoEnabled) == 1 || ready.gso,
            gro: ready.gro,
            receive_buffer_bytes: ready.receive_buffer_bytes,
            busy_ns: counters.get(LaneCounter::BusyNs),
            idle_ns: counters.get(LaneCounter::IdleNs),
            sent_bytes: counters.get(LaneCounter::PayloadSent),
            received_bytes: counters.get(LaneCounter::PayloadReceived),
            ring_received: counters.get(LaneCounter::RingReceived),
            kernel_received: counters.get(LaneCounter::KernelReceived),
            ring_sent: counters.get(LaneCounter::RingSent),
            kernel_sent: counters.get(LaneCounter::KernelSent),
            frames: FrameStatus::of(&counters),
            segments_resent: counters.get(LaneCounter::SegmentsResent),
            socket_drops: counters.get(LaneCounter::SocketDrops),
            buffers_in_use: counters.get(LaneCounter::BuffersInUse),
            buffers: plane.buffers_per_lane(),
        }
    }
}

/// Where the frames of a lane's packet memory were when it last had no flow. All zero without
/// AF_XDP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrameStatus {
    /// Receive frames that are free.
    pub receive_free: u64,
    /// Receive frames held by the lane; frames are lost unless this is 0.
    pub receive_held: u64,
    /// Receive frames lent to the kernel.
    pub receive_lent: u64,
    /// Lent receive frames that are in a ring; the others are with the NIC.
    pub receive_in_rings: u64,
    /// Transmit frames that are free.
    pub transmit_free: u64,
    /// Transmit frames held by the lane; frames are lost unless this is 0.
    pub transmit_held: u64,
    /// Transmit frames lent to the kernel; 0 when all packets have left.
    pub transmit_lent: u64,
    /// Invalid descriptors from the kernel; the NIC's driver is broken unless this is 0.
    pub malformed: u64,
    /// System calls that woke the kernel.
    pub wakeups: u64,
}

impl FrameStatus {
    fn of(counters: &LaneCounters) -> Self {
        Self {
            receive_free: counters.get(LaneCounter::ReceiveFramesFree),
            receive_held: counters.get(LaneCounter::ReceiveFramesHeld),
            receive_lent: counters.get(LaneCounter::ReceiveFramesLent),
            receive_in_rings: counters.get(LaneCounter::ReceiveFramesInRings),
            transmit_free: counters.get(LaneCounter::TransmitFramesFree),
            transmit_held: counters.get(LaneCounter::TransmitFramesHeld),
            transmit_lent: counters.get(LaneCounter::TransmitFramesLent),
            malformed: counters.get(LaneCounter::RingMalformed),
            wakeups: counters.get(LaneCounter::RingWakeups),
        }
    }
}

/// The data plane in the status.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DataPlaneStatus {
    /// Its process id.
    pub process_id: u32,
    /// The datapath: `udp` or `af_xdp`.
    pub datapath: String,
    /// The mode of AF_XDP.
    #[serde(default)]
    pub af_xdp_mode: Option<String>,
    /// Why a better datapath or mode is not used, in sentences.
    #[serde(default)]
    pub refusals: Vec<String>,
    /// Whether chunk buffers are on hugepages.
    pub hugepages: bool,
    /// Parts of the sandbox that the kernel lacks.
    pub sandbox_gaps: Vec<String>,
    /// The steering program's counters.
    #[serde(default)]
    pub steering: Option<ProgramCounters>,
    /// Requests to move a flow to its lane's queue.
    #[serde(default)]
    pub flow_moves: u64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

impl DataPlaneStatus {
    /// The status of a running data plane.
    pub async fn of(plane: &DataPlane, supervisor: &Supervisor) -> Self {
        Self {
            steering: plane.census().await,
            flow_moves: plane.moves(),
            process_id: plane.process_id(),
            datapath: plane.datapath().to_owned(),
            af_xdp_mode: plane.af_xdp_mode().map(str::to_owned),
            refusals: plane.refusals().to_vec(),
            hugepages: plane.on_hugepages(),
            sandbox_gaps: plane.sandbox_gaps().to_vec(),
            lanes: (0..plane.lanes().len()).map(|lane| LaneStatus::of(lane, plane, supervisor)).collect(),
        }
    }
}

/// The status of a node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its key's fingerprint.
    pub fingerprint: String,
    /// The TCP port on which it listens for partners.
    pub port: Option<u16>,
    /// Its data plane, if that is running.
    pub dataplane: Option<DataPlaneStatus>,
    /// How often the data plane had to be restarted.
    pub dataplane_restarts: u64,
    /// Transfers that have not ended.
    pub transfers: Vec<TransferRecord>,
    /// Keys that are waiting for approval.
    pub pending_keys: usize,
}
