//! Settings.

use axum::extract::State;
use culvert_portal_model::settings::Settings;
use culvert_portal_service::settings;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::caller::Caller;
use crate::etag::{IfMatch, Versioned};
use crate::problem::Answer;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(show, replace))
}

/// See the settings.
#[utoipa::path(
    get, path = "/settings", operation_id = "showSettings", tag = "portal",
    responses((
        status = 200, description = "The settings.", body = Settings,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller) -> Answer<Versioned<Settings>> {
    let (settings, version) = settings::show(&api.portal, &actor).await?;
    Ok(Versioned::ok(version, settings))
}

/// Replace the settings.
#[utoipa::path(
    put, path = "/settings", operation_id = "replaceSettings", tag = "portal", request_body = Settings,
    params(("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The settings.", body = Settings,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn replace(
    State(api): State<Api>,
    Caller(actor): Caller,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<Settings>,
) -> Answer<Versioned<Settings>> {
    let version = settings::edit(&api.portal, &actor, &body, version).await?;
    Ok(Versioned::ok(version, body))
}
