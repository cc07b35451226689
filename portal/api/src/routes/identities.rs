//! One's identities at providers.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::providers::Identity;
use culvert_portal_service::people::identities;
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::problem::Answer;
use crate::state::Api;

/// The routes. Linking is among those of logging in at providers.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(unlink))
}

/// One's identities.
#[derive(Debug, Serialize, ToSchema)]
pub struct Identities {
    /// In the order in which they were linked.
    items: Vec<Identity>,
}

/// List the identities that are linked to one's account.
#[utoipa::path(
    get, path = "/me/identities", operation_id = "listIdentities", tag = "oneself",
    responses((status = 200, description = "The identities.", body = Identities)),
)]
async fn list(State(api): State<Api>, Caller(actor): Caller) -> Answer<Json<Identities>> {
    Ok(Json(Identities { items: identities::list(&api.portal, &actor).await? }))
}

/// Unlink an identity, with the roles that it brought. The last way in stays.
#[utoipa::path(
    delete, path = "/me/identities/{id}", operation_id = "unlinkIdentity", tag = "oneself",
    params(("id" = Id, Path)), responses((status = 204, description = "It is unlinked.")),
)]
async fn unlink(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    identities::unlink(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
