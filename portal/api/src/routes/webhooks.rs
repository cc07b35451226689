//! Webhooks and what was delivered to them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode, header};
use culvert_portal_model::id::Id;
use culvert_portal_model::page::Page;
use culvert_portal_model::webhooks::{Delivery, DeliveryState, NewWebhook, Webhook};
use culvert_portal_service::webhooks::manage::WebhookWish;
use culvert_portal_service::webhooks::{log, manage};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::paths::PathId;
use crate::caller::Caller;
use crate::cursor::{Cursor, PagingById, page};
use crate::etag::{IfMatch, Versioned};
use crate::problem::Answer;
use crate::query::StrictQuery;
use crate::state::Api;
use crate::strict_json::StrictJson;

/// The routes.
pub fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(show, replace, delete))
        .routes(routes!(change_secret))
        .routes(routes!(test))
        .routes(routes!(list_deliveries))
        .routes(routes!(show_delivery))
        .routes(routes!(retry_delivery))
}

/// What a webhook is to be.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookDocument {
    /// Where it goes: an `https:` URL of a public address.
    #[schema(min_length = 1, max_length = 2000)]
    url: String,
    /// What it is for.
    #[schema(max_length = 500, format = "line")]
    description: Option<String>,
    /// Which events: their kinds, or `*` for all.
    #[schema(min_items = 1, max_items = 50)]
    events: Vec<String>,
    /// Whether it is in use.
    enabled: bool,
}

impl WebhookDocument {
    fn wish(self) -> WebhookWish {
        let description = self.description.unwrap_or_default();
        WebhookWish { url: self.url, description, events: self.events, enabled: self.enabled }
    }
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    /// Those in this state.
    state: Option<DeliveryState>,
    /// Where the page before ended, as its `next` said.
    #[param(pattern = "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")]
    cursor: Option<String>,
    /// At most so many rows, 1 to 200; 50 if absent.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u32>,
}

/// List webhooks.
#[utoipa::path(
    get, path = "/webhooks", operation_id = "listWebhooks", tag = "webhooks", params(PagingById),
    responses((status = 200, description = "A page of webhooks, newest first.", body = Page<Webhook>)),
)]
async fn list(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictQuery(paging): StrictQuery<PagingById>,
) -> Answer<Json<Page<Webhook>>> {
    Ok(Json(manage::list(&api.portal, &actor, &paging.checked()?).await?))
}

/// Make a webhook for oneself. Its secret is shown this once.
#[utoipa::path(
    post, path = "/webhooks", operation_id = "createWebhook", tag = "webhooks", request_body = WebhookDocument,
    responses((
        status = 201, description = "The webhook and its secret.", body = NewWebhook,
        headers(
            ("ETag" = String, description = "The version, for `If-Match`."),
            ("Location" = String, description = "Its path."),
        ),
    )),
)]
async fn create(
    State(api): State<Api>,
    Caller(actor): Caller,
    StrictJson(body): StrictJson<WebhookDocument>,
) -> Answer<Versioned<NewWebhook>> {
    let made = manage::create(&api.portal, &actor, &body.wish()).await?;
    Ok(Versioned::created_at(format!("/api/v1/webhooks/{}", made.webhook.id), made.webhook.version, made))
}

/// See one webhook.
#[utoipa::path(
    get, path = "/webhooks/{id}", operation_id = "showWebhook", tag = "webhooks", params(("id" = Id, Path)),
    responses((
        status = 200, description = "The webhook.", body = Webhook,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn show(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Versioned<Webhook>> {
    let webhook = manage::show(&api.portal, &actor, id).await?;
    Ok(Versioned::ok(webhook.version, webhook))
}

/// Replace a webhook. What waits for one that is switched off is given up.
#[utoipa::path(
    put, path = "/webhooks/{id}", operation_id = "replaceWebhook", tag = "webhooks", request_body = WebhookDocument,
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The webhook.", body = Webhook,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn replace(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
    StrictJson(body): StrictJson<WebhookDocument>,
) -> Answer<Versioned<Webhook>> {
    let webhook = manage::replace(&api.portal, &actor, id, &body.wish(), version).await?;
    Ok(Versioned::ok(webhook.version, webhook))
}

/// Delete a webhook and its log.
#[utoipa::path(
    delete, path = "/webhooks/{id}", operation_id = "deleteWebhook", tag = "webhooks",
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((status = 204, description = "It is deleted.")),
)]
async fn delete(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
) -> Answer<StatusCode> {
    manage::delete(&api.portal, &actor, id, version).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Give a webhook another secret, shown this once. The one before signs as well for a day.
#[utoipa::path(
    post, path = "/webhooks/{id}/secret", operation_id = "changeWebhookSecret", tag = "webhooks",
    params(("id" = Id, Path), ("If-Match" = String, Header, description = "The ETag that was read.")),
    responses((
        status = 200, description = "The webhook and its new secret.", body = NewWebhook,
        headers(("ETag" = String, description = "The version, for `If-Match`.")),
    )),
)]
async fn change_secret(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    IfMatch(version): IfMatch,
) -> Answer<Versioned<NewWebhook>> {
    let made = manage::change_secret(&api.portal, &actor, id, version).await?;
    Ok(Versioned::ok(made.webhook.version, made))
}

/// Send a webhook an event that says nothing, in use or not. The delivery shows what becomes of it.
#[utoipa::path(
    post, path = "/webhooks/{id}/test", operation_id = "testWebhook", tag = "webhooks", params(("id" = Id, Path)),
    responses((status = 202, description = "The delivery.", body = Delivery)),
)]
async fn test(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
) -> Answer<(StatusCode, [(HeaderName, String); 1], Json<Delivery>)> {
    let delivery = manage::test(&api.portal, &actor, id).await?;
    let place = format!("/api/v1/deliveries/{}", delivery.id);
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, place)], Json(delivery)))
}

/// List what was delivered to a webhook, and what was not.
#[utoipa::path(
    get, path = "/webhooks/{id}/deliveries", operation_id = "listDeliveries", tag = "webhooks",
    params(("id" = Id, Path), Filter),
    responses((status = 200, description = "A page of deliveries, newest first.", body = Page<Delivery>)),
)]
async fn list_deliveries(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
    StrictQuery(filter): StrictQuery<Filter>,
) -> Answer<Json<Page<Delivery>>> {
    let page = page(Cursor::Id, filter.cursor, filter.limit)?;
    Ok(Json(log::list(&api.portal, &actor, id, filter.state, &page).await?))
}

/// See one delivery.
#[utoipa::path(
    get, path = "/deliveries/{id}", operation_id = "showDelivery", tag = "webhooks", params(("id" = Id, Path)),
    responses((status = 200, description = "The delivery.", body = Delivery)),
)]
async fn show_delivery(State(api): State<Api>, Caller(actor): Caller, PathId(id): PathId) -> Answer<Json<Delivery>> {
    Ok(Json(log::show(&api.portal, &actor, id).await?))
}

/// Send a delivery again from its first attempt, whatever became of it.
#[utoipa::path(
    post, path = "/deliveries/{id}/retry", operation_id = "retryDelivery", tag = "webhooks", params(("id" = Id, Path)),
    responses((status = 202, description = "The delivery.", body = Delivery)),
)]
async fn retry_delivery(
    State(api): State<Api>,
    Caller(actor): Caller,
    PathId(id): PathId,
) -> Answer<(StatusCode, Json<Delivery>)> {
    Ok((StatusCode::ACCEPTED, Json(log::retry(&api.portal, &actor, id).await?)))
}
