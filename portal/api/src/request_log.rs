//! Numbers requests, writes a line for each, and counts them.

use std::net::IpAddr;
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::caller::{Account, ClientAddress, Peer, RequestNumber};
use crate::problem::CODE;
use crate::state::Api;

/// The header with a request's number, in requests (from a proxy) and in answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Numbers a request, and notes how it ended. Neither its query nor its content is written down:
/// secrets are there. The address is there for whoever shuts out those that are refused too often.
pub async fn log(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let number = api.portal.new_id().text();
    request.extensions_mut().insert(RequestNumber(number.clone()));
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::from([0, 0, 0, 0]), |peer| peer.0);
    let address = api.proxies.client(peer, request.headers());
    request.extensions_mut().insert(ClientAddress(address));
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let began = Instant::now();
    let span = tracing::info_span!("request", number);
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = began.elapsed();
    let status = response.status().as_u16();
    let code = response.headers().get(CODE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let account = response.extensions().get::<Account>().map(|account| tracing::field::display(account.0));
    span.in_scope(|| {
        let (method, seconds) = (method.as_str(), took.as_secs_f64());
        tracing::info!(method, route, status, code, %address, account, seconds, "answered");
    });
    api.metrics.answered(method.as_str(), &route, status, took);
    if let Ok(value) = HeaderValue::from_str(&number) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
