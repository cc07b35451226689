//! The client of the node's API.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_model::record::TransferRecord;
use culvert_model::request::TransferRequest;
use culvert_node::api::answers::{ApiError, Submitted};
use culvert_node::api::captures::{ID_HEADER, LANES_HEADER, SUMMARY_TRAILER};
use culvert_node::api::status::NodeStatus;
use culvert_node::api::{REQUEST_BYTES_MAX, too_many_names};
use culvert_node::capture::{CaptureOptions, Summary};
use culvert_protocol::control::RefusalCode;
use culvert_state::{StateDirectory, is_locked};
use culvert_system::accounts::{self, OwnedState};
use culvert_system::os_error;
use culvert_system::regular_file::word;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::exit::CommandError;
use crate::running_node::LOCK;

/// The maximum size of a response.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// How long a command waits for a place in the queue of a busy node.
const BUSY_WAIT: Duration = Duration::from_secs(5);
/// The pause between two tries.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// A running node.
#[derive(Debug)]
pub struct ApiClient {
    socket: PathBuf,
}

impl ApiClient {
    /// Connects to the node that runs with a state directory, if there is one.
    ///
    /// # Errors
    /// [`CommandError`] if this process lacks descriptors, memory or permissions to connect, or if
    /// a node is running but something else is in the place of its socket.
    pub async fn connect(state: &StateDirectory) -> Result<Option<Self>, CommandError> {
        let socket = state.path("api.sock");
        // A symlink is no socket either: it could lead to another node.
        match socket.symlink_metadata().map(|found| found.file_type()) {
            Ok(kind) if !kind.is_socket() && is_locked(&state.path(LOCK)) => {
                let text = format!(
                    "a node is running with the state directory {}, but {} is {}, not its socket: \
                     move it away and restart the node",
                    state.root().display(),
                    socket.display(),
                    word(kind)
                );
                return Err(CommandError::new(ExitCode::BadHost, text));
            }
            Ok(kind) if !kind.is_socket() => return Ok(None),
            Err(error) if is_refused(&error) => return Err(forbidden(state, &error)),
            _ => {}
        }
        match open(&socket).await {
            Ok(_) => Ok(Some(Self { socket })),
            Err(error) if is_refused(&error) => Err(forbidden(state, &error)),
            // The socket is not there, or nobody listens at it.
            Err(error) if means_no_node(&error) => Ok(None),
            Err(error) => Err(unreached(&socket, &error)),
        }
    }

    /// The node, or an error that says how to start one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn need(state: &StateDirectory) -> Result<Self, CommandError> {
        let root = state.root().display().to_string();
        Self::connect(state).await?.ok_or_else(|| {
            if is_locked(&state.path(LOCK)) {
                let socket = state.path("api.sock");
                let why = if socket.symlink_metadata().is_ok() {
                    "does not listen at its socket {}: it is still starting; try again"
                } else {
                    "has no socket: it is still starting, or {} was removed; try again"
                };
                let why = why.replace("{}", &socket.display().to_string());
                let text = format!("the node running with the state directory {root} {why}, or restart the node");
                return CommandError::new(ExitCode::Temporary, text);
            }
            let hint = OwnedState::hint(state.root(), "…");
            let lacks = if state.root().exists() { "" } else { ", which does not exist" };
            CommandError::new(
                ExitCode::NotFound,
                format!(
                    "no node is running with the state \
                directory {root}{lacks}: start one with 'culvert node', or name another directory with --state{hint}"
                ),
            )
        })
    }

    /// The node's status.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn status(&self) -> Result<NodeStatus, CommandError> {
        self.call(Method::GET, "/v1/status", None::<&()>).await
    }

    /// Its transfers, the newest first.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn transfers(&self) -> Result<Vec<TransferRecord>, CommandError> {
        self.call(Method::GET, "/v1/transfers", None::<&()>).await
    }

    /// A transfer.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn transfer(&self, id: &str) -> Result<TransferRecord, CommandError> {
        self.call(Method::GET, &format!("/v1/transfers/{id}"), None::<&()>).await
    }

    /// Submits a request; returns the transfer's id.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn submit(&self, request: &TransferRequest) -> Result<String, CommandError> {
        let submitted: Submitted = self.call(Method::POST, "/v1/transfers", Some(request)).await?;
        Ok(submitted.transfer)
    }

    /// Asks the node to cancel a transfer.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn cancel(&self, id: &str) -> Result<(), CommandError> {
        self.order(id, "cancel").await
    }

    /// Sends an order about a transfer: `cancel`, `pause`, `resume` or `restart`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn order(&self, id: &str, what: &str) -> Result<(), CommandError> {
        let _: serde_json::Value = self.call(Method::POST, &format!("/v1/transfers/{id}/{what}"), None::<&()>).await?;
        Ok(())
    }

    /// Starts a capture.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn capture(&self, options: &CaptureOptions) -> Result<RunningCapture, CommandError> {
        let query = [
            options.lane.map(|lane| format!("lane={lane}")),
            options.snap_bytes.map(|bytes| format!("snap_bytes={bytes}")),
            options.packets.map(|packets| format!("packets={packets}")),
            options.seconds.map(|seconds| format!("seconds={seconds}")),
        ];
        let query: Vec<String> = query.into_iter().flatten().collect();
        let response = self.request(Method::GET, &format!("/v1/capture?{}", query.join("&")), None::<&()>).await?;
        let header = |name| response.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
        let (Some(id), Some(lanes)) = (header(ID_HEADER), header(LANES_HEADER)) else {
            return Err(broken(&"its response does not describe the capture"));
        };
        Ok(RunningCapture { id, lanes, body: response.into_body(), summary: None })
    }

    /// Ends a capture. Packets captured until then are still delivered.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn stop_capture(&self, id: u64) -> Result<(), CommandError> {
        let _: serde_json::Value = self.call(Method::POST, &format!("/v1/capture/{id}/stop"), None::<&()>).await?;
        Ok(())
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<A, CommandError> {
        let response = self.request(method, path, body).await?;
        serde_json::from_slice(&read_body(response.into_body()).await?).map_err(|error| broken(&error))
    }

    /// Sends a request and returns the response unless it is an error.
    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Response<Incoming>, CommandError> {
        let stream = open(&self.socket).await.map_err(|error| unreached(&self.socket, &error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| broken(&error))?,
            None => Vec::new(),
        };
        // The node would close the connection in the middle of the request.
        if bytes.len() > REQUEST_BYTES_MAX {
            return Err(CommandError::usage(too_many_names()));
        }
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "culvert")
            .header("content-type", "application/json")
            .header("te", "trailers")
            .body(Full::<Bytes>::from(bytes))
            .map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let bytes = read_body(response.into_body()).await?;
        let (word, text) = match serde_json::from_slice::<ApiError>(&bytes) {
            Ok(error) => (Some(error.code), error.text),
            Err(_) => (None, String::from_utf8_lossy(&bytes).into_owned()),
        };
        let code = match status {
            StatusCode::NOT_FOUND => ExitCode::NotFound,
            StatusCode::FORBIDDEN => ExitCode::NotPermitted,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ExitCode::Usage,
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => ExitCode::Temporary,
            _ => ExitCode::Failed,
        };
        Err(CommandError { code: word, ..CommandError::from_other_process(code, text) })
    }
}

