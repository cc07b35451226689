//! Serving HTTP to any client that can reach a socket: how many connections there may be, and how
//! long each may take.
//!
//! A connection carries one request. Until it arrives, the connection waits in a pool, where newer
//! connections of the same host take its place ([`crate::slots`]). Silent connections therefore
//! lock nobody out, however many there are.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::response::Response;
use axum::serve::Listener;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::time::Sleep;

use crate::api::answers::error;
use crate::host::Host;
use crate::metrics::Metrics;
use crate::slots::{Limits, Slot, SlotPool};

/// How long a request's head may take, from the connection on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may take to be made, the request's body included.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take nothing of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of a request's head: what hyper takes for the least.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// What is served at a socket, and to how many.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// Its name in metrics.
    pub name: &'static str,
    /// Connections.
    pub limits: Limits,
    /// How long one may take in total; none if an answer may continue forever.
    pub life: Option<Duration>,
}

/// The metrics' port. All accounts of this host are one host to it.
pub const METRICS: Entrance =
    Entrance { name: "metrics", limits: Limits { all: 64, each: 16 }, life: Some(Duration::from_secs(30)) };
/// The pSConfig template's port, open to anybody who can reach it.
pub const TEMPLATE: Entrance = Entrance { name: "psconfig", ..METRICS };
/// The API's socket, which only the node's own user can open: a limit for mistakes.
pub const API: Entrance = Entrance { name: "api", limits: Limits { all: 256, each: 256 }, life: None };

/// The kind of slot holders at an entrance.
pub trait Caller {
    /// The host; none if only this one can call.
    fn host(&self) -> Option<Host>;
}

impl Caller for SocketAddr {
    fn host(&self) -> Option<Host> {
        Some(self.ip().into())
    }
}

impl Caller for tokio::net::unix::SocketAddr {
    fn host(&self) -> Option<Host> {
        None
    }
}

/// Serves connections forever.
pub async fn serve<L>(mut listener: L, router: Router, entrance: Entrance, metrics: Arc<Metrics>)
where
    L: Listener,
    L::Addr: Caller,
{
    let slots = SlotPool::new(entrance.limits);
    loop {
        let (mut io, address) = listener.accept().await;
        match slots.take(address.host()) {
            Ok(place) => {
                let (router, metrics) = (router.clone(), metrics.clone());
                tokio::spawn(async move {
                    if let Some(reason) = attend(io, router, entrance, place).await {
                        metrics.note_turned_away(entrance.name, reason);
                    }
                });
            }
            Err(full) => {
                metrics.note_turned_away(entrance.name, full.word());
                // It fits the socket's buffer, which is empty.
                let _ = tokio::time::timeout(Duration::from_millis(10), io.write_all(BUSY)).await;
            }
        }
    }
}

/// The answer when all are busy.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: \
    application/json\r\nconnection: close\r\n\r\n{\"code\":\"temporary\",\"text\":\"this node is \
    answering as many requests as it can: try again later\"}";

/// Attends to one connection; a word for why it was given up, if it was.
async fn attend(
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    entrance: Entrance,
    mut place: Slot<Option<Host>>,
) -> Option<&'static str> {
    let (service, worker) = (TowerToHyperService::new(router), place.worker());
    let service = service_fn(move |request: axum::http::Request<Incoming>| {
        let (service, worker) = (service.clone(), worker.clone());
        async move {
            if !worker.settle() {
                // The place is lost, and the connection is about to be.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(match tokio::time::timeout(ANSWER_TIMEOUT, service.call(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => too_late(),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(Unread::new(io)), service);
    let life = async {
        match entrance.life {
            Some(life) => tokio::time::sleep(life).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        served = connection => match served {
            Err(error) if error.is_timeout() => Some("silent"),
            Err(error) if error.is_parse() => Some("broken"),
            _ => None,
        },
        () = place.lost() => Some("crowded"),
        () = life => Some("slow"),
    }
}

fn too_late() -> Response {
    let text = format!("the answer takes longer than {} s", ANSWER_TIMEOUT.as_secs());
    error(StatusCode::SERVICE_UNAVAILABLE, "temporary", text)
}

/// A connection that is given up when its client takes nothing of what is written.
struct Unread<S> {
    io: S,
    /// Runs while the client takes nothing.
    patience: Option<Pin<Box<Sleep>>>,
}

impl<S> Unread<S> {
    const fn new(io: S) -> Self {
        Self { io, patience: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Unread<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> Unread<S> {
    fn poll_patiently<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if let Poll::Ready(done) = poll(Pin::new(&mut self.io), context) {
            self.patience = None;
            return Poll::Ready(done);
        }
        let patience = self.patience.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        ready!(patience.as_mut().poll(context));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Unread<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.poll_patiently(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.poll_patiently(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_patiently(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_patiently(context, AsyncWrite::poll_shutdown)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::AsyncReadExt as _;

    use super::*;

    fn router() -> Router {
        Router::new().route("/", get(|| async { "x".repeat(1 << 20) }))
    }

    fn run(test: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
    }

    /// Row 14, the other way round. It takes as long as a client may take nothing.
    #[test]
    fn an_answer_that_nobody_reads_is_given_up() {
        run(async {
            let slots = SlotPool::new(API.limits);
            let (mut client, server) = tokio::io::duplex(4 << 10);
            let attending = tokio::spawn(attend(server, router(), API, slots.take(None).unwrap()));
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let ended = tokio::time::timeout(3 * WRITE_TIMEOUT, attending).await;
            assert!(ended.is_ok(), "an answer that nobody reads is written for ever");
            assert_eq!(slots.count(), 0);
        });
    }

    #[test]
    fn who_asks_keeps_its_place_and_who_does_not_makes_room() {
        run(async {
            let slots = SlotPool::new(Limits { all: 2, each: 2 });
            let attend_another = || {
                let (client, server) = tokio::io::duplex(4 << 10);
                (client, tokio::spawn(attend(server, router(), METRICS, slots.take(None).unwrap())))
            };
            let (mut asking, _asked) = attend_another();
            asking.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            asking.read_exact(&mut [0; 100]).await.unwrap();
            let (_silent, crowded) = attend_another();
            let (mut last, _served) = attend_another();
            assert_eq!(crowded.await.unwrap(), Some("crowded"));
            last.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let (mut one, mut other) = (Vec::new(), Vec::new());
            last.read_to_end(&mut one).await.unwrap();
            asking.read_to_end(&mut other).await.unwrap();
            assert!(one.len() > 1 << 20 && other.len() > (1 << 20) - 100);
        });
    }
}
