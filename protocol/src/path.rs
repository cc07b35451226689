//! The conversation of a path check, over the control connection.
//!
//! ```text
//! requester                      answerer
//!   Ask ───────────────────────>
//!                                <── Permitted │ (Refused)
//!   Step ──────────────────────>        one at a time; probes move over UDP between Ready and Done
//!                                <── Ready
//!   Done ──────────────────────>
//!                                <── Report
//!   End ───────────────────────>
//! ```
//!
//! Probes are authenticated STAMP packets (RFC 8762 4.2.2) whose key comes from the control
//! connection's TLS exporter, so nobody else can take part, and the requester does nothing that the
//! answerer's limits do not permit.

use serde::{Deserialize, Serialize};

/// Hops of a trace at most.
pub const HOPS_MAX: u8 = 30;

/// What the requester would like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRequest {
    /// The longest that the check may take.
    pub seconds_max: u32,
    /// The highest rate at which anything is sent.
    pub rate_bits_per_second_max: u64,
    /// The largest datagram that the requester's interface carries.
    pub datagram_bytes_max: u16,
}

/// What the answerer permits: the requester keeps to the lower of both, and the answerer sees to
/// it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathPermission {
    /// Where probes go.
    pub udp_port: u16,
    /// See [`PathRequest`].
    pub seconds_max: u32,
    /// See [`PathRequest`].
    pub rate_bits_per_second_max: u64,
    /// The largest datagram that the answerer's interface carries.
    pub datagram_bytes_max: u16,
}

/// How long a reflected packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplySize {
    /// As long as the request.
    Same,
    /// As short as can be: the request's way is measured.
    Short,
    /// This many bytes of UDP payload: the way back is measured.
    Bytes(u16),
}

/// How a route is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceKind {
    /// With the probes' own ports, so that routers choose the same way.
    Udp,
    /// With ICMP echoes.
    Icmp,
}

/// A train of packets at an even rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Train {
    /// Bits per second, IP and UDP headers included.
    pub rate_bits_per_second: u64,
    /// How long it is.
    pub duration_us: u32,
    /// UDP payload of each packet.
    pub packet_bytes: u16,
}

/// What the answerer does until it receives the end of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepKind {
    /// Reflects.
    Reflect(ReplySize),
    /// Takes a train of the requester.
    TakeTrain,
    /// Sends a train; the report follows without a `Done`.
    SendTrain(Train),
    /// Traces the route to the requester; the report follows without a `Done`.
    Trace(TraceKind),
}

/// A step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStep {
    /// Its number, which its probes carry as their session's id; never 0.
    pub number: u16,
    /// What to do.
    pub kind: StepKind,
}

/// What a train looked like when it left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainSent {
    /// Packets.
    pub packets: u32,
    /// Bytes, IP and UDP headers included.
    pub bytes: u64,
    /// From the first to the last.
    pub duration_us: u64,
    /// Packets that the host itself could not send.
    pub failed: u32,
}

/// What a train looked like when it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainReceived {
    /// Packets, each once.
    pub packets: u32,
    /// Copies.
    pub duplicates: u32,
    /// Packets that were overtaken.
    pub reordered: u32,
    /// Bytes, IP and UDP headers included.
    pub bytes: u64,
    /// From the first to the last.
    pub duration_us: u64,
    /// One-way delays relative to the minimum of the train: the median of its first quarter.
    pub early_delay_us: u32,
    /// The median of its last quarter.
    pub late_delay_us: u32,
    /// The delay just before the first loss; 0 without loss.
    pub delay_at_loss_us: u32,
}

/// One hop of a route.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hop {
    /// How far.
    pub ttl: u8,
    /// The address that answered; none if there was no answer.
    pub address: Option<std::net::IpAddr>,
    /// The round trip.
    pub rtt_us: Option<f64>,
    /// Why it answers, if not because the TTL was used up: the ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// The MTU that a packet-too-big names.
    pub mtu: Option<u32>,
}

/// A route.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// Its hops.
    pub hops: Vec<Hop>,
    /// Whether the far end was reached.
    pub reached: bool,
}

/// What a step came to on the answerer's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PathReport {
    /// Requests that arrived, each counted once; copies; overtaken ones; reflections too large for
    /// this host to send, and the MTU that a host on the way back named.
    Reflected {
        /// Requests, each once.
        received: u64,
        /// Copies.
        duplicates: u64,
        /// Overtaken ones.
        reordered: u64,
        /// Answers that were too big for this host's interface or the path.
        too_big: u64,
        /// What ICMP says fits, 0 if it says nothing.
        mtu: u32,
    },
    /// A train arrived.
    TrainReceived(TrainReceived),
    /// A train left.
    TrainSent(TrainSent),
    /// The route back.
    Route(Route),
    /// The step failed; the check continues with the next.
    Failed(#[serde(deserialize_with = "crate::foreign_text::deserialize")] String),
}

/// Everything that is said in a path check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PathMessage {
    /// Asks for a check.
    Ask(PathRequest),
    /// Permits it.
    Permitted(PathPermission),
    /// Begins a step.
    Step(PathStep),
    /// The answerer is ready for the step's probes.
    Ready,
    /// The step's probes are sent.
    Done,
    /// What came of it.
    Report(PathReport),
    /// The check is over.
    End,
}