/// A capture that the node streams.
#[derive(Debug)]
pub struct RunningCapture {
    /// The number by which it is stopped.
    pub id: u64,
    /// The number of captured lanes.
    pub lanes: u64,
    body: Incoming,
    summary: Option<Summary>,
}

impl RunningCapture {
    /// The next bytes of the file; `None` at its end.
    pub async fn next(&mut self) -> Option<Bytes> {
        loop {
            // A truncated response has no summary.
            match self.body.frame().await?.ok()?.into_data() {
                Ok(bytes) => return Some(bytes),
                Err(frame) => {
                    let summary = frame.trailers_ref().and_then(|trailers| trailers.get(SUMMARY_TRAILER));
                    self.summary = summary.and_then(|summary| serde_json::from_slice(summary.as_bytes()).ok());
                }
            }
        }
    }

    /// The summary after the end of the file; `None` if the node ended before it.
    #[must_use]
    pub fn summary(self) -> Option<Summary> {
        self.summary
    }
}

/// Connects to a node's socket. While all places in its queue are taken, which takes moments unless
/// something holds them, tries again.
async fn open(socket: &Path) -> std::io::Result<UnixStream> {
    let deadline = Instant::now() + BUSY_WAIT;
    loop {
        match UnixStream::connect(socket).await {
            Err(error) if is_busy(&error) && Instant::now() < deadline => tokio::time::sleep(BUSY_PAUSE).await,
            connected => return connected,
        }
    }
}

/// Whether the queue of a socket is full (`EAGAIN`, connect(2)).
fn is_busy(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::WouldBlock
}

/// Whether an error of connecting means that no node listens at a socket.
fn means_no_node(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
    matches!(error.kind(), ConnectionRefused | NotADirectory | NotFound)
}

/// The error of a connection to a node that may be running.
fn unreached(socket: &Path, error: &std::io::Error) -> CommandError {
    if !is_busy(error) {
        return broken(error);
    }
    let text = format!(
        "the node is busy: too many connections wait at {}; try again, or end the programs that hold them \
         ('ss -xp' lists them)",
        socket.display()
    );
    CommandError::new(ExitCode::Temporary, text)
}

fn is_refused(error: &std::io::Error) -> bool {
    os_error::code_of(error) == RefusalCode::NotPermitted
}

/// The error if the socket cannot be opened, in which case a node may be running.
fn forbidden(state: &StateDirectory, error: &std::io::Error) -> CommandError {
    let socket = state.path("api.sock");
    let remedy =
        accounts::remedy(&socket, state.root()).unwrap_or_else(|| "check its owner and permissions".to_owned());
    let text = format!("cannot reach the node of {}: {error}; {remedy}", state.root().display());
    CommandError::new(ExitCode::NotPermitted, text)
}

fn broken(error: &dyn std::fmt::Display) -> CommandError {
    CommandError::new(ExitCode::Temporary, format!("the node does not answer: {error}"))
}

async fn read_body(body: Incoming) -> Result<Bytes, CommandError> {
    let body = http_body_util::Limited::new(body, ANSWER_BYTES_MAX);
    Ok(body.collect().await.map_err(|error| broken(&error))?.to_bytes())
}
