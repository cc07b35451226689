//! Identity providers, set up by administrators.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::providers::{AccountPolicy, Provider, ProviderTest};
use culvert_portal_model::role::Role;
use culvert_portal_service::people::providers;
use culvert_portal_service::people::providers::ProviderWish;
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
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(show, replace, delete)).routes(routes!(test))
}

/// What an identity provider is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderDocument {
    /// Its name in addresses: letters a to z, digits, dots, hyphens, underscores.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    name: String,
    /// What people are shown: "Log in with …".
    #[schema(min_length = 1, max_length = 64, format = "line")]
    title: String,
    /// What it calls itself, letter by letter; its discovery document is below this address.
    #[schema(min_length = 1, max_length = 500)]
    issuer: String,
    /// What it calls this portal.
    #[schema(min_length = 1, max_length = 500, format = "line")]
    client_id: String,
    /// The portal's secret there. It is never shown. Absent, the one that is there stays; an empty
    /// one removes it.
    #[schema(max_length = 1000)]
    client_secret: Option<String>,
    /// What the portal asks for; `openid` is added. `openid profile email` if absent.
    #[schema(max_items = 20)]
    scopes: Option<Vec<String>>,
    /// The claim that has a person's groups, as `groups` or `realm_access.roles`; absent, the
    /// provider gives no roles.
    #[schema(max_length = 200, format = "line")]
    groups_claim: Option<String>,
    /// The roles that each group gives.
    roles_by_group: Option<BTreeMap<String, Vec<Role>>>,
    /// Who gets in: who has linked an account (`linked-only`), others when an administrator
    /// approves (`approval`), or everybody whom the provider knows (`create`).
    accounts: AccountPolicy,
    /// Whether it may be at an address that is not public, and without TLS.
    inside: Option<bool>,
    /// Whether people log in with it; true if absent.
    enabled: Option<bool>,
}

impl ProviderDocument {
    fn wish(self) -> ProviderWish {
        let usual = || vec!["profile".to_owned(), "email".to_owned()];
        ProviderWish {
            name: self.name,
            title: self.title,
            issuer: self.issuer,
            client_id: self.client_id,
            client_secret: self.client_secret,
            scopes: self.scopes.unwrap_or_else(usual),
            groups_claim: self.groups_claim.filter(|claim| !claim.trim_matches(' ').is_empty()),
            roles_by_group: self.roles_by_group.unwrap_or_default(),
            accounts: self.accounts,
            inside: self.inside.unwrap_or(false),
            enabled: self.enabled.unwrap_or(true),
        }
    }
}

/// List identity providers.
#[utoipa::path(
    get, path = "/providers", operation_id = "listProviders", tag = "providers", params(PagingByName),
    responses((status = 200, description = "A page of providers, in the order of their names.", body = Page<Provider>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(paging): StrictQuery<PagingByName>,
) -> Answer<Json<Page<Provider>>> {
    Ok(Json(providers::list(&api.portal, &actor, &paging.checked()?).await?))
}

/// Add an identity provider.
///
/// At the provider, register this portal with the redirect address
/// `PUBLIC_URL/api/v1/login/oidc/callback`.
#[utoipa::path(
    post, path = "/providers", operation_id = "createProvider", tag = "providers", request_body = ProviderDocument,
    responses((
        status = 201, description = "The provider.", body = Provider,
        headers(
            ("ETag" = String, description = "The version, for `If-Match`."),
            ("Location" = String, description = "Its path."),
        ),
    )),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<ProviderDocument>,
) -> Answer<Versioned<Provider>> {
    let provider = providers::create(&api.portal, &actor, &body.wish()).await?;
    Ok(Versioned::created_at(format!("/api/v1/providers/{}", provider.id), provider.version, provider))
}

/// See one identity provider.
#[utoipa::path(
    get, path = "/providers/{id}", operation_id = "showProvider", tag = "providers", params(("id" = Id, Path)),
    responses((
        status = 200, description = "The provider.", body = Provider,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Versioned<Provider>> {
    let provider = providers::show(&api.portal, &actor, id).await?;
    Ok(Versioned::ok(provider.version, provider))
}

/// Replace an identity provider. Its secret stays if none is given.
#[utoipa::path(
    put, path = "/providers/{id}", operation_id = "replaceProvider", tag = "providers",
    request_body = ProviderDocument,
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The provider.", body = Provider,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn replace(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<ProviderDocument>,
) -> Answer<Versioned<Provider>> {
    let provider = providers::edit(&api.portal, &actor, id, &body.wish(), version).await?;
    Ok(Versioned::ok(provider.version, provider))
}

/// Delete an identity provider, with all identities there and all roles that it gave.
#[utoipa::path(
    delete, path = "/providers/{id}", operation_id = "deleteProvider", tag = "providers",
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((status = 204, description = "It is deleted.")),
)]
async fn delete(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
) -> Answer<StatusCode> {
    providers::delete(&api.portal, &actor, id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ask an identity provider about itself, as a login would, and say what was found.
#[utoipa::path(
    post, path = "/providers/{id}/test", operation_id = "testProvider", tag = "providers", params(("id" = Id, Path)),
    responses((status = 200, description = "What was found; also if the provider does not work.", body = ProviderTest)),
)]
async fn test(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Json<ProviderTest>> {
    Ok(Json(providers::test(&api.portal, &actor, id).await?))
}
