//! Groups.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::people::Group;
use culvert_portal_service::people::groups;
use culvert_portal_service::people::groups::GroupWish;
use serde::Deserialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::cursor::PagingByName;
use crate::etag::{IfMatch, Versioned};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, replace, delete))
}

/// What a group is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupDocument {
    /// Its name: letters a to z, digits, dots, hyphens, underscores.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    name: String,
    /// What it is for.
    #[schema(max_length = 500, format = "line")]
    description: Option<String>,
    /// Who is in it.
    #[schema(max_items = 1000)]
    members: Vec<Id>,
}

impl GroupDocument {
    fn wish(self) -> GroupWish {
        GroupWish { name: self.name, description: self.description.unwrap_or_default(), members: self.members }
    }
}

/// List groups.
#[utoipa::path(
    get, path = "/groups", operation_id = "listGroups", tag = "people", params(PagingByName),
    responses((status = 200, description = "A page of groups, in the order of their names.", body = Page<Group>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(paging): StrictQuery<PagingByName>,
) -> Answer<Json<Page<Group>>> {
    Ok(Json(groups::list(&api.portal, &actor, &paging.checked()?).await?))
}

/// Make a group.
#[utoipa::path(
    post, path = "/groups", operation_id = "createGroup", tag = "people", request_body = GroupDocument,
    responses((
        status = 201, description = "The group.", body = Group,
        headers(
            ("ETag" = String, description = "The version, for `If-Match`."),
            ("Location" = String, description = "Its path."),
        ),
    )),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<GroupDocument>,
) -> Answer<Versioned<Group>> {
    let group = groups::create(&api.portal, &actor, &body.wish()).await?;
    Ok(Versioned::created_at(format!("/api/v1/groups/{}", group.id), group.version, group))
}

/// See one group.
#[utoipa::path(
    get, path = "/groups/{id}", operation_id = "showGroup", tag = "people", params(("id" = Id, Path)),
    responses((
        status = 200, description = "The group.", body = Group,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Versioned<Group>> {
    let group = groups::show(&api.portal, &actor, id).await?;
    Ok(Versioned::ok(group.version, group))
}

/// Replace a group.
#[utoipa::path(
    put, path = "/groups/{id}", operation_id = "replaceGroup", tag = "people", request_body = GroupDocument,
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The group.", body = Group,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn replace(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<GroupDocument>,
) -> Answer<Versioned<Group>> {
    let group = groups::edit(&api.portal, &actor, id, &body.wish(), version).await?;
    Ok(Versioned::ok(group.version, group))
}

/// Delete a group.
#[utoipa::path(
    delete, path = "/groups/{id}", operation_id = "deleteGroup", tag = "people",
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((status = 204, description = "It is deleted.")),
)]
async fn delete(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
) -> Answer<StatusCode> {
    groups::delete(&api.portal, &actor, id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}
