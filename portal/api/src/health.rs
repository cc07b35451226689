//! Whether the portal lives, and whether it can work.

use axum::extract::State;
use axum::http::StatusCode;

use crate::state::Api;

/// Answers as long as the process does anything: for whoever restarts it.
pub async fn healthz() -> &'static str {
    "ok\n"
}

/// Answers 200 if the database can be asked and the portal is not stopping: for whoever sends it
/// requests. The reason is in the log only.
pub async fn readyz(State(api): State<Api>) -> (StatusCode, &'static str) {
    if *api.stopping.borrow() {
        return (StatusCode::SERVICE_UNAVAILABLE, "stopping\n");
    }
    match api.portal.ping().await {
        Ok(()) => (StatusCode::OK, "ready\n"),
        Err(error) => {
            tracing::warn!(%error, "not ready");
            (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
        }
    }
}
