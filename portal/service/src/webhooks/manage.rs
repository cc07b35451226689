//! Webhooks made, changed, tried and deleted by their owners, or by administrators.

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::webhooks::{Delivery, NewWebhook, Webhook};
use culvert_portal_seams::http::Reach as NetworkReach;
use culvert_portal_store::deliveries;
use culvert_portal_store::webhooks::{self, WebhookRow};
use culvert_portal_store::{Reads, Writing};
use jiff::SignedDuration;
use serde_json::json;

use super::fan_out::{content, row};
use super::secret;
use crate::actor::{Actor, Reach};
use crate::fault::Fault;
use crate::input;
use crate::portal::Portal;
use crate::trail::Change;

/// Webhooks that a person has at most.
const OF_PERSON_MAX: i64 = 20;
/// Kinds of events that a webhook lists at most.
const EVENTS_MAX: usize = 50;
/// For how long a secret signs that was replaced by another.
const FORMER_GOOD_FOR: SignedDuration = SignedDuration::from_hours(24);
/// What is said of deliveries that no longer go.
pub(super) const SWITCHED_OFF: &str = "the webhook was switched off";

/// What a webhook is to be.
#[derive(Debug, Clone, Default)]
pub struct WebhookWish {
    /// Where it goes.
    pub url: String,
    /// What it is for.
    pub description: String,
    /// Which events: their kinds, or `*`.
    pub events: Vec<String>,
    /// Whether it is in use.
    pub enabled: bool,
}

/// A page of webhooks, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, page: &PageRequest) -> Result<Page<Webhook>, Fault> {
    let reach = portal.permit(actor, Action::WebhookList).await?;
    let rows = webhooks::list(&mut portal.database.read().await?, reach.owner(), page).await?;
    Ok(Page::of(rows, page.rows, |webhook| webhook.id.text()))
}

/// One webhook.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor, id: Id) -> Result<Webhook, Fault> {
    let reach = portal.permit(actor, Action::WebhookList).await?;
    Ok(find(&mut portal.database.read().await?, reach, id).await?.shown)
}

/// Makes a webhook for the person who asks. Its secret is shown this once.
///
/// # Errors
/// [`Fault`].
pub async fn create(portal: &Portal, actor: &Actor, wish: &WebhookWish) -> Result<NewWebhook, Fault> {
    portal.permit(actor, Action::WebhookEdit).await?;
    let owner = actor.oneself()?;
    let wish = checked(portal, wish).await?;
    let id = portal.new_id();
    let (text, bytes) = secret::make(&*portal.seams.randomness);
    let shown = Webhook {
        id,
        owner,
        url: wish.url,
        description: wish.description,
        events: wish.events,
        enabled: wish.enabled,
        created_at: portal.now(),
        version: 1,
    };
    let row = WebhookRow { shown, secret: secret::seal(portal, id, bytes.as_slice()), former: None };
    let mut writing = portal.database.write().await?;
    if webhooks::count_of(&mut writing, owner).await? >= OF_PERSON_MAX {
        let detail = format!("you have {OF_PERSON_MAX} webhooks, which is the most: delete one first");
        return Err(Fault::new(Problem::Conflict, detail));
    }
    webhooks::insert(&mut writing, &row).await?;
    let change = Change::of("webhook", id).to(&row.shown);
    portal.record(&mut writing, actor, Action::WebhookEdit, change).await?;
    portal.commit(writing).await?;
    Ok(NewWebhook { webhook: row.shown, secret: text })
}

/// Replaces a webhook of a version. What waits for one that is switched off is given up.
///
/// # Errors
/// [`Fault`].
pub async fn replace(
    portal: &Portal,
    actor: &Actor,
    id: Id,
    wish: &WebhookWish,
    version: i64,
) -> Result<Webhook, Fault> {
    let reach = portal.permit(actor, Action::WebhookEdit).await?;
    let wish = checked(portal, wish).await?;
    let mut writing = portal.database.write().await?;
    let before = find(&mut writing, reach, id).await?;
    let shown = Webhook {
        url: wish.url,
        description: wish.description,
        events: wish.events,
        enabled: wish.enabled,
        ..before.shown.clone()
    };
    write(portal, &mut writing, actor, &before.shown, WebhookRow { shown, ..before.clone() }, version).await?;
    deliveries::give_up_of_disabled(&mut writing, SWITCHED_OFF).await?;
    let after = find(&mut writing, reach, id).await?.shown;
    portal.commit(writing).await?;
    Ok(after)
}

