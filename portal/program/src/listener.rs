//! Connections: accepted, bounded, with or without TLS, and ended in good order.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use culvert_portal_api::caller::Peer;
use culvert_portal_api::head;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt as _;

use crate::tls::Certificate;

/// Connections at once. The unit's limit of descriptors is twice that.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a client may take for the head of a request, also for the next on a connection: one
/// that says nothing gives its place to others.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take for the handshake of TLS.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// What the library takes of a head at most: more than the portal does, which says in its own words
/// what is too much. What is beyond this is answered with a bare 431.
const HEAD_BYTES_MAX: usize = 2 * head::BYTES_MAX;
const HEADERS_MAX: usize = 4 * head::HEADERS_MAX;
/// How long connections have to end when the portal stops.
const ENDING: Duration = Duration::from_secs(4);

/// A listener that is bound.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    certificate: Option<Arc<Certificate>>,
}

impl Listener {
    /// Binds an address, which a flag has named.
    ///
    /// # Errors
    /// If it is taken or not one of this host.
    pub async fn bind(address: SocketAddr, flag: &str, certificate: Option<Arc<Certificate>>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address).await.map_err(|error| {
            let remedy = match error.kind() {
                ErrorKind::PermissionDenied => "a port below 1024 needs the capability CAP_NET_BIND_SERVICE; or ",
                _ => "",
            };
            anyhow::anyhow!("cannot listen on {address} ({error}): {remedy}choose another address with {flag}")
        })?;
        Ok(Self { listener, certificate })
    }

    /// The address, with its port.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.listener.local_addr()?)
    }

    /// Answers until the portal stops; then lets what runs end, for a few seconds.
    pub async fn serve(self, router: Router, mut stopping: watch::Receiver<bool>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let graceful = GracefulShutdown::new();
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                _ = stopping.wait_for(|stopping| *stopping) => break,
            };
            let Ok((stream, peer)) = accepted else {
                // Out of descriptors, most likely: others must end first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            let _ = stream.set_nodelay(true);
            let (router, watcher) = (router.clone(), graceful.watcher());
            let acceptor = self.certificate.as_ref().map(|certificate| certificate.acceptor());
            tokio::spawn(async move {
                match acceptor {
                    None => answer(stream, peer, router, watcher).await,
                    Some(acceptor) => {
                        let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await;
                        if let Ok(Ok(stream)) = handshake {
                            answer(stream, peer, router, watcher).await;
                        }
                    }
                }
                drop(place);
            });
        }
        drop(self.listener);
        let _ = tokio::time::timeout(ENDING, graceful.shutdown()).await;
    }
}

/// Answers the requests of one connection.
async fn answer<S>(stream: S, peer: SocketAddr, router: Router, watcher: hyper_util::server::graceful::Watcher)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            let mut request = request.map(Body::new);
            request.extensions_mut().insert(Peer(peer.ip()));
            router.oneshot(request).await
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // A client that breaks off is no event.
    let _ = watcher.watch(connection).await;
}
