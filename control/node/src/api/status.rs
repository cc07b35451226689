//! The status of a node, as the API tells it.

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
    /// Its core, if it is pinned.
    pub core: Option<usize>,
    /// Its UDP port.
    pub port: u16,
    /// Whether its socket segments.
    pub gso: bool,
    /// Whether its socket joins.
    pub gro: bool,
    /// Bytes of its socket's receive buffer.
    pub receive_buffer_bytes: usize,
    /// Nanoseconds busy, and idle, since it began.
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
    /// Buffers in use, of how many.
    pub buffers_in_use: u64,
    /// See `buffers_in_use`.
    pub buffers: usize,
    /// Datagrams that arrived through the rings of AF_XDP, and through the kernel instead of them.
    #[serde(default)]
    pub ring_received: u64,
    /// See `ring_received`.
    #[serde(default)]
    pub kernel_received: u64,
    /// Datagrams that left through the rings of AF_XDP, and through the kernel instead of them.
    #[serde(default)]
    pub ring_sent: u64,
    /// See `ring_sent`.
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
    /// For packets that arrive: free.
    pub receive_free: u64,
    /// In the lane's hands; 0, or frames are lost.
    pub receive_held: u64,
    /// Lent to the kernel.
    pub receive_lent: u64,
    /// Those of the lent that lie in a ring; the rest is in the NIC's hands.
    pub receive_in_rings: u64,
    /// For packets that leave: free.
    pub transmit_free: u64,
    /// In the lane's hands; 0, or frames are lost.
    pub transmit_held: u64,
    /// Lent to the kernel; 0 once all have left.
    pub transmit_lent: u64,
    /// Descriptors from the kernel that made no sense; 0, or the NIC's driver is broken.
    pub malformed: u64,
    /// Calls that woke the kernel.
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
    /// Its process.
    pub process_id: u32,
    /// How packets move.
    pub datapath: String,
    /// The mode of AF_XDP.
    #[serde(default)]
    pub af_xdp_mode: Option<String>,
    /// What a better datapath lacks, in words.
    #[serde(default)]
    pub refusals: Vec<String>,
    /// Whether chunk buffers lie on hugepages.
    pub hugepages: bool,
    /// What of the sandbox could not be had.
    pub sandbox_gaps: Vec<String>,
    /// What the steering program has counted.
    #[serde(default)]
    pub steering: Option<ProgramCounters>,
    /// How often flows were asked to move to their lanes' queues.
    #[serde(default)]
    pub flow_moves: u64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
}

impl DataPlaneStatus {
    /// The status of a data plane that runs.
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
    /// What it calls itself.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its key's fingerprint.
    pub fingerprint: String,
    /// Its TCP port.
    pub port: Option<u16>,
    /// Its data plane, if it runs.
    pub dataplane: Option<DataPlaneStatus>,
    /// How often that had to be started again.
    pub dataplane_restarts: u64,
    /// Transfers that have not ended.
    pub transfers: Vec<TransferRecord>,
    /// Keys that wait for approval.
    pub pending_keys: usize,
}
