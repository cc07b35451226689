//! The messages of a path check on the control connection.
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

/// The most hops of a trace.
pub const HOPS_MAX: u8 = 30;

/// What the requester asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathRequest {
    /// The longest that the check may take.
    pub seconds_max: u32,
    /// The highest rate at which anything is sent.
    pub rate_bits_per_second_max: u64,
    /// The largest datagram that the requester's interface carries.
    pub datagram_bytes_max: u16,
}

/// What the answerer permits. The lower of both values applies, and the answerer enforces it.
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
    /// As short as possible: the request's direction is measured.
    Short,
    /// This many bytes of UDP payload: the return direction is measured.
    Bytes(u16),
}

/// How a route is traced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceKind {
    /// With the probes' own ports, so that load balancers choose the same path.
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
    /// Receives a train from the requester.
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

/// A train as it was sent.
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

/// A train as it arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct TrainReceived {
    /// Packets, each once.
    pub packets: u32,
    /// Copies.
    pub duplicates: u32,
    /// Packets that arrived after a later one.
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
    /// The TTL that the probe was sent with.
    pub ttl: u8,
    /// The address that answered; none if there was no answer.
    pub address: Option<std::net::IpAddr>,
    /// The round trip.
    pub rtt_us: Option<f64>,
    /// The ICMP type and code of its answer, unless that is "time exceeded".
    pub icmp: Option<(u8, u8)>,
    /// The MTU in a packet-too-big message.
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

/// The result of a step on the answerer's side.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum PathReport {
    /// Requests were reflected.
    Reflected {
        /// Requests, each once.
        received: u64,
        /// Copies.
        duplicates: u64,
        /// Requests that arrived after a later one.
        reordered: u64,
        /// Reflections that were too big for this host's interface or the path.
        too_big: u64,
        /// The MTU that a router on the return path named; 0 if none did.
        mtu: u32,
    },
    /// A train arrived.
    TrainReceived(TrainReceived),
    /// A train left.
    TrainSent(TrainSent),
    /// The return route.
    Route(Route),
    /// The step failed; the check continues with the next.
    Failed(#[serde(deserialize_with = "crate::foreign_text::deserialize")] String),
}

/// A message of a path check.
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
    /// The step's result.
    Report(PathReport),
    /// The check is over.
    End,
}