/// Gives a webhook another secret. The one before signs as well for a day, so that the receiver can
/// change over.
///
/// # Errors
/// [`Fault`].
pub async fn change_secret(portal: &Portal, actor: &Actor, id: Id, version: i64) -> Result<NewWebhook, Fault> {
    let reach = portal.permit(actor, Action::WebhookEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = find(&mut writing, reach, id).await?;
    let (text, bytes) = secret::make(&*portal.seams.randomness);
    let former = Some((before.secret.clone(), portal.now() + FORMER_GOOD_FOR));
    let row = WebhookRow { secret: secret::seal(portal, id, bytes.as_slice()), former, ..before.clone() };
    write(portal, &mut writing, actor, &before.shown, row, version).await?;
    let webhook = find(&mut writing, reach, id).await?.shown;
    portal.commit(writing).await?;
    Ok(NewWebhook { webhook, secret: text })
}

/// Deletes a webhook of a version, with its log.
///
/// # Errors
/// [`Fault`].
pub async fn delete(portal: &Portal, actor: &Actor, id: Id, version: i64) -> Result<(), Fault> {
    let reach = portal.permit(actor, Action::WebhookEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = find(&mut writing, reach, id).await?;
    if !webhooks::delete(&mut writing, id, version).await? {
        return Err(Fault::changed("webhook"));
    }
    let change = Change::of("webhook", id).from(&before.shown);
    portal.record(&mut writing, actor, Action::WebhookEdit, change).await?;
    portal.commit(writing).await
}

/// Sends a webhook an event that says nothing, whether or not it is in use. The log shows what
/// becomes of it.
///
/// # Errors
/// [`Fault`].
pub async fn test(portal: &Portal, actor: &Actor, id: Id) -> Result<Delivery, Fault> {
    let reach = portal.permit(actor, Action::WebhookEdit).await?;
    let mut writing = portal.database.write().await?;
    find(&mut writing, reach, id).await?;
    let kind = EventKind::WebhookTest.word();
    let delivery = row(portal, id, kind, content(kind, portal.now(), 0, &json!({ "webhook": id })));
    deliveries::insert(&mut writing, &delivery).await?;
    let change = Change::of("webhook", id).to(&json!({ "test": delivery.shown.id }));
    portal.record(&mut writing, actor, Action::WebhookEdit, change).await?;
    portal.commit(writing).await?;
    portal.due.notify_one();
    Ok(delivery.shown)
}

/// Where webhooks may go, as an administrator has set it.
pub(super) async fn network_reach(portal: &Portal) -> Result<NetworkReach, Fault> {
    let inside = portal.current_settings().await?.webhooks_inside;
    Ok(if inside { NetworkReach::Inside } else { NetworkReach::Public })
}

/// Finds a webhook that somebody may reach.
pub(crate) async fn find(reads: &mut impl Reads, reach: Reach, id: Id) -> Result<WebhookRow, Fault> {
    let row = webhooks::by_id(reads, id).await?.ok_or_else(|| Fault::not_found("webhook"))?;
    reach.covers(row.shown.owner, "webhook")?;
    Ok(row)
}

async fn write(
    portal: &Portal,
    writing: &mut Writing,
    actor: &Actor,
    before: &Webhook,
    row: WebhookRow,
    version: i64,
) -> Result<(), Fault> {
    if !webhooks::replace(writing, &row, version).await? {
        return Err(Fault::changed("webhook"));
    }
    let change = Change::of("webhook", before.id).from(before).to(&row.shown);
    portal.record(writing, actor, Action::WebhookEdit, change).await
}

async fn checked(portal: &Portal, wish: &WebhookWish) -> Result<WebhookWish, Fault> {
    let reach = network_reach(portal).await?;
    // Where the name leads is looked at each time that something is sent.
    portal.seams.http.check(&wish.url, reach).map_err(|error| Fault::of_field("url", error.to_string()))?;
    let description = input::line("description", &wish.description, 0, 500)?;
    input::at_most("events", &wish.events, EVENTS_MAX)?;
    let mut events = wish.events.clone();
    events.sort_unstable();
    events.dedup();
    if events.is_empty() {
        return Err(Fault::of_field("events", "name at least one kind of event, or '*' for all"));
    }
    let unknown = events.iter().find(|kind| *kind != "*" && EventKind::of_word(kind).is_none());
    if let Some(unknown) = unknown {
        let known: Vec<&str> = EventKind::ALL.iter().map(|kind| kind.word()).collect();
        let unknown: String = unknown.chars().take(64).collect();
        let detail = format!("'{unknown}' is no kind of event; there are *, {}", known.join(", "));
        return Err(Fault::of_field("events", detail));
    }
    Ok(WebhookWish { url: wish.url.clone(), description, events, enabled: wish.enabled })
}
