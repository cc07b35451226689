//! The node's API: JSON over HTTP on a unix socket in the state directory, and `/metrics` on a TCP port.
//!
//! The socket belongs to the user who runs the node and to nobody else; whoever may open it may do what that user may. The
//! metrics' port serves nothing but metrics.

pub mod captures;

use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use culvert_dataplane::counters::{LaneCounter, LaneCounters};
use culvert_dataplane::datapath::af_xdp::steering::Census;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::api::captures::Captures;
use crate::capture::CaptureOptions;
use crate::node::Node;
use crate::registry::{RecordState, Role, TransferRecord, new_transfer_id, unix_ms};
use crate::request::{Movement, TransferRequest, carry_out};

/// Transfers of this node's own user that run at once; the rest wait in their order.
pub const ACTIVE_MAX: usize = 16;
/// Transfers that may wait.
const QUEUED_MAX: usize = 20_000;

/// What the API's handlers share.
#[derive(Clone, Debug)]
pub struct Api {
    node: Arc<Node>,
    places: Arc<Semaphore>,
    listen: Option<u16>,
    captures: Captures,
}

/// The answer to a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submitted {
    /// The new transfer's id.
    pub transfer: String,
}

/// An error of the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub text: String,
}

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
    /// Datagrams dropped for want of room.
    pub socket_drops: u64,
    /// Buffers in use, of how many.
    pub buffers_in_use: u64,
    /// See `buffers_in_use`.
    pub buffers: usize,
    /// Datagrams that came through the rings of AF_XDP, and through the kernel beside them.
    #[serde(default)]
    pub ring_received: u64,
    /// See `ring_received`.
    #[serde(default)]
    pub kernel_received: u64,
    /// Datagrams that left through the rings of AF_XDP, and through the kernel beside them.
    #[serde(default)]
    pub ring_sent: u64,
    /// See `ring_sent`.
    #[serde(default)]
    pub kernel_sent: u64,
    /// The packet memory of AF_XDP, when the lane last had no flow.
    #[serde(default)]
    pub frames: FrameStatus,
}

/// Where the frames of a lane's packet memory were when it last had no flow. All zero without AF_XDP.
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
    pub steering: Option<Census>,
    /// How often flows were asked to move to their lanes' queues.
    #[serde(default)]
    pub flow_moves: u64,
    /// Its lanes.
    pub lanes: Vec<LaneStatus>,
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

impl Api {
    /// An API for `node`, whose control connection listens on `listen`.
    #[must_use]
    pub fn new(node: Arc<Node>, listen: Option<u16>) -> Self {
        Self { node, places: Arc::new(Semaphore::new(ACTIVE_MAX)), listen, captures: Captures::default() }
    }

    /// Goes on with the requests that had not ended when the node was stopped.
    pub fn resume_interrupted(&self) {
        for (id, record) in self.node.registry.interrupted() {
            match record.request.clone() {
                Some(request) => self.carry_out(id, request, record),
                None => {
                    // The partner asked; it will ask again.
                    let _ = self.node.registry.update(id, |record| {
                        record.state = RecordState::Failed;
                        record.ended_unix_ms = Some(unix_ms());
                        record.error = Some(crate::registry::Failure {
                            code: "temporary".to_owned(),
                            text: "this node was stopped; the partner goes on when it asks again".to_owned(),
                            exit_code: 5,
                        });
                    });
                }
            }
        }
    }

    fn carry_out(&self, id: culvert_protocol::control::TransferId, request: TransferRequest, record: TransferRecord) {
        let (node, places) = (self.node.clone(), self.places.clone());
        let record = TransferRecord { state: RecordState::Queued, ..record };
        let Ok(live) = node.registry.begin(id, record) else { return };
        tokio::spawn(async move {
            let mut cancel = live.cancel.clone();
            let place = tokio::select! {
                place = places.acquire_owned() => place,
                () = crate::transfer::TransferContext::canceled(&mut cancel) => {
                    let _ = node.registry.fail(id, &crate::transfer::manifest_exchange::canceled());
                    return;
                }
            };
            // The outcome stands in the record.
            let _ = carry_out(&node, id, &request, live).await;
            drop(place);
        });
    }

    /// The unix socket in the state directory, that only its owner can reach.
    ///
    /// # Errors
    /// The operating system's.
    pub fn listen(&self) -> std::io::Result<UnixListener> {
        let path = self.node.state.path("api.sock");
        // A socket that a crash left: the node's lock says that nobody serves it.
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        Ok(listener)
    }

