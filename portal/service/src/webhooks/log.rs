//! The log of deliveries, and deliveries that are sent again.

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::webhooks::{Delivery, DeliveryState};
use culvert_portal_store::deliveries;
use serde_json::json;

use super::manage::find;
use crate::actor::Actor;
use crate::fault::Fault;
use crate::portal::Portal;
use crate::trail::Change;

/// A page of a webhook's deliveries, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(
    portal: &Portal,
    actor: &Actor,
    webhook: Id,
    state: Option<DeliveryState>,
    page: &PageRequest,
) -> Result<Page<Delivery>, Fault> {
    let reach = portal.permit(actor, Action::WebhookList).await?;
    let mut reading = portal.database.read().await?;
    find(&mut reading, reach, webhook).await?;
    let rows = deliveries::list(&mut reading, webhook, state, page).await?;
    Ok(Page::of(rows, page.rows, |delivery| delivery.id.text()))
}

/// One delivery.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor, id: Id) -> Result<Delivery, Fault> {
    let reach = portal.permit(actor, Action::WebhookList).await?;
    let mut reading = portal.database.read().await?;
    let row = deliveries::by_id(&mut reading, id).await?.ok_or_else(not_found)?;
    find(&mut reading, reach, row.shown.webhook).await.map_err(|_| not_found())?;
    Ok(row.shown)
}

/// Sends a delivery again from its first attempt, whatever became of it.
///
/// # Errors
/// [`Fault`].
pub async fn retry(portal: &Portal, actor: &Actor, id: Id) -> Result<Delivery, Fault> {
    let reach = portal.permit(actor, Action::WebhookEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = deliveries::by_id(&mut writing, id).await?.ok_or_else(not_found)?.shown;
    let webhook = find(&mut writing, reach, before.webhook).await.map_err(|_| not_found())?.shown;
    if !webhook.enabled && before.event != EventKind::WebhookTest.word() {
        return Err(Fault::new(Problem::Conflict, "the webhook is switched off: switch it on first"));
    }
    deliveries::begin_again(&mut writing, id, portal.now()).await?;
    let after = deliveries::by_id(&mut writing, id).await?.ok_or_else(not_found)?.shown;
    let change = Change::of("webhook", webhook.id).to(&json!({ "retry": id }));
    portal.record(&mut writing, actor, Action::WebhookEdit, change).await?;
    portal.commit(writing).await?;
    portal.due.notify_one();
    Ok(after)
}

fn not_found() -> Fault {
    Fault::not_found("delivery")
}
