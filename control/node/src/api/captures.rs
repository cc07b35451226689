//! Captures over the API: the response is the pcap file, streamed while packets are captured, with
//! a summary as a trailer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::Response;
use culvert_plane::Supervisor;
use hyper::body::Frame;
use tokio::sync::mpsc;

use crate::api::answers::error;
use crate::capture::{Capture, CaptureError, CaptureOptions, Stop, Summary};

/// The response header with the capture's number, by which it is stopped.
pub const ID_HEADER: &str = "culvert-capture";
/// The response header with the number of captured lanes.
pub const LANES_HEADER: &str = "culvert-lanes";
/// The trailer with the capture's [`Summary`] as JSON.
pub const SUMMARY_TRAILER: &str = "culvert-summary";
/// Pieces of up to 2 MiB that are queued for a client. When the queue is full, the rings fill up.
const PIECES_MAX: usize = 2;

/// The running captures.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    running: Arc<Mutex<HashMap<u64, Stop>>>,
    next: Arc<AtomicU64>,
}

impl Captures {
    /// Starts a capture and responds with it.
    pub async fn answer(&self, supervisor: &Supervisor, options: &CaptureOptions) -> Response {
        // No data plane is started for a capture that cannot be.
        if let Err(why) = options.check() {
            return error(StatusCode::BAD_REQUEST, "usage", why.to_string());
        }
        let plane = match supervisor.get().await {
            Ok(plane) => plane,
            Err(why) => return error(StatusCode::SERVICE_UNAVAILABLE, "temporary", why.to_string()),
        };
        let capture = match Capture::begin(plane, options).await {
            Ok(capture) => capture,
            Err(why) => {
                let (status, code) = match &why {
                    CaptureError::Option(_) => (StatusCode::BAD_REQUEST, "usage"),
                    CaptureError::Busy => (StatusCode::TOO_MANY_REQUESTS, "temporary"),
                    CaptureError::DataPlane(_) => (StatusCode::SERVICE_UNAVAILABLE, "temporary"),
                    CaptureError::Memory(_) | CaptureError::NoBegin(_) => (StatusCode::INTERNAL_SERVER_ERROR, "failed"),
                };
                return error(status, code, why.to_string());
            }
        };
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let lanes = capture.lanes().count();
        let earlier = self.lock().insert(id, capture.stop());
        // Invariant I-captures-id: A capture's number names no other capture of this node.
        assert!(earlier.is_none(), "two captures have the number {id}");
        let (pieces, file) = mpsc::channel(PIECES_MAX);
        let captures = self.clone();
        tokio::spawn(async move {
            stream(capture, &pieces).await;
            captures.lock().remove(&id);
        });
        let response = Response::builder()
            .header("content-type", "application/vnd.tcpdump.pcap")
            .header("trailer", SUMMARY_TRAILER)
            .header(ID_HEADER, id)
            .header(LANES_HEADER, lanes);
        response.body(Body::new(PcapBody(file))).unwrap_or_else(|why| {
            error(StatusCode::INTERNAL_SERVER_ERROR, "failed", format!("the answer cannot be made: {why}"))
        })
    }

    /// Ends a capture; false if none has this number.
    pub fn stop(&self, id: u64) -> bool {
        let running = self.lock();
        running.get(&id).map(Stop::stop).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Stop>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a capture to its client until the capture ends or the client disconnects.
async fn stream(mut capture: Capture, pieces: &mpsc::Sender<Frame<Bytes>>) {
    loop {
        let piece = tokio::select! {
            piece = capture.next() => piece,
            () = pieces.closed() => return,
        };
        let Some(piece) = piece else { break };
        if pieces.send(Frame::data(piece.into())).await.is_err() {
            return;
        }
    }
    let mut trailers = HeaderMap::new();
    if let Some(summary) = as_header(&capture.summary()) {
        trailers.insert(SUMMARY_TRAILER, summary);
    }
    // The client may have disconnected meanwhile.
    let _ = pieces.send(Frame::trailers(trailers)).await;
}

fn as_header(summary: &Summary) -> Option<HeaderValue> {
    HeaderValue::from_str(&serde_json::to_string(summary).ok()?).ok()
}

/// The body of the response.
struct PcapBody(mpsc::Receiver<Frame<Bytes>>);

impl HttpBody for PcapBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
