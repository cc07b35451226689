//! What whoever has not logged in may do: log in, and what a secret link permits.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::people::{Session, User};
use culvert_portal_service::mail;
use culvert_portal_service::people::invitations;
use culvert_portal_service::people::login;
use culvert_portal_service::people::login::{Attempt, LoggedIn};
use culvert_portal_service::people::registration;
use culvert_portal_service::people::reset;
use culvert_portal_service::people::setup;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::people_documents::{AccountByLink, OwnAccount};
use crate::caller::{Caller, ClientAddress};
use crate::cookie;
use crate::etag::Versioned;
use crate::problem::Answer;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(set_up))
        .routes(routes!(log_in))
        .routes(routes!(register))
        .routes(routes!(accept_invitation))
        .routes(routes!(request_reset))
        .routes(routes!(complete_reset))
}

/// A name and a password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The account's name.
    #[schema(max_length = 1024)]
    name: String,
    /// Its password.
    #[schema(max_length = 1024)]
    password: String,
    /// A code of the second factor, or a recovery code.
    #[schema(max_length = 64)]
    code: Option<String>,
}

/// Somebody who has logged in.
#[derive(Debug, Serialize, ToSchema)]
pub struct LoggedInDocument {
    /// Who.
    user: User,
    /// The session, whose secret is in the cookie.
    session: Session,
}

/// Whose password is forgotten.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Forgotten {
    /// A name or an address of mail.
    #[schema(max_length = 254)]
    who: String,
}

/// A new password with a link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordByLink {
    /// The link's secret.
    #[schema(pattern = "^culvert_lnk_[A-Za-z0-9_-]{43}$")]
    secret: String,
    /// The new password.
    #[schema(min_length = 12, max_length = 1024)]
    password: String,
}

/// The answer to who has logged in.
pub fn with_cookie(api: &Api, logged_in: LoggedIn) -> Response {
    let document = LoggedInDocument { user: logged_in.user, session: logged_in.session };
    let mut response = (StatusCode::CREATED, Json(document)).into_response();
    if let Some(value) = cookie::set(cookie::Name::Session, Some(&logged_in.secret), api.is_secure) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

/// Make the first administrator.
///
/// With the link that the portal prints when it starts without any people.
#[utoipa::path(
    post, path = "/setup", operation_id = "setUp", tag = "people", request_body = AccountByLink,
    responses((
        status = 201, description = "The administrator.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn set_up(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<AccountByLink>,
) -> Answer<Versioned<User>> {
    let user = setup::set_up(&api.portal, &actor, &body.secret, &body.account.wish()).await?;
    Ok(Versioned::created(user.version, user))
}

/// Log in.
///
/// The session's secret is in the cookie of the answer.
#[utoipa::path(
    post, path = "/sessions", operation_id = "logIn", tag = "sessions", request_body = LogIn,
    responses((status = 201, description = "Who has logged in.", body = LoggedInDocument)),
)]
async fn log_in(
    State(api): State<Api>,
    Caller(actor): Caller,
    ClientAddress(address): ClientAddress,
    headers: HeaderMap,
    StrictJson(body): StrictJson<LogIn>,
) -> Answer<Response> {
    let agent = headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let attempt = Attempt {
        name: &body.name,
        password: &body.password,
        code: body.code.as_deref(),
        address: &address.to_string(),
        agent,
        request: actor.request,
    };
    let logged_in = login::log_in(&api.portal, &attempt).await?;
    Ok(with_cookie(&api, logged_in))
}

/// Make an account that waits for approval, where registration is open.
#[utoipa::path(
    post, path = "/registrations", operation_id = "register", tag = "people", request_body = OwnAccount,
    responses((
        status = 201, description = "The account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn register(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<OwnAccount>,
) -> Answer<Versioned<User>> {
    let user = registration::register(&api.portal, &actor, &body.wish()).await?;
    Ok(Versioned::created(user.version, user))
}

/// Make an account with an invitation.
#[utoipa::path(
    post, path = "/invitations/accept", operation_id = "acceptInvitation", tag = "people", request_body = AccountByLink,
    responses((
        status = 201, description = "The account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn accept_invitation(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<AccountByLink>,
) -> Answer<Versioned<User>> {
    let user = invitations::accept(&api.portal, &actor, &body.secret, &body.account.wish()).await?;
    Ok(Versioned::created(user.version, user))
}

/// Have a link for a new password mailed.
///
/// The answer is the same whether or not somebody has that name or address.
#[utoipa::path(
    post, path = "/password-resets", operation_id = "requestReset", tag = "people", request_body = Forgotten,
    responses((status = 202, description = "If there is such an account, its address gets a mail.")),
)]
async fn request_reset(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<Forgotten>,
) -> Answer<StatusCode> {
    mail::request_reset_later(api.portal.clone(), actor, body.who).await?;
    Ok(StatusCode::ACCEPTED)
}

/// Set a new password with a link.
#[utoipa::path(
    post, path = "/password-resets/complete", operation_id = "completeReset", tag = "people",
    request_body = PasswordByLink, responses((status = 204, description = "It is set. All sessions have ended.")),
)]
async fn complete_reset(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<PasswordByLink>,
) -> Answer<StatusCode> {
    reset::reset_password(&api.portal, &actor, &body.secret, &body.password).await?;
    Ok(StatusCode::NO_CONTENT)
}
