//! Letting in devices without a browser: the device's side, and its person's (RFC 8628, with JSON
//! in place of forms, and problem codes in place of error words).

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::devices::{DeviceCode, DeviceRequest};
use culvert_portal_model::people::NewToken;
use culvert_portal_model::scope::Scope;
use culvert_portal_model::whole_number;
use culvert_portal_service::people::devices;
use culvert_portal_service::people::devices::Approval;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(start))
        .routes(routes!(poll))
        .routes(routes!(show))
        .routes(routes!(approve))
        .routes(routes!(deny))
}

/// A device that asks to be let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceWish {
    /// What it calls itself, as its person should recognize it: `culvert on host.example.org`.
    #[schema(min_length = 1, max_length = 100, format = "line")]
    client: String,
    /// What it wants to be allowed.
    #[schema(min_items = 1, max_items = 7)]
    scopes: Vec<Scope>,
    /// For how many days it wants its token to be good, if it says so. Its person may decide
    /// otherwise.
    #[schema(minimum = 1, maximum = 3650)]
    #[serde(default, deserialize_with = "whole_number::of_json_or_null")]
    days: Option<u32>,
}

/// A device that asks whether it was let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DevicePoll {
    /// Its secret.
    #[schema(pattern = "^culvert_dev_[A-Za-z0-9_-]{43}$")]
    device_code: String,
}

/// Which device.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Shown {
    /// The code that it shows, in any case, with or without the hyphen.
    #[param(max_length = 64)]
    user_code: String,
}

/// A device that is let in.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceApproval {
    /// The code that it shows, in any case, with or without the hyphen.
    #[schema(max_length = 64)]
    user_code: String,
    /// What it may do: all that it asked for if absent, or a part of that.
    #[schema(min_items = 1, max_items = 7)]
    scopes: Option<Vec<Scope>>,
    /// For how many days its token is good; as many as it asked for if absent, or else 90, or fewer
    /// where the settings say so.
    #[schema(minimum = 1, maximum = 3650)]
    #[serde(default, deserialize_with = "whole_number::of_json_or_null")]
    days: Option<u32>,
}

/// A device that is sent away.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DeviceDenial {
    /// The code that it shows, in any case, with or without the hyphen.
    #[schema(max_length = 64)]
    user_code: String,
}

/// Ask to be let in, as a device without a browser.
///
/// The device shows `user_code` and `verification_uri` to its person, then asks every `interval`
/// seconds at `/device/token`, for at most `expires_in` seconds.
#[utoipa::path(
    post, path = "/device/code", operation_id = "startDevice", tag = "devices", request_body = DeviceWish,
    responses((status = 201, description = "The codes.", body = DeviceCode)),
)]
async fn start(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<DeviceWish>,
) -> Answer<(StatusCode, Json<DeviceCode>)> {
    let started = devices::start(&api.portal, &actor, &body.client, &body.scopes, body.days).await?;
    Ok((StatusCode::CREATED, Json(started)))
}

/// Ask whether the device was let in. Its token is handed out this once.
///
/// Until somebody decides, the answer is a problem of status 400 whose `code` says what to do:
/// `authorization-pending` (ask again after `interval` seconds), `slow-down` (the device asks too
/// often: add five seconds to the interval; `Retry-After` has the new one), `access-denied` (give
/// up), `expired-token` (the code was used or has expired: begin again).
#[utoipa::path(
    post, path = "/device/token", operation_id = "pollDevice", tag = "devices", request_body = DevicePoll,
    responses((status = 201, description = "The token and its secret, this once.", body = NewToken)),
)]
async fn poll(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<DevicePoll>,
) -> Answer<(StatusCode, Json<NewToken>)> {
    Ok((StatusCode::CREATED, Json(devices::poll(&api.portal, &actor, &body.device_code).await?)))
}

/// See what a device wants that shows a code.
#[utoipa::path(
    get, path = "/device", operation_id = "showDevice", tag = "devices", params(Shown),
    responses((status = 200, description = "What asks, from where, and for what.", body = DeviceRequest)),
)]
async fn show(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(query): StrictQuery<Shown>,
) -> Answer<Json<DeviceRequest>> {
    Ok(Json(devices::show(&api.portal, &actor, &query.user_code).await?))
}

/// Let a device in as oneself: it gets an API token.
#[utoipa::path(
    post, path = "/device/approve", operation_id = "approveDevice", tag = "devices", request_body = DeviceApproval,
    responses((status = 204, description = "The device gets its token when it asks next.")),
)]
async fn approve(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<DeviceApproval>,
) -> Answer<StatusCode> {
    let approval = Approval { scopes: body.scopes, days: body.days };
    devices::approve(&api.portal, &actor, &body.user_code, &approval).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Send a device away.
#[utoipa::path(
    post, path = "/device/deny", operation_id = "denyDevice", tag = "devices", request_body = DeviceDenial,
    responses((status = 204, description = "The device hears it when it asks next.")),
)]
async fn deny(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<DeviceDenial>,
) -> Answer<StatusCode> {
    devices::deny(&api.portal, &actor, &body.user_code).await?;
    Ok(StatusCode::NO_CONTENT)
}
