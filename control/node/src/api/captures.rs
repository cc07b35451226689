//! Captures over the API: the answer is the file, sent while it comes, with what it came to as
//! trailers behind it.

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

/// The number by which a capture is stopped, in the head of the answer.
pub const ID_HEADER: &str = "culvert-capture";
/// How many lanes it sees, there too.
pub const LANES_HEADER: &str = "culvert-lanes";
/// What the capture came to, a [`Summary`] as JSON, behind the answer.
pub const SUMMARY_TRAILER: &str = "culvert-summary";
/// Pieces of up to 2 MiB that wait for a client. While they do, the rings fill.
const PIECES_MAX: usize = 2;

/// The captures that run.
#[derive(Clone, Debug, Default)]
pub struct Captures {
    running: Arc<Mutex<HashMap<u64, Stop>>>,
    next: Arc<AtomicU64>,
}

impl Captures {
    /// Begins a capture and answers with it.
    pub async fn answer(&self, supervisor: &Supervisor, options: &CaptureOptions) -> Response {
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
        self.lock().insert(id, capture.stop());
        let (pieces, file) = mpsc::channel(PIECES_MAX);
        let captures = self.clone();
        tokio::spawn(async move {
            pass_on(capture, &pieces).await;
            captures.lock().remove(&id);
        });
        let response = Response::builder()
            .header("content-type", "application/vnd.tcpdump.pcap")
            .header("trailer", SUMMARY_TRAILER)
            .header(ID_HEADER, id)
            .header(LANES_HEADER, lanes);
        response.body(Body::new(File(file))).unwrap_or_else(|why| {
            error(StatusCode::INTERNAL_SERVER_ERROR, "failed", format!("the answer cannot be made: {why}"))
        })
    }

    /// Ends a capture; false if there is none of this number.
    pub fn stop(&self, id: u64) -> bool {
        let running = self.lock();
        running.get(&id).map(Stop::stop).is_some()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Stop>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Passes a capture on until it ends or its reader goes away.
async fn pass_on(mut capture: Capture, pieces: &mpsc::Sender<Frame<Bytes>>) {
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
    // The client may have gone meanwhile.
    let _ = pieces.send(Frame::trailers(trailers)).await;
}

fn as_header(summary: &Summary) -> Option<HeaderValue> {
    HeaderValue::from_str(&serde_json::to_string(summary).ok()?).ok()
}

/// The body of the answer.
struct File(mpsc::Receiver<Frame<Bytes>>);

impl HttpBody for File {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        self.0.poll_recv(context).map(|frame| frame.map(Ok))
    }
}
