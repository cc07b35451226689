//! The layers that every request passes, and the routes behind them.
//!
//! From the outside in: a number and a line in the log; a task of its own, with a time; headers of
//! security; the size of the content; requests from other sites; who asks; repetition; the handler.

use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Router, middleware};
use culvert_portal_model::problem::Problem;
use tower::ServiceBuilder;
use tower_http::csrf::CsrfLayer;
use tower_http::set_header::SetResponseHeaderLayer;

use crate::problem::Refusal;
use crate::state::Api;
use crate::{caller, cookie, health, openapi, repetition, request_log, tasks};

/// What every answer says to a browser (OWASP Secure Headers).
const HEADERS: [(HeaderName, &str); 8] = [
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (HeaderName::from_static("permissions-policy"), "camera=(), geolocation=(), microphone=()"),
];

/// All that the portal answers to.
pub fn router(api: &Api) -> Router {
    let (routes, mut document) = openapi::routes_and_document();
    // The one that is checked in names the cookie that there is over TLS.
    document["components"]["securitySchemes"]["session"]["name"] = cookie::Name::Session.text(api.is_secure).into();
    let document = document.to_string();
    let served = get(move || async move { ([(header::CONTENT_TYPE, "application/json")], document) });
    let router = Router::new()
        .nest("/api/v1", routes)
        .route("/api/v1/openapi.json", served)
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(api.clone());
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(api.clone(), request_log::log))
        .layer(middleware::from_fn(tasks::detach))
        .layer(csrf())
        .layer(from_fn_with_state(api.clone(), caller::identify))
        .layer(from_fn_with_state(api.clone(), repetition::repeat));
    let health = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(api.clone());
    let router = router.layer(layers).merge(health);
    let router = HEADERS.into_iter().fold(router, |router, (name, value)| {
        router.layer(SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value)))
    });
    if api.is_secure {
        let value = HeaderValue::from_static("max-age=31536000; includeSubDomains");
        return router.layer(SetResponseHeaderLayer::if_not_present(header::STRICT_TRANSPORT_SECURITY, value));
    }
    router
}

/// Refuses what a page of another site sends with this one's cookie.
fn csrf() -> CsrfLayer<fn(tower_http::csrf::ProtectionError) -> Response> {
    CsrfLayer::new().with_rejection_response(|_| {
        Refusal::new(Problem::CrossSite, "a page of another site has sent this; it is not carried out").into_response()
    })
}

async fn not_found() -> Response {
    Refusal::new(Problem::NotFound, "there is nothing at this path: /api/v1/openapi.json has what there is")
        .into_response()
}

async fn method_not_allowed() -> Response {
    Refusal::new(Problem::MethodNotAllowed, "the method is not permitted at this path").into_response()
}
