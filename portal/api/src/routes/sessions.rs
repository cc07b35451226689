//! Sessions: who is logged in where.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::people::Session;
use culvert_portal_service::people::login;
use culvert_portal_service::people::sessions;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::cookie;
use crate::cursor::{Cursor, page};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;

/// Tells a browser to forget what it keeps of this site (W3C Clear Site Data).
const CLEAR_SITE_DATA: HeaderName = HeaderName::from_static("clear-site-data");

/// The routes. Logging in is among those without login.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list))
        .routes(routes!(log_out))
        .routes(routes!(revoke_others))
        .routes(routes!(revoke))
}

/// Which sessions.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Those of this person.
    user: Option<Id>,
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// List sessions.
#[utoipa::path(
    get, path = "/sessions", operation_id = "listSessions", tag = "sessions", params(Filter),
    responses((status = 200, description = "A page of sessions, newest first.", body = Page<Session>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(filter): StrictQuery<Filter>,
) -> Answer<Json<Page<Session>>> {
    let page = page(Cursor::Id, filter.cursor, filter.limit)?;
    Ok(Json(sessions::list(&api.portal, &actor, filter.user, &page).await?))
}

/// Log out.
#[utoipa::path(
    delete, path = "/sessions/current", operation_id = "logOut", tag = "sessions",
    responses((status = 204, description = "The session has ended.")),
)]
async fn log_out(State(api): State<Api>, Caller(actor): Caller) -> Answer<Response> {
    login::log_out(&api.portal, &actor).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    // What the browser keeps of this site goes, too.
    let everything = HeaderValue::from_static("\"cache\", \"cookies\", \"storage\"");
    response.headers_mut().insert(CLEAR_SITE_DATA, everything);
    if let Some(value) = cookie::set(cookie::Name::Session, None, api.is_secure) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// End all of one's sessions except this one.
#[utoipa::path(
    delete, path = "/sessions/others", operation_id = "revokeOtherSessions", tag = "sessions",
    responses((status = 204, description = "They have ended.")),
)]
async fn revoke_others(State(api): State<Api>, Caller(actor): Caller) -> Answer<StatusCode> {
    sessions::revoke_others(&api.portal, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// End a session.
#[utoipa::path(
    delete, path = "/sessions/{id}", operation_id = "revokeSession", tag = "sessions",
    params(("id" = Id, Path)), responses((status = 204, description = "It has ended.")),
)]
async fn revoke(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    sessions::revoke(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
