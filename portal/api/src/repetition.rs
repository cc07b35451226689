//! `Idempotency-Key`: a client that did not hear the answer repeats its request, and hears it.
//!
//! The key belongs to the session or token that asks, and not to its person: an answer may show
//! what another token of theirs must not see. It is kept with a mark of the request, which nobody
//! makes without the portal's key, for a request may hold a password: the same key with another
//! content is refused. Answers that say "not now" are not kept: the request may come again.

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::audit::Who;
use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;
use culvert_portal_service::idempotency;
use culvert_portal_service::idempotency::{Claim, KeptAnswer, Verdict};

use crate::admission;
use crate::caller::Caller;
use crate::problem::Refusal;
use crate::state::Api;
use crate::strict_json;

/// The header, as the IETF's draft has it.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Tells a client that it has heard this before.
pub const REPEATED: HeaderName = HeaderName::from_static("idempotency-replayed");
/// The longest key.
const KEY_BYTES_MAX: usize = 255;
/// The largest answer that is kept.
const ANSWER_BYTES_MAX: usize = 1 << 20;
/// The headers that are kept of an answer.
const KEPT: [HeaderName; 3] = [header::CONTENT_TYPE, header::ETAG, header::LOCATION];

/// Repeats the answer to a request that was made before.
pub async fn repeat(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let key = match key_of(&request) {
        Ok(Some(key)) => key,
        Ok(None) => return next.run(request).await,
        Err(refusal) => return unless_not_admitted(&api, &mut request.into_parts().0, refusal).await,
    };
    let Some(caller) = request.extensions().get::<Caller>().and_then(|caller| credential(&caller.0.who)) else {
        // Who has not logged in has no keys: what they may do is spent by its own secret.
        return next.run(request).await;
    };
    let (mut parts, body) = request.into_parts();
    let bytes = match strict_json::content(body).await {
        Ok(bytes) => bytes,
        Err(refusal) => return unless_not_admitted(&api, &mut parts, refusal).await,
    };
    let uri = parts.uri.to_string();
    let mark = api.portal.signing.mark("request", &[parts.method.as_str().as_bytes(), uri.as_bytes(), &bytes]);
    request = Request::from_parts(parts, Body::from(bytes));
    let claim = match idempotency::claim(&api.portal, &caller, &key, &mark).await {
        Ok(Verdict::Repeat(answer)) => return repeated(&answer),
        Ok(Verdict::Do(claim)) => claim,
        Err(fault) => return Refusal(fault).into_response(),
    };
    if let Some(who) = request.extensions_mut().get_mut::<Caller>() {
        who.0.idempotency = Some(claim.clone());
    }
    let response = next.run(request).await;
    settle(&api, &claim, response).await
}

/// What is wrong with a request, for those who may make it.
async fn unless_not_admitted(api: &Api, parts: &mut Parts, refusal: Refusal) -> Response {
    admission::check(api, parts).await.err().unwrap_or(refusal).into_response()
}

async fn settle(api: &Api, claim: &Claim, response: Response) -> Response {
    let (parts, body) = response.into_parts();
    let Ok(bytes) = to_bytes(body, ANSWER_BYTES_MAX).await else {
        return Refusal(Fault::internal("an answer that is to be kept is too large")).into_response();
    };
    let headers: Vec<(&str, &str)> =
        KEPT.iter().filter_map(|name| Some((name.as_str(), parts.headers.get(name)?.to_str().ok()?))).collect();
    let headers = serde_json::to_string(&headers).unwrap_or_default();
    let answer = KeptAnswer { status: parts.status.as_u16(), headers, body: bytes.to_vec() };
    let kept = is_final(parts.status).then_some(&answer);
    if let Err(fault) = idempotency::settle(&api.portal, claim, kept).await {
        // The change is committed and marked: a repetition hears that its answer was lost.
        tracing::warn!(%fault, "an answer could not be kept");
    }
    Response::from_parts(parts, Body::from(bytes))
}

/// Whether the same request would be answered in the same way for ever.
fn is_final(status: StatusCode) -> bool {
    let passing = [401, 403, 408, 409, 412, 428, 429];
    !status.is_server_error() && !passing.contains(&status.as_u16())
}

fn key_of(request: &Request) -> Result<Option<String>, Refusal> {
    let writes = [Method::POST, Method::PUT, Method::PATCH, Method::DELETE].contains(request.method());
    let Some(value) = request.headers().get(IDEMPOTENCY_KEY).filter(|_| writes) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    let is_once = request.headers().get_all(IDEMPOTENCY_KEY).iter().count() == 1;
    if key.is_empty() || key.len() > KEY_BYTES_MAX || !is_once {
        let detail = format!("Idempotency-Key must come once and have 1 to {KEY_BYTES_MAX} visible ASCII characters");
        return Err(Refusal::new(Problem::BadRequest, detail));
    }
    Ok(Some(key.to_owned()))
}

/// Whose keys they are. Who has not logged in has none.
fn credential(who: &Who) -> Option<String> {
    match who {
        Who::Session { session, .. } => Some(format!("session {session}")),
        Who::Token { token, .. } => Some(format!("token {token}")),
        Who::Host | Who::Portal | Who::Nobody => None,
    }
}

fn repeated(answer: &KeptAnswer) -> Response {
    let status = StatusCode::from_u16(answer.status).unwrap_or(StatusCode::OK);
    let mut response = (status, answer.body.clone()).into_response();
    let headers: Vec<(String, String)> = serde_json::from_str(&answer.headers).unwrap_or_default();
    response.headers_mut().remove(header::CONTENT_TYPE);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(REPEATED, HeaderValue::from_static("true"));
    response
}
