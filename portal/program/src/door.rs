//! What answers before the portal can. Its listener is there from the beginning: whoever asks
//! whether it lives, or is ready, hears so while it waits for its database, and a proxy in front
//! of it gets an answer instead of a connection that hangs.

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_api::health;
use culvert_portal_api::problem::Refusal;
use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;
use tower::ServiceExt as _;

/// The way to what answers.
#[derive(Debug, Clone, Default)]
pub struct Door {
    inside: Arc<OnceLock<Router>>,
}

impl Door {
    /// What the listener serves: what is inside, or an answer of its own as long as it is closed.
    pub fn router(&self) -> Router {
        let inside = self.inside.clone();
        Router::new().fallback(move |request: Request| {
            let inside = inside.get().cloned();
            async move {
                match inside {
                    Some(inside) => inside.oneshot(request).await.unwrap_or_else(|never| match never {}),
                    None => closed(request.uri().path().to_owned()).await,
                }
            }
        })
    }

    /// Opens it, once.
    pub fn open(&self, inside: Router) {
        let _ = self.inside.set(inside);
    }
}

async fn closed(path: String) -> Response {
    match path.as_str() {
        "/healthz" => health::healthz().await.into_response(),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "starting\n").into_response(),
        _ => {
            let detail = "the portal is starting: try again in a moment";
            Refusal(Fault { retry_after_seconds: Some(5), ..Fault::new(Problem::Unavailable, detail) }).into_response()
        }
    }
}
