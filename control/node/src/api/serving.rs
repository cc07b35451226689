//! Serves HTTP to any client that can reach a socket, with limits on the number of connections and
//! on the time of each.
//!
//! A connection carries one request. Until the request arrives, newer connections of the same host
//! may evict it from its slot ([`crate::slots`]), so silent connections lock nobody out, however
//! many there are.

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

/// How long a request's head may take to arrive, counted from the connection.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a response may take to be produced, including the arrival of the request's body.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may read nothing of a response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// Size of a request's head: about the minimum that hyper accepts.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// A socket at which HTTP is served, and its limits.
#[derive(Clone, Copy, Debug)]
pub struct Entrance {
    /// Its name in metrics.
    pub name: &'static str,
    /// Limits on connections.
    pub limits: Limits,
    /// How long a connection may take in total; none if a response may continue forever.
    pub lifetime: Option<Duration>,
}

/// The metrics port. All accounts of this host count as one host.
pub const METRICS: Entrance =
    Entrance { name: "metrics", limits: Limits { all: 64, each: 16 }, lifetime: Some(Duration::from_secs(30)) };
/// The port of the pSConfig template, open to anybody who can reach it.
pub const TEMPLATE: Entrance = Entrance { name: "psconfig", ..METRICS };
/// The API's socket, which only the node's user can open; its limits are against mistakes.
pub const API: Entrance = Entrance { name: "api", limits: Limits { all: 256, each: 256 }, lifetime: None };

/// The address of a client.
pub trait ClientAddress {
    /// The host that holds the connection's slot; none if all clients are on this host.
    fn host(&self) -> Option<Host>;
}

impl ClientAddress for SocketAddr {
    fn host(&self) -> Option<Host> {
        Some(self.ip().into())
    }
}

impl ClientAddress for tokio::net::unix::SocketAddr {
    fn host(&self) -> Option<Host> {
        None
    }
}

/// Serves connections forever.
pub async fn serve<L>(mut listener: L, router: Router, entrance: Entrance, metrics: Arc<Metrics>)
where
    L: Listener,
    L::Addr: ClientAddress,
{
    let slots = SlotPool::new(entrance.limits);
    loop {
        let (mut io, address) = listener.accept().await;
        match slots.take(address.host()) {
            Ok(slot) => {
                let (router, metrics) = (router.clone(), metrics.clone());
                tokio::spawn(async move {
                    if let Some(reason) = serve_connection(io, router, entrance, slot).await {
                        metrics.note_turned_away(entrance.name, reason);
                    }
                });
            }
            Err(full) => {
                metrics.note_turned_away(entrance.name, full.word());
                // The response fits into the socket's empty buffer.
                let _ = tokio::time::timeout(Duration::from_millis(10), io.write_all(BUSY)).await;
            }
        }
    }
}

/// The response when all slots are busy.
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: \
    application/json\r\nconnection: close\r\n\r\n{\"code\":\"temporary\",\"text\":\"this node is \
    answering as many requests as it can: try again later\"}";

/// Serves one connection. Returns the label of the reason if it was cut off.
async fn serve_connection(
    io: impl AsyncRead + AsyncWrite + Unpin,
    router: Router,
    entrance: Entrance,
    mut slot: Slot<Option<Host>>,
) -> Option<&'static str> {
    let (service, handle) = (TowerToHyperService::new(router), slot.handle());
    let service = service_fn(move |request: axum::http::Request<Incoming>| {
        let (service, handle) = (service.clone(), handle.clone());
        async move {
            if !handle.mark_busy() {
                // The slot is lost, and the connection is about to be closed.
                std::future::pending::<()>().await;
            }
            Ok::<_, Infallible>(match tokio::time::timeout(ANSWER_TIMEOUT, service.call(request)).await {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                Err(_) => timed_out(),
            })
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(WriteTimeout::new(io)), service);
    let lifetime = async {
        match entrance.lifetime {
            Some(lifetime) => tokio::time::sleep(lifetime).await,
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
        () = slot.evicted() => Some("crowded"),
        () = lifetime => Some("slow"),
    }
}

fn timed_out() -> Response {
    let text = format!("the answer takes longer than {} s", ANSWER_TIMEOUT.as_secs());
    error(StatusCode::SERVICE_UNAVAILABLE, "temporary", text)
}

/// A connection that fails when its client reads nothing for [`WRITE_TIMEOUT`].
struct WriteTimeout<S> {
    io: S,
    /// Runs while a write is pending.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> WriteTimeout<S> {
    const fn new(io: S) -> Self {
        Self { io, timer: None }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, to)
    }
}

impl<S: AsyncWrite + Unpin> WriteTimeout<S> {
    fn poll_with_timer<T>(
        &mut self,
        context: &mut Context<'_>,
        poll: impl FnOnce(Pin<&mut S>, &mut Context<'_>) -> Poll<std::io::Result<T>>,
    ) -> Poll<std::io::Result<T>> {
        if let Poll::Ready(done) = poll(Pin::new(&mut self.io), context) {
            self.timer = None;
            return Poll::Ready(done);
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_TIMEOUT)));
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(std::io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        self.poll_with_timer(context, |io, context| io.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        self.poll_with_timer(context, |io, context| io.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_with_timer(context, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.poll_with_timer(context, AsyncWrite::poll_shutdown)
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

    /// Takes as long as [`WRITE_TIMEOUT`].
    #[test]
    fn an_answer_that_nobody_reads_is_given_up() {
        run(async {
            let slots = SlotPool::new(API.limits);
            let (mut client, server) = tokio::io::duplex(4 << 10);
            let serving = tokio::spawn(serve_connection(server, router(), API, slots.take(None).unwrap()));
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let ended = tokio::time::timeout(3 * WRITE_TIMEOUT, serving).await;
            assert!(ended.is_ok(), "a response that nobody reads is written forever");
            assert_eq!(slots.count(), 0);
        });
    }

    #[test]
    fn a_client_with_a_request_keeps_its_slot_and_a_silent_one_is_evicted() {
        run(async {
            let slots = SlotPool::new(Limits { all: 2, each: 2 });
            let connect = || {
                let (client, server) = tokio::io::duplex(4 << 10);
                (client, tokio::spawn(serve_connection(server, router(), METRICS, slots.take(None).unwrap())))
            };
            let (mut asking, _asked) = connect();
            asking.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            asking.read_exact(&mut [0; 100]).await.unwrap();
            let (_silent, crowded) = connect();
            let (mut last, _served) = connect();
            assert_eq!(crowded.await.unwrap(), Some("crowded"));
            last.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let (mut one, mut other) = (Vec::new(), Vec::new());
            last.read_to_end(&mut one).await.unwrap();
            asking.read_to_end(&mut other).await.unwrap();
            assert!(one.len() > 1 << 20 && other.len() > (1 << 20) - 100);
        });
    }
}
