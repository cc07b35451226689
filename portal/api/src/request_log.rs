//! Numbers requests, writes a line for each, and counts them.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use tracing::Instrument as _;

use crate::problem::CODE;
use crate::state::Api;

/// The header with a request's number, in requests (from a proxy) and in answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's number, as the log and the audit trail have it.
#[derive(Debug, Clone)]
pub struct RequestNumber(pub String);

/// Numbers a request, and notes how it ended. Neither its query nor its content is written down:
/// secrets are there.
pub async fn log(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let number = api.portal.new_id().text();
    request.extensions_mut().insert(RequestNumber(number.clone()));
    let route = request.extensions().get::<MatchedPath>().map_or("none", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let began = Instant::now();
    let span = tracing::info_span!("request", number);
    let mut response = next.run(request).instrument(span.clone()).await;
    let took = began.elapsed();
    let status = response.status().as_u16();
    let code = response.headers().get(CODE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    span.in_scope(|| {
        tracing::info!(method = method.as_str(), route, status, code, seconds = took.as_secs_f64(), "answered");
    });
    api.metrics.answered(method.as_str(), &route, status, took);
    if let Ok(value) = HeaderValue::from_str(&number) {
        response.headers_mut().insert(REQUEST_ID, value);
    }
    response
}
