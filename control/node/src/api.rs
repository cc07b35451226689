//! The node's API: JSON over HTTP on a unix socket in the state directory, and `/metrics` on a TCP
//! port.
//!
//! Only the user who runs the node can open the socket, and whoever can open it has that user's
//! permissions. The metrics port serves nothing else.

pub mod answers;
pub mod captures;
pub mod serving;
pub mod status;
mod submission;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use culvert_engine::clock::unix_ms;
use culvert_engine::records::LiveTransfer;
use culvert_engine::transfer::blocking;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::request::{Movement, Target, TransferRequest};
use culvert_model::typed_path::TypedPath;
use culvert_model::units::show_bytes;
use culvert_objects::fs::sources::named::local_source;
use culvert_protocol::control::{Refusal, RefusalCode, TransferId};
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::foreign_text::foreign_text;
use culvert_state::StateError;
use culvert_system::log_limit::{self, About};
use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use crate::api::answers::{Submitted, error};
use crate::api::captures::Captures;
use crate::api::status::{DataPlaneStatus, NodeStatus};
use crate::capture::CaptureOptions;
use crate::node::{Node, carry_out};
use crate::registry::new_transfer_id;

/// Transfers requested by this node's user that run at once; the others are queued in order.
pub const ACTIVE_MAX: usize = 16;
/// Transfers that may be queued.
const QUEUED_MAX: usize = 20_000;

/// Size of a submitted request, including the names of its sources: half of the maximum size of a
/// record, which contains it.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// The error for a larger request.
#[must_use]
pub fn too_many_names() -> String {
    format!(
        "the names of the sources exceed the {} a node keeps for a transfer: name the directories \
         they are in, or split the transfer",
        show_bytes(REQUEST_BYTES_MAX as u64)
    )
}

/// The state that the API's handlers share.
#[derive(Clone, Debug)]
pub struct Api {
    node: Arc<Node>,
    active: Arc<Semaphore>,
    listen: Option<u16>,
    captures: Captures,
    /// Metrics are gathered for one scrape at a time, because gathering reads files.
    gathering: Arc<Semaphore>,
}

impl Api {
    /// An API for `node`, which listens for partners on the TCP port `listen`.
    #[must_use]
    pub fn new(node: Arc<Node>, listen: Option<u16>) -> Self {
        Self {
            node,
            active: Arc::new(Semaphore::new(ACTIVE_MAX)),
            listen,
            captures: Captures::default(),
            gathering: Arc::new(Semaphore::new(1)),
        }
    }

    /// Resumes the transfers that had not ended when the node was stopped.
    pub fn resume_interrupted(&self) {
        let registry = &self.node.registry;
        if let Err(error) = registry.register() {
            say_aside!("culvert: {error}");
        }
        for (id, record) in registry.interrupted() {
            if let Some((request, live)) = record.request.zip(registry.go_on(id)) {
                self.carry_out(id, request, live);
            }
        }
        // Partners and commands request theirs again.
        match registry.settle_cut_off() {
            0 => {}
            count => say_aside!(
                "culvert: {} {} cut off when {} process was killed: 'culvert transfer list' shows {}",
                counted(count, "transfer"),
                agree(count, "was", "were"),
                agree(count, "its", "their"),
                agree(count, "it", "them")
            ),
        }
    }

    /// Records a transfer and queues it.
    async fn begin(&self, id: TransferId, request: TransferRequest, record: TransferRecord) -> Response {
        let record = TransferRecord { state: RecordState::Queued, ..record };
        match self.node.registry.begin(id, record).await {
            Ok(live) => {
                self.carry_out(id, request, live);
                Json(Submitted { transfer: id.to_string() }).into_response()
            }
            Err(failed) => {
                let text = format!("the transfer could not be recorded and was not started: {failed}");
                match (failed.code(), failed) {
                    (RefusalCode::NoSpace, _) => error(StatusCode::INSUFFICIENT_STORAGE, "no_space", text),
                    (RefusalCode::Temporary, _) => error(StatusCode::SERVICE_UNAVAILABLE, "temporary", text),
                    (_, StateError::UnderWay { .. }) => error(StatusCode::CONFLICT, "failed", text),
                    _ => error(StatusCode::INTERNAL_SERVER_ERROR, "failed", text),
                }
            }
        }
    }

