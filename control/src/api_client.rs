//! The command line's side of the node's API.

use std::path::PathBuf;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::api::{ApiError, NodeStatus, Submitted};
use crate::cli::exit::{CommandError, ExitCode};
use crate::registry::TransferRecord;
use crate::request::TransferRequest;
use crate::state::StateDirectory;

/// Answers longer than this are not looked at.
const ANSWER_BYTES_MAX: usize = 256 << 20;

/// A running node.
#[derive(Debug)]
pub struct ApiClient {
    socket: PathBuf,
}

impl ApiClient {
    /// The node that runs with a state directory, if one does.
    pub async fn connect(state: &StateDirectory) -> Option<Self> {
        let socket = state.path("api.sock");
        UnixStream::connect(&socket).await.ok().map(|_| Self { socket })
    }

    /// The node, or an error that says how to start one.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn need(state: &StateDirectory) -> Result<Self, CommandError> {
        let root = state.root().display().to_string();
        Self::connect(state).await.ok_or_else(|| {
            CommandError::new(ExitCode::NotFound, format!("no node runs with the state directory {root}: start one with 'culvert node', or name another with --state"))
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

    /// One of them.
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

    /// Stops a transfer.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn cancel(&self, id: &str) -> Result<(), CommandError> {
        self.order(id, "cancel").await
    }

    /// Tells the node what to do with a transfer: `cancel`, `pause`, `resume` or `restart`.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn order(&self, id: &str, what: &str) -> Result<(), CommandError> {
        let _: serde_json::Value = self.call(Method::POST, &format!("/v1/transfers/{id}/{what}"), None::<&()>).await?;
        Ok(())
    }

    async fn call<A: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<A, CommandError> {
        let broken = |error: &dyn std::fmt::Display| {
            CommandError::new(ExitCode::Temporary, format!("the node does not answer: {error}"))
        };
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| broken(&error))?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let bytes = match body {
            Some(body) => serde_json::to_vec(body).map_err(|error| broken(&error))?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "culvert")
            .header("content-type", "application/json")
            .body(Full::<Bytes>::from(bytes))
            .map_err(|error| broken(&error))?;
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status();
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let bytes = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&bytes).map_err(|error| broken(&error));
        }
        let text = serde_json::from_slice::<ApiError>(&bytes)
            .map_or_else(|_| String::from_utf8_lossy(&bytes).into_owned(), |error| error.text);
        let code = match status {
            StatusCode::NOT_FOUND => ExitCode::NotFound,
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY => ExitCode::Usage,
            StatusCode::TOO_MANY_REQUESTS => ExitCode::Temporary,
            _ => ExitCode::Failed,
        };
        Err(CommandError::new(code, text))
    }
}
