//! API tokens.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::people::{NewToken, Token};
use culvert_portal_model::scope::Scope;
use culvert_portal_model::whole_number;
use culvert_portal_service::people::tokens;
use culvert_portal_service::people::tokens::TokenWish;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::cursor::{Cursor, page};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show_current, give_up)).routes(routes!(revoke))
}

/// A token that somebody wants.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TokenWishDocument {
    /// What its owner calls it.
    #[schema(min_length = 1, max_length = 100, format = "line")]
    name: String,
    /// What it may be used for.
    #[schema(min_items = 1, max_items = 7)]
    scopes: Vec<Scope>,
    /// For how many days.
    #[schema(minimum = 1, maximum = 3650)]
    #[serde(deserialize_with = "whole_number::of_json")]
    days: u32,
}

/// Which tokens.
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

/// List tokens.
#[utoipa::path(
    get, path = "/tokens", operation_id = "listTokens", tag = "tokens", params(Filter),
    responses((status = 200, description = "A page of tokens, newest first.", body = Page<Token>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(filter): StrictQuery<Filter>,
) -> Answer<Json<Page<Token>>> {
    let page = page(Cursor::Id, filter.cursor, filter.limit)?;
    Ok(Json(tokens::list(&api.portal, &actor, filter.user, &page).await?))
}

/// Make a token for oneself. Its secret is shown this once.
#[utoipa::path(
    post, path = "/tokens", operation_id = "createToken", tag = "tokens", request_body = TokenWishDocument,
    responses((status = 201, description = "The token and its secret.", body = NewToken)),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<TokenWishDocument>,
) -> Answer<(StatusCode, Json<NewToken>)> {
    let wish = TokenWish { name: body.name, scopes: body.scopes, days: body.days };
    Ok((StatusCode::CREATED, Json(tokens::create(&api.portal, &actor, &wish).await?)))
}

/// See the token that asks.
#[utoipa::path(
    get, path = "/tokens/current", operation_id = "showCurrentToken", tag = "tokens",
    responses((status = 200, description = "The token, without its secret.", body = Token)),
)]
async fn show_current(State(api): State<Api>, Caller(actor): Caller) -> Answer<Json<Token>> {
    Ok(Json(tokens::current(&api.portal, &actor).await?))
}

/// Give up the token that asks, as a program does that logs out.
#[utoipa::path(
    delete, path = "/tokens/current", operation_id = "giveUpToken", tag = "tokens",
    responses((status = 204, description = "It is no longer good.")),
)]
async fn give_up(State(api): State<Api>, Caller(actor): Caller) -> Answer<StatusCode> {
    tokens::give_up(&api.portal, &actor).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Revoke a token.
#[utoipa::path(
    delete, path = "/tokens/{id}", operation_id = "revokeToken", tag = "tokens",
    params(("id" = Id, Path)), responses((status = 204, description = "It is no longer good.")),
)]
async fn revoke(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<StatusCode> {
    tokens::revoke(&api.portal, &actor, id).await?;
    Ok(StatusCode::NO_CONTENT)
}