    fn carry_out(&self, id: TransferId, request: TransferRequest, live: LiveTransfer) {
        let (node, active) = (self.node.clone(), self.active.clone());
        tokio::spawn(async move {
            let mut cancel = live.cancel.clone();
            let permit = tokio::select! {
                permit = active.acquire_owned() => permit,
                () = culvert_engine::transfer::TransferContext::canceled(&mut cancel) => {
                    let canceled = culvert_engine::transfer::manifest_exchange::canceled();
                    if let Err(error) = node.registry.fail(id, &canceled).await {
                        say_aside!("culvert: the record of transfer {id} has not been written yet: {error}; retrying");
                    }
                    return;
                }
            };
            match carry_out(&node, id, &request, live).await {
                Ok(outcome) => log_limit::inform(About::Stored, || {
                    format!("transfer {id}, {}: {}", request.description(), outcome.result.line())
                }),
                Err(error) if error.code() == RefusalCode::Canceled => {}
                Err(error) => log_limit::say(About::Transfers, || {
                    format!("transfer {id}, {}, failed: {}", request.description(), error.text())
                }),
            }
            drop(permit);
        });
    }

    /// Binds the unix socket in the state directory, which only its owner can open.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn listen(&self) -> Result<UnixListener, StateError> {
        let path = self.node.state.path("api.sock");
        let os = |error| StateError::Os { what: "listen for commands at", path: path.clone(), error };
        // A crash may have left a socket. This process holds the node's lock, so nothing serves it.
        self.node.state.clear_for_socket("api.sock")?;
        let bound = bind_for_owner(&path).map_err(|error| os(error.into()))?;
        UnixListener::from_std(bound.into()).map_err(os)
    }

    /// Serves the API.
    pub async fn serve(self, listener: UnixListener) {
        let metrics_of_node = self.node.metrics.clone();
        let router = Router::new()
            .route("/v1/status", get(status))
            .route("/v1/transfers", get(list).post(submit).layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX)))
            .route("/v1/transfers/{id}", get(show))
            .route("/v1/transfers/{id}/cancel", post(cancel))
            .route("/v1/transfers/{id}/pause", post(pause))
            .route("/v1/transfers/{id}/resume", post(resume))
            .route("/v1/transfers/{id}/restart", post(restart))
            .route("/v1/capture", get(capture))
            .route("/v1/capture/{id}/stop", post(stop_capture))
            .route("/metrics", get(metrics))
            .fallback(no_such_route)
            .method_not_allowed_fallback(no_such_method)
            .with_state(self);
        serving::serve(listener, router, serving::API, metrics_of_node).await;
    }

    /// Serves metrics on a TCP port.
    pub async fn serve_metrics(self, listener: TcpListener) {
        let metrics_of_node = self.node.metrics.clone();
        let router = Router::new().route("/metrics", get(metrics)).with_state(self);
        serving::serve(listener, router, serving::METRICS, metrics_of_node).await;
    }
}

/// Binds a socket that is never open to others: its file gets the mode that the socket has when it
/// is bound, within the umask.
fn bind_for_owner(path: &std::path::Path) -> Result<OwnedFd, Errno> {
    /// Connections that wait to be accepted.
    const BACKLOG: i32 = 1_024;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

async fn no_such_route(method: Method, uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, "not_found", format!("the API has no {method} {}", foreign_text(uri.path())))
}

async fn no_such_method(method: Method, uri: Uri) -> Response {
    let text = format!("the API has {} for another method than {method}", foreign_text(uri.path()));
    error(StatusCode::METHOD_NOT_ALLOWED, "usage", text)
}

async fn metrics(State(api): State<Api>) -> Response {
    // The semaphore is never closed.
    let _permit = api.gathering.acquire().await;
    let Node { engine, state, registry, metrics, path, .. } = &*api.node;
    let text = metrics.render(&registry.counts(), &engine.supervisor).await;
    let (state, path) = (state.clone(), path.clone());
    // Metrics of paths are read from the records' files.
    let text = text + &blocking(move || culvert_path::metrics::render(&state, &path)).await;
    ([("content-type", "text/plain; version=0.0.4; charset=utf-8")], text).into_response()
}

