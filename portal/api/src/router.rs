//! The layers that every request passes, and the routes behind them.
//!
//! From the outside in: a number and a line in the log; a task of its own, with a time; headers of
//! security; the size of the head; requests from other sites; who asks; repetition; whether they
//! may; the handler, which reads the content.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use axum::{Router, middleware};
use culvert_portal_model::problem::Problem;
use tower::ServiceBuilder;
use tower_http::csrf::CsrfLayer;

use crate::problem::Refusal;
use crate::state::Api;
use crate::{admission, caller, cookie, head, health, landing, openapi, repetition, request_log, tasks};

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
        .merge(landing::routes())
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .with_state(api.clone());
    let layers = ServiceBuilder::new()
        .layer(from_fn_with_state(api.clone(), request_log::log))
        .layer(middleware::from_fn(head::check))
        .layer(middleware::from_fn(tasks::detach))
        .layer(csrf())
        .layer(from_fn_with_state(api.clone(), caller::identify))
        .layer(from_fn_with_state(api.clone(), repetition::repeat))
        .layer(from_fn_with_state(api.clone(), admission::admit));
    let health = Router::new()
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .with_state(api.clone());
    router.layer(layers).merge(health).layer(from_fn_with_state(api.clone(), tell_browsers))
}

/// Adds what every answer says to a browser. One layer for all of it: each costs every request.
async fn tell_browsers(State(api): State<Api>, request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    // This name only: what is below it may be other services, which know of no TLS.
    let over_tls = api.is_secure.then_some((header::STRICT_TRANSPORT_SECURITY, "max-age=31536000"));
    for (name, value) in HEADERS.into_iter().chain(over_tls) {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
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
