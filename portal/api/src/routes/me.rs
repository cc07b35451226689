//! Oneself: what one is, one's password, and one's second factor.

use axum::Json;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use culvert_portal_model::people::User;
use culvert_portal_service::people::accounts::UserEdit;
use culvert_portal_service::people::oneself;
use culvert_portal_service::people::second_factor;
use culvert_portal_service::people::sessions;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::{Caller, Credential};
use crate::cookie;
use crate::etag::{IfMatch, Versioned};
use crate::problem::Answer;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(show, edit))
        .routes(routes!(change_password))
        .routes(routes!(step_up))
        .routes(routes!(begin_second_factor, remove_second_factor))
        .routes(routes!(confirm_second_factor))
        .routes(routes!(renew_recovery_codes))
}

/// What is changed of one's own account. What is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnEdit {
    /// What others see.
    #[schema(min_length = 1, max_length = 128, format = "line")]
    display_name: Option<String>,
    /// Where mail goes; an empty text removes the address.
    #[schema(max_length = 254, format = "mail-address")]
    email: Option<String>,
}

/// A new password.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PasswordChange {
    /// The password that there is; not for whoever has none, since they log in elsewhere.
    #[schema(max_length = 1024)]
    current: Option<String>,
    /// The new one: at least twelve characters.
    #[schema(min_length = 12, max_length = 1024)]
    password: String,
}

/// A proof of who one is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The password, if there is no second factor.
    #[schema(max_length = 1024)]
    password: Option<String>,
    /// A code, if there is one.
    #[schema(max_length = 64)]
    code: Option<String>,
}

/// What an authenticator needs.
#[derive(Debug, Serialize, ToSchema)]
pub struct EnrolmentDocument {
    /// The secret, to type.
    secret: String,
    /// The same, for a QR code.
    url: String,
}

/// A code of an authenticator.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Code {
    /// Six digits.
    #[schema(max_length = 64)]
    code: String,
}

/// Codes for when the second factor is lost, each good once.
#[derive(Debug, Serialize, ToSchema)]
pub struct RecoveryCodes {
    /// The codes: shown this once.
    codes: Vec<String>,
}

/// See oneself.
#[utoipa::path(
    get, path = "/me", operation_id = "showOneself", tag = "oneself",
    responses((
        status = 200, description = "One's own account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller) -> Answer<Versioned<User>> {
    let user = oneself::show(&api.portal, &actor).await?;
    Ok(Versioned::ok(user.version, user))
}

/// Change one's own name and address.
#[utoipa::path(
    patch, path = "/me", operation_id = "editOneself", tag = "oneself", request_body = OwnEdit,
    params(("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "One's own account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn edit(
    State(api): State<Api>,
    Caller(actor): Caller,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<OwnEdit>,
) -> Answer<Versioned<User>> {
    let email = body.email.map(|address| Some(address).filter(|address| !address.is_empty()));
    let edit = UserEdit { display_name: body.display_name, email, state: None };
    let user = oneself::edit(&api.portal, &actor, &edit, version).await?;
    Ok(Versioned::ok(user.version, user))
}

/// Change one's own password. All other sessions end.
#[utoipa::path(
    put, path = "/me/password", operation_id = "changePassword", tag = "oneself", request_body = PasswordChange,
    responses((status = 204, description = "It is changed.")),
)]
async fn change_password(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<PasswordChange>,
) -> Answer<StatusCode> {
    oneself::change_password(&api.portal, &actor, body.current.as_deref(), &body.password).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Prove again who one is, for what needs a recent proof. The session's cookie changes.
#[utoipa::path(
    post, path = "/me/step-up", operation_id = "stepUp", tag = "oneself", request_body = Proof,
    responses((status = 204, description = "It is proved.")),
)]
async fn step_up(
    State(api): State<Api>,
    Caller(actor): Caller,
    credential: Credential,
    StrictJson(body): StrictJson<Proof>,
) -> Answer<Response> {
    // Whoever has none is refused by the table.
    let secret = if let Credential::Session(secret) = credential { secret } else { String::new() };
    let new = sessions::step_up(&api.portal, &actor, &secret, body.password.as_deref(), body.code.as_deref()).await?;
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(value) = cookie::set(cookie::Name::Session, Some(&new), api.is_secure) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    Ok(response)
}

/// Begin to set up a second factor.
#[utoipa::path(
    post, path = "/me/second-factor", operation_id = "beginSecondFactor", tag = "oneself",
    responses((status = 201, description = "What the authenticator needs.", body = EnrolmentDocument)),
)]
async fn begin_second_factor(
    State(api): State<Api>,
    Caller(actor): Caller,
) -> Answer<(StatusCode, Json<EnrolmentDocument>)> {
    let made = second_factor::begin(&api.portal, &actor).await?;
    Ok((StatusCode::CREATED, Json(EnrolmentDocument { secret: made.secret, url: made.url })))
}

/// Make the second factor count, by a code of it.
#[utoipa::path(
    post, path = "/me/second-factor/confirm", operation_id = "confirmSecondFactor", tag = "oneself",
    request_body = Code, responses((status = 200, description = "The recovery codes.", body = RecoveryCodes)),
)]
async fn confirm_second_factor(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<Code>,
) -> Answer<Json<RecoveryCodes>> {
    let codes = second_factor::confirm(&api.portal, &actor, &body.code).await?;
    Ok(Json(RecoveryCodes { codes }))
}

/// Remove the second factor.
#[utoipa::path(
    delete, path = "/me/second-factor", operation_id = "removeSecondFactor", tag = "oneself",
    responses((status = 204, description = "It is removed.")),
)]
async fn remove_second_factor(State(api): State<Api>, Caller(actor): Caller) -> Answer<StatusCode> {
    second_factor::remove(&api.portal, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Replace the recovery codes.
#[utoipa::path(
    post, path = "/me/recovery-codes", operation_id = "renewRecoveryCodes", tag = "oneself",
    responses((status = 200, description = "The new codes; the old ones are no longer good.", body = RecoveryCodes)),
)]
async fn renew_recovery_codes(State(api): State<Api>, Caller(actor): Caller) -> Answer<Json<RecoveryCodes>> {
    let codes = second_factor::renew_recovery_codes(&api.portal, &actor).await?;
    Ok(Json(RecoveryCodes { codes }))
}
