//! Accounts.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::people::{AccountState, SecretLink, User};
use culvert_portal_model::role::Role;
use culvert_portal_service::people::accounts;
use culvert_portal_service::people::accounts::{UserEdit, UserFilter};
use culvert_portal_service::people::reset;
use culvert_portal_service::people::second_factor;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use super::people_documents::AccountForSomebody;
use crate::caller::Caller;
use crate::cursor::{Cursor, page};
use crate::etag::{IfMatch, Versioned};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, edit))
        .routes(routes!(set_roles))
        .routes(routes!(make_reset_link))
        .routes(routes!(remove_second_factor))
}

/// Which accounts.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Those in this state.
    state: Option<AccountState>,
    /// Those whose name begins with this.
    #[param(pattern = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    name: Option<String>,
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// What is changed of an account. What is absent stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountEdit {
    /// What others see.
    #[schema(min_length = 1, max_length = 128, format = "line")]
    display_name: Option<String>,
    /// Where mail goes; an empty text removes the address.
    #[schema(max_length = 254, format = "mail-address")]
    email: Option<String>,
    /// `active` approves a pending account or lets a deactivated one in again; `deactivated` ends
    /// everything by which the person could get in.
    state: Option<AccountState>,
}

/// What a person may do.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RoleList {
    /// The roles that are given by hand; those of identity providers stay.
    #[schema(max_items = 5)]
    roles: Vec<Role>,
}

/// List people.
#[utoipa::path(
    get, path = "/users", operation_id = "listUsers", tag = "people", params(Filter),
    responses((status = 200, description = "A page of accounts, in the order of their names.", body = Page<User>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(filter): StrictQuery<Filter>,
) -> Answer<Json<Page<User>>> {
    let page = page(Cursor::Name, filter.cursor, filter.limit)?;
    let filter = UserFilter { state: filter.state, name: filter.name };
    Ok(Json(accounts::list(&api.portal, &actor, &filter, &page).await?))
}

/// Make an account for somebody.
#[utoipa::path(
    post, path = "/users", operation_id = "createUser", tag = "people", request_body = AccountForSomebody,
    responses((
        status = 201, description = "The account.", body = User,
        headers(
            ("ETag" = String, description = "The version, for `If-Match`."),
            ("Location" = String, description = "Its path."),
        ),
    )),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<AccountForSomebody>,
) -> Answer<Versioned<User>> {
    let user = accounts::create(&api.portal, &actor, &body.wish()).await?;
    Ok(Versioned::created_at(format!("/api/v1/users/{}", user.id), user.version, user))
}

/// See one person.
#[utoipa::path(
    get, path = "/users/{id}", operation_id = "showUser", tag = "people", params(("id" = Id, Path)),
    responses((
        status = 200, description = "The account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Versioned<User>> {
    let user = accounts::show(&api.portal, &actor, id).await?;
    Ok(Versioned::ok(user.version, user))
}

/// Change, approve, deactivate or reactivate an account.
#[utoipa::path(
    patch, path = "/users/{id}", operation_id = "editUser", tag = "people", request_body = AccountEdit,
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn edit(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<AccountEdit>,
) -> Answer<Versioned<User>> {
    let email = body.email.map(|address| Some(address).filter(|address| !address.is_empty()));
    let edit = UserEdit { display_name: body.display_name, email, state: body.state };
    let user = accounts::edit(&api.portal, &actor, id, &edit, version).await?;
    Ok(Versioned::ok(user.version, user))
}

/// Replace the roles that a person was given by hand. The person's sessions end.
#[utoipa::path(
    put, path = "/users/{id}/roles", operation_id = "setRoles", tag = "people", request_body = RoleList,
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The account.", body = User,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn set_roles(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<RoleList>,
) -> Answer<Versioned<User>> {
    let user = accounts::set_roles(&api.portal, &actor, id, &body.roles, version).await?;
    Ok(Versioned::ok(user.version, user))
}

/// Make a link by which a person sets a new password, to hand over. It is shown this once.
#[utoipa::path(
    post, path = "/users/{id}/reset-link", operation_id = "makeResetLink", tag = "people", params(("id" = Id, Path)),
    responses((status = 201, description = "The link.", body = SecretLink)),
)]
async fn make_reset_link(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
) -> Answer<(StatusCode, Json<SecretLink>)> {
    Ok((StatusCode::CREATED, Json(reset::make_link(&api.portal, &actor, id).await?)))
}

/// Remove the second factor of somebody who has lost it: codes, passkeys and recovery codes. Their
/// sessions end.
#[utoipa::path(
    delete, path = "/users/{id}/second-factor", operation_id = "removeSecondFactorOf", tag = "people",
    params(("id" = Id, Path)), responses((status = 204, description = "The person has no second factor any more.")),
)]
async fn remove_second_factor(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    second_factor::remove_of(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