async fn status(State(api): State<Api>) -> Json<NodeStatus> {
    let node = &api.node;
    let supervisor = &node.engine.supervisor;
    let dataplane = match supervisor.running().await {
        Some(plane) => Some(DataPlaneStatus::of(&plane, supervisor).await),
        None => None,
    };
    let reading = node.clone();
    let pending_keys = blocking(move || {
        look_at_others(&reading);
        reading.profiles.pending().map_or(0, |pending| pending.len())
    });
    let pending_keys = pending_keys.await;
    Json(NodeStatus {
        name: node.engine.name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fingerprint: node.engine.identity.public_key().fingerprint(),
        port: api.listen,
        dataplane,
        dataplane_restarts: supervisor.restarts(),
        transfers: node.registry.unfinished(),
        pending_keys,
    })
}

async fn capture(State(api): State<Api>, options: Result<Query<CaptureOptions>, QueryRejection>) -> Response {
    match options {
        Ok(Query(options)) => api.captures.answer(&api.node.engine.supervisor, &options).await,
        Err(rejection) => error(rejection.status(), "usage", rejection.body_text()),
    }
}

async fn stop_capture(State(api): State<Api>, Path(id): Path<String>) -> Response {
    let Ok(id) = id.parse() else {
        return error(StatusCode::BAD_REQUEST, "usage", format!("{id:?} is not the number of a capture"));
    };
    if api.captures.stop(id) {
        Json(serde_json::json!({ "stopped": id })).into_response()
    } else {
        error(StatusCode::NOT_FOUND, "not_found", format!("there is no capture {id}"))
    }
}

async fn list(State(api): State<Api>) -> Response {
    // Twenty thousand records are megabytes of JSON: serializing them on the runtime's thread would
    // delay feedback of running transfers.
    blocking(move || {
        look_at_others(&api.node);
        Json(api.node.registry.list()).into_response()
    })
    .await
}

/// Updates the records of transfers that separate commands run with this node's state directory.
/// Accesses the disk.
fn look_at_others(node: &Node) {
    // If the directory cannot be listed now, the last known state is shown.
    let _ = node.registry.look_again();
    node.registry.settle_cut_off();
}

/// The error for an order about a transfer that a separate command runs.
fn run_by_other(api: &Api, id: TransferId) -> Option<Response> {
    let process = api.node.registry.others_process(id)?;
    let text = format!(
        "transfer {id} is run by a separate command (process {process}), not by this node: \
         interrupt that command; run it again to resume"
    );
    Some(error(StatusCode::CONFLICT, "failed", text))
}

async fn submit(State(api): State<Api>, request: Result<Json<TransferRequest>, JsonRejection>) -> Response {
    let Json(request) = match request {
        Ok(request) => request,
        Err(rejection) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => {
            return error(rejection.status(), "usage", too_many_names());
        }
        Err(rejection) => return error(rejection.status(), "usage", rejection.body_text()),
    };
    if let Err(reason) = submission::check(&request) {
        return error(StatusCode::BAD_REQUEST, "usage", format!("the request means nothing in {reason}"));
    }
    let unfinished = api.node.registry.unfinished_count();
    if unfinished >= QUEUED_MAX {
        return error(
            StatusCode::TOO_MANY_REQUESTS,
            "temporary",
            format!(
                "{} {} already: submit again later",
                counted(unfinished, "transfer"),
                agree(unfinished, "waits", "wait")
            ),
        );
    }
    if let Err(refusal) = check_submitted(&api.node, &request).await {
        let status = match refusal.code {
            RefusalCode::NotFound => StatusCode::NOT_FOUND,
            RefusalCode::NotPermitted => StatusCode::FORBIDDEN,
            RefusalCode::Temporary => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::CONFLICT,
        };
        return error(status, refusal.code.word(), refusal.text);
    }
    let id = new_transfer_id();
    let record = TransferRecord::of_request(id, &request, RecordState::Queued, unix_ms());
    let record = TransferRecord { request: Some(request.clone()), ..record };
    api.begin(id, request, record).await
}

/// Detects errors that are evident at once, so that the submitter sees them.
async fn check_submitted(node: &Node, request: &TransferRequest) -> Result<(), Refusal> {
    if let Target::Profile(name) = &request.target {
        let (profiles, name) = (node.profiles.clone(), name.clone());
        let found = blocking(move || profiles.get(&name)).await;
        found.map_err(|error| Refusal::new(error.code(), error.to_string()))?;
    }
    let Movement::Push { sources, .. } = &request.movement else { return Ok(()) };
    let sources = sources.clone();
    let is_one = sources.len() == 1;
    let look = move |source: &TypedPath| {
        let source = local_source(source.as_path())?;
        if is_one { source.require_kind() } else { Ok(()) }
    };
    let opened = blocking(move || sources.iter().try_for_each(look)).await;
    opened.map_err(|error| Refusal::new(error.code(), error.to_string()))
}

