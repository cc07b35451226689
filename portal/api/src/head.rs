//! The size of a request's head.
//!
//! The HTTP library has limits of its own, which are wider: what breaks those it answers itself,
//! with a bare status.

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::problem::Problem;

use crate::problem::Refusal;

/// The longest head, in bytes.
pub const BYTES_MAX: usize = 32 * 1024;
/// The most headers.
pub const HEADERS_MAX: usize = 64;

/// Refuses a head that is too long.
pub async fn check(request: Request, next: Next) -> Response {
    let (count, bytes) = (request.headers().len(), bytes(request.headers()) + request.uri().to_string().len());
    if count > HEADERS_MAX {
        let detail = format!("the request has {count} headers; it may have {HEADERS_MAX}");
        return Refusal::new(Problem::HeadersTooLarge, detail).into_response();
    }
    if bytes > BYTES_MAX {
        let detail = format!("the request's path, query and headers have {bytes} bytes; they may have {BYTES_MAX}");
        return Refusal::new(Problem::HeadersTooLarge, detail).into_response();
    }
    next.run(request).await
}

fn bytes(headers: &HeaderMap) -> usize {
    // A colon, a space and a line end with each.
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum()
}
