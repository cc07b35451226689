//! Invitations. Accepting one is among what needs no login.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::people::{Invitation, SecretLink};
use culvert_portal_model::role::Role;
use culvert_portal_model::whole_number;
use culvert_portal_service::mail;
use culvert_portal_service::people::invitations;
use culvert_portal_service::people::invitations::InvitationWish;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::cursor::PagingById;
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(withdraw))
}

/// An invitation that an administrator makes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvitationDocument {
    /// What the account may do.
    #[schema(max_items = 5)]
    roles: Vec<Role>,
    /// Where to mail it; the answer shows the link as well.
    #[schema(min_length = 3, max_length = 254, format = "mail-address")]
    email: Option<String>,
    /// For how many days it is good.
    #[schema(minimum = 1, maximum = 30)]
    #[serde(deserialize_with = "whole_number::of_json")]
    days: u32,
}

/// A new invitation.
#[derive(Debug, Serialize, ToSchema)]
pub struct NewInvitationDocument {
    /// The invitation.
    invitation: Invitation,
    /// Its link: shown this once.
    link: SecretLink,
}

/// List invitations.
#[utoipa::path(
    get, path = "/invitations", operation_id = "listInvitations", tag = "people", params(PagingById),
    responses((status = 200, description = "A page of invitations, newest first.", body = Page<Invitation>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(paging): StrictQuery<PagingById>,
) -> Answer<Json<Page<Invitation>>> {
    Ok(Json(invitations::list(&api.portal, &actor, &paging.checked()?).await?))
}

/// Invite somebody.
#[utoipa::path(
    post, path = "/invitations", operation_id = "invite", tag = "people", request_body = InvitationDocument,
    responses((status = 201, description = "The invitation and its link.", body = NewInvitationDocument)),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<InvitationDocument>,
) -> Answer<(StatusCode, Json<NewInvitationDocument>)> {
    let wish = InvitationWish { roles: body.roles, email: body.email, days: body.days };
    let made = invitations::invite(&api.portal, &actor, &wish).await?;
    mail::send_later(api.portal.clone(), made.mail);
    let document = NewInvitationDocument { invitation: made.invitation, link: made.link };
    Ok((StatusCode::CREATED, Json(document)))
}

/// Withdraw an invitation that is unused.
#[utoipa::path(
    delete, path = "/invitations/{id}", operation_id = "withdrawInvitation", tag = "people",
    params(("id" = Id, Path)), responses((status = 204, description = "It is no longer good.")),
)]
async fn withdraw(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    invitations::withdraw(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