async fn show(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) => match current_record(&api, id).await {
            Some(record) => Json(record).into_response(),
            None => error(StatusCode::NOT_FOUND, "not_found", format!("there is no transfer {id}")),
        },
        Err(text) => error(StatusCode::BAD_REQUEST, "usage", text),
    }
}

/// The current record of a transfer, even if a separate command runs it.
async fn current_record(api: &Api, id: TransferId) -> Option<TransferRecord> {
    // If the file cannot be read now, the last known record is shown.
    let _ = api.node.registry.look_before(id).await;
    api.node.registry.settle_cut_off();
    api.node.registry.get(id)
}

async fn cancel(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) if api.node.registry.cancel(id).await => {
            Json(serde_json::json!({ "canceled": id.to_string() })).into_response()
        }
        Ok(id) => match current_record(&api, id).await {
            Some(record) if record.state == RecordState::Canceled => {
                Json(serde_json::json!({ "canceled": id.to_string() })).into_response()
            }
            record => cannot(&api, id, record, "cannot be canceled now"),
        },
        Err(text) => error(StatusCode::BAD_REQUEST, "usage", text),
    }
}

/// The error for an order that a transfer's state does not permit.
fn cannot(api: &Api, id: TransferId, record: Option<TransferRecord>, otherwise: &str) -> Response {
    let Some(record) = record else {
        return error(StatusCode::NOT_FOUND, "not_found", format!("there is no transfer {id}"));
    };
    let text = if record.state.is_final() {
        format!("transfer {id} has ended ({})", record.state.word())
    } else {
        format!("transfer {id} {otherwise}; it {}", record.state.predicate())
    };
    run_by_other(api, id).unwrap_or_else(|| error(StatusCode::CONFLICT, "failed", text))
}

async fn pause(State(api): State<Api>, Path(id): Path<String>) -> Response {
    match id.parse() {
        Ok(id) if api.node.registry.pause(id) => Json(serde_json::json!({ "pausing": id.to_string() })).into_response(),
        Ok(id) => {
            let record = current_record(&api, id).await;
            if record.as_ref().is_some_and(|record| record.state == RecordState::Paused) {
                return Json(serde_json::json!({ "pausing": id.to_string() })).into_response();
            }
            let otherwise = if record.as_ref().is_some_and(|record| record.request.is_some()) {
                "is being canceled and cannot be paused"
            } else {
                "was requested by the partner, and only the partner can pause it"
            };
            cannot(&api, id, record, otherwise)
        }
        Err(text) => error(StatusCode::BAD_REQUEST, "usage", text),
    }
}

async fn resume(State(api): State<Api>, Path(id): Path<String>) -> Response {
    begin_again(&api, &id, |state| state == RecordState::Paused, "is not paused").await
}

async fn restart(State(api): State<Api>, Path(id): Path<String>) -> Response {
    begin_again(&api, &id, RecordState::is_final, "has not ended").await
}

/// Resumes or restarts a transfer of this node's user, if its state permits it.
async fn begin_again(api: &Api, id: &str, may: fn(RecordState) -> bool, otherwise: &str) -> Response {
    let id = match id.parse() {
        Ok(id) => id,
        Err(text) => return error(StatusCode::BAD_REQUEST, "usage", text),
    };
    let Some(record) = current_record(api, id).await else {
        return error(StatusCode::NOT_FOUND, "not_found", format!("there is no transfer {id}"));
    };
    if let Some(answer) = run_by_other(api, id) {
        return answer;
    }
    // A record with progress belongs to a transfer that is still stopping.
    if !may(record.state) || record.progress.is_some() {
        return cannot(api, id, Some(record), otherwise);
    }
    let Some(request) = record.request.clone() else {
        let text = format!(
            "transfer {id} was requested by the partner, who must request it again, or by a \
             command, which must be run again"
        );
        return error(StatusCode::CONFLICT, "failed", text);
    };
    api.begin(id, request, record.again()).await
}