    /// Serves the API.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn serve(self, listener: UnixListener) -> std::io::Result<()> {
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/transfers", get(list).post(submit))
            .route("/v1/transfers/{id}", get(show))
            .route("/v1/transfers/{id}/cancel", post(cancel))
            .route("/v1/capture", get(capture))
            .route("/v1/capture/{id}/stop", post(stop_capture))
            .route("/metrics", get(metrics))
            .with_state(self);
        axum::serve(listener, router).await
    }

    /// Serves metrics on a TCP port.
    ///
    /// # Errors
    /// The operating system's.
    pub async fn serve_metrics(self, listener: TcpListener) -> std::io::Result<()> {
        let router = Router::new().route("/metrics", get(metrics)).with_state(self);
        axum::serve(listener, router).await
    }
}

fn error(status: StatusCode, code: &str, text: impl Into<String>) -> Response {
    (status, Json(ApiError { code: code.to_owned(), text: text.into() })).into_response()
}

async fn metrics(State(api): State<Api>) -> Response {
    let text = api.node.metrics.render(&api.node).await;
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(api): State<Api>) -> Json<NodeStatus> {
    let node = &api.node;
    let plane = node.supervisor.running().await;
    let steering = match &plane {
        Some(plane) => plane.census().await,
        None => None,
    };
    let dataplane = plane.map(|plane| DataPlaneStatus {
        steering,
        flow_moves: plane.moves(),
        process_id: plane.process_id(),
        datapath: plane.datapath().to_owned(),
        af_xdp_mode: plane.af_xdp_mode().map(str::to_owned),
        refusals: plane.refusals().to_vec(),
        hugepages: plane.on_hugepages(),
        sandbox_gaps: plane.sandbox_gaps().to_vec(),
        lanes: (0..plane.lanes().len())
            .map(|lane| {
                let (ready, counters) = (&plane.lanes()[lane], plane.counters(lane));
                LaneStatus {
                    lane,
                    core: node.supervisor.config().cores.get(lane).copied().flatten().filter(|_| ready.pinned),
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
            })
            .collect(),
    });
    Json(NodeStatus {
        name: node.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: node.identity.public_key().fingerprint(),
        port: api.listen,
        dataplane,
        dataplane_restarts: node.supervisor.restarts(),
        transfers: node.registry.list().into_iter().filter(|record| !record.state.is_final()).collect(),
        pending_keys: node.profiles.pending().map_or(0, |pending| pending.len()),
    })
}

async fn capture(State(api): State<Api>, Query(options): Query<CaptureOptions>) -> Response {
    api.captures.answer(&api.node.supervisor, &options).await
}

async fn stop_capture(State(api): State<Api>, Path(id): Path<u64>) -> Response {
    if api.captures.stop(id) {
        Json(serde_json::json!({ "stopped": id })).into_response()
    } else {
        error(StatusCode::NOT_FOUND, "not_found", format!("there is no capture {id}"))
    }
}

async fn list(State(api): State<Api>) -> Json<Vec<TransferRecord>> {
    Json(api.node.registry.list())
}

async fn submit(State(api): State<Api>, Json(request): Json<TransferRequest>) -> Response {
    let waiting = api.node.registry.unfinished_count();
    if waiting >= QUEUED_MAX {
        return error(
            StatusCode::TOO_MANY_REQUESTS,
            "temporary",
            format!("{waiting} transfers wait already: submit again later"),
        );
    }
    let id = new_transfer_id();
    let record = TransferRecord {
        transfer: id.to_string(),
        role: if matches!(request.movement, Movement::Pull { .. }) { Role::Receive } else { Role::Send },
        partner: request.target.to_string(),
        description: request.description(),
        state: RecordState::Queued,
        created_unix_ms: unix_ms(),
        ended_unix_ms: None,
        attempts: 0,
        result: None,
        error: None,
        request: Some(request.clone()),
        progress: None,
    };
    api.carry_out(id, request, record);
    if api.node.registry.get(id).is_none() {
        return error(
            StatusCode::INTERNAL_SERVER_ERROR,
            "failed",
            "the transfer could not be noted in the state directory",
        );
    }
    Json(Submitted { transfer: id.to_string() }).into_response()
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) => match api.node.registry.get(id) {
            Some(record) => Json(record).into_response(),
            None => error(StatusCode::NOT_FOUND, "not_found", format!("there is no transfer {id}")),
        },
        Err(text) => error(StatusCode::BAD_REQUEST, "usage", text),
    }
}

async fn cancel(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) if api.node.registry.cancel(id) => {
            Json(serde_json::json!({ "canceled": id.to_string() })).into_response()
        }
        Ok(id) => error(StatusCode::NOT_FOUND, "not_found", format!("transfer {id} is not under way")),
        Err(text) => error(StatusCode::BAD_REQUEST, "usage", text),
    }
}
