//! Requests as tasks that a disconnect does not drop.
//!
//! A future that is dropped while its database statement is on the wire gives back a connection
//! whose state nobody knows; the next borrower's writes may vanish. So each request runs to its
//! end, within its time, whether or not its client waits.

use std::time::Duration;

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;
use tracing::Instrument as _;

use crate::problem::Refusal;

/// How long a request may take, except for the stream of events, which begins within it.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs a request as a task of its own.
pub async fn detach(request: Request, next: Next) -> Response {
    let task = tokio::spawn(next.run(request).in_current_span());
    match tokio::time::timeout(REQUEST_TIMEOUT, task).await {
        Ok(Ok(response)) => response,
        // It has panicked; the hook has written where.
        Ok(Err(error)) => Refusal(Fault::internal(error)).into_response(),
        Err(_) => Refusal::new(
            Problem::Timeout,
            format!("the request took more than {} s; it may be carried out still", REQUEST_TIMEOUT.as_secs()),
        )
        .into_response(),
    }
}
