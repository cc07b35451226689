//! Sends what is due.
//!
//! A delivery is taken by a lease in the database, tried once, and what became of it is noted. A
//! portal that dies in between leaves the lease to end, and another tries again: receivers know
//! repetitions by `webhook-id`. After a failure the pauses grow, each a little random, so that what
//! failed together does not come back together; after the last attempt a delivery is dead, and goes
//! again only when somebody asks for it.

use std::sync::Arc;
use std::time::Duration;

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::webhooks::{Delivery, DeliveryState};
use culvert_portal_seams::http::{OutRequest, OutResponse};
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::Writing;
use culvert_portal_store::deliveries::{self, DeliveryRow};
use culvert_portal_store::webhooks::{self, WebhookRow};
use jiff::SignedDuration;
use serde_json::json;
use tokio::sync::Semaphore;

use super::manage::{SWITCHED_OFF, network_reach};
use super::secret::signature;
use crate::actor::Actor;
use crate::fault::Fault;
use crate::portal::Portal;
use crate::tally::Counted;
use crate::trail::Change;

/// Attempts at once of one portal.
const IN_FLIGHT_MAX: usize = 16;
/// Attempts at once for one webhook, of all portals: a slow receiver leaves room for others.
const OF_WEBHOOK_MAX: i64 = 4;
/// How long a receiver may take for its answer.
const TIMEOUT: Duration = Duration::from_secs(10);
/// For how long a portal holds what it tries: longer than an attempt ever takes.
const LEASE: Duration = Duration::from_secs(30);
/// How often the database is asked what is due, if nothing rings.
const PERIOD: Duration = Duration::from_secs(1);
/// The pauses after each failed attempt, before their random part: some 18 hours in all.
const PAUSES_SECONDS: [i64; 7] = [5, 60, 300, 1_800, 7_200, 18_000, 36_000];
/// The longest pause that a receiver may ask for.
const ASKED_MAX_SECONDS: i64 = 3_600;
/// The largest answer, of which nothing is kept.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// Sends what is due, for ever.
pub async fn run(portal: &Arc<Portal>) {
    let places = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    loop {
        let free = places.available_permits();
        // What cannot be read now is due still when it can.
        for due in take_due(portal, free).await.unwrap_or_default() {
            let Ok(place) = places.clone().try_acquire_owned() else { break };
            let portal = portal.clone();
            tokio::spawn(async move {
                attempt(&portal, due).await;
                drop(place);
                portal.due.notify_one();
            });
        }
        let _ = tokio::time::timeout(PERIOD, portal.due.notified()).await;
    }
}

/// Tries all that is due now, once each; says how many.
///
/// # Errors
/// [`Fault`] if the database cannot be written.
pub async fn deliver_due(portal: &Portal) -> Result<usize, Fault> {
    let mut count = 0;
    loop {
        let taken = take_due(portal, IN_FLIGHT_MAX).await?;
        if taken.is_empty() {
            return Ok(count);
        }
        for due in taken {
            count += 1;
            attempt(portal, due).await;
        }
    }
}

/// A delivery that this portal holds, with its webhook.
#[derive(Debug)]
struct Due {
    delivery: DeliveryRow,
    webhook: WebhookRow,
}

async fn take_due(portal: &Portal, most: usize) -> Result<Vec<Due>, Fault> {
    let (now, kind) = (portal.now(), portal.database.kind());
    if most == 0 || !deliveries::is_due(&mut portal.database.read().await?, kind, now).await? {
        return Ok(Vec::new());
    }
    let mut writing = portal.database.write().await?;
    let rows = deliveries::claim(&mut writing, now, LEASE, most as i64, OF_WEBHOOK_MAX).await?;
    let mut due = Vec::with_capacity(rows.len());
    for delivery in rows {
        if let Some(webhook) = webhooks::by_id(&mut writing, delivery.shown.webhook).await? {
            due.push(Due { delivery, webhook });
        }
    }
    writing.commit().await?;
    Ok(due)
}

/// How an attempt ended.
enum Ended {
    Delivered(u16),
    /// With the pause that the receiver asks for.
    Failed(Option<u16>, String, Option<i64>),
    /// The receiver says that it is gone for good.
    Gone(u16),
}

async fn attempt(portal: &Portal, due: Due) {
    let ended = match send(portal, &due).await {
        Ok(ended) => ended,
        Err(fault) => Ended::Failed(None, fault.log.unwrap_or(fault.detail), None),
    };
    if let Err(fault) = note(portal, due.delivery.shown, ended).await {
        // The lease ends, and it is sent again.
        let cause = fault.log.unwrap_or(fault.detail);
        tracing::warn!(cause, "what became of a delivery could not be written down");
    }
}

async fn send(portal: &Portal, due: &Due) -> Result<Ended, Fault> {
    let second = portal.now().as_second();
    let (id, body) = (due.delivery.shown.id, &due.delivery.body);
    let headers = [
        ("content-type", "application/json".to_owned()),
        ("webhook-id", id.text()),
        ("webhook-timestamp", second.to_string()),
        ("webhook-signature", signature(portal, &due.webhook, id, second, body)?),
    ];
    let request = OutRequest {
        method: "POST".to_owned(),
        url: due.webhook.shown.url.clone(),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        body: body.clone().into_bytes(),
        reach: network_reach(portal).await?,
        timeout: TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    Ok(match portal.seams.http.send(request).await {
        Ok(answer) => judged(&answer),
        Err(error) => Ended::Failed(None, error.to_string(), None),
    })
}

fn judged(answer: &OutResponse) -> Ended {
    let status = answer.status;
    match status {
        200..=299 => Ended::Delivered(status),
        300..=399 => {
            let fault = format!("it answered {status}; redirects are not followed: enter the address where it is");
            Ended::Failed(Some(status), fault, None)
        }
        410 => Ended::Gone(status),
        _ => {
            let asked = answer.headers.iter().find(|(name, _)| name == "retry-after");
            let asked = asked.and_then(|(_, value)| value.trim().parse::<i64>().ok());
            Ended::Failed(Some(status), format!("it answered {status}"), asked)
        }
    }
}

async fn note(portal: &Portal, delivery: Delivery, ended: Ended) -> Result<(), Fault> {
    let (after, counted, is_gone) = match ended {
        Ended::Delivered(status) => {
            let shown = Delivery { state: DeliveryState::Delivered, next_at: None, fault: None, ..delivery };
            (Delivery { status: Some(status.into()), ..shown }, Counted::DeliveryDone, false)
        }
        Ended::Gone(status) => {
            let fault = Some("it answered 410: it is gone for good".to_owned());
            let shown = Delivery { state: DeliveryState::Dead, next_at: None, fault, ..delivery };
            (Delivery { status: Some(status.into()), ..shown }, Counted::DeliveryDead, true)
        }
        Ended::Failed(status, fault, asked) => {
            let pause = pause(portal, delivery.attempts, asked);
            let state = if pause.is_some() { DeliveryState::Waiting } else { DeliveryState::Dead };
            let next_at = pause.map(|pause| portal.now() + pause);
            let counted = if pause.is_some() { Counted::DeliveryRetried } else { Counted::DeliveryDead };
            let status = status.map(i64::from);
            (Delivery { state, next_at, status, fault: Some(fault), ..delivery }, counted, false)
        }
    };
    let mut writing = portal.database.write().await?;
    if !deliveries::note(&mut writing, &after).await? {
        return Ok(());
    }
    if is_gone && after.event != EventKind::WebhookTest.word() {
        switch_off(portal, &mut writing, after.webhook).await?;
    }
    portal.commit(writing).await?;
    portal.tally.count(counted);
    Ok(())
}

/// The pause after so many attempts; none after the last.
fn pause(portal: &Portal, attempts: i64, asked: Option<i64>) -> Option<SignedDuration> {
    let place = usize::try_from(attempts - 1).unwrap_or_default();
    let seconds = *PAUSES_SECONDS.get(place)?;
    let seconds = seconds.max(asked.unwrap_or_default().clamp(0, ASKED_MAX_SECONDS));
    let random = i64::from(u16::from_le_bytes(bytes(&*portal.seams.randomness)));
    // Up to a fifth more.
    Some(SignedDuration::from_millis(seconds * 1_000 + seconds * 200 * random / i64::from(u16::MAX)))
}

/// A receiver that is gone is asked no more; its owner hears of it among the events.
async fn switch_off(portal: &Portal, writing: &mut Writing, id: Id) -> Result<(), Fault> {
    let Some(before) = webhooks::by_id(writing, id).await?.filter(|row| row.shown.enabled) else { return Ok(()) };
    let mut after = before.clone();
    after.shown.enabled = false;
    webhooks::replace(writing, &after, before.shown.version).await?;
    deliveries::give_up_of_disabled(writing, SWITCHED_OFF).await?;
    let change = Change::of("webhook", id).from(&before.shown).to(&after.shown);
    let done = culvert_portal_model::audit::Outcome::Done;
    portal.record_as(writing, &Actor::portal(), "webhook.disable", done, change).await?;
    let owner = Some(before.shown.owner);
    portal.announce(writing, EventKind::WebhookDisabled, owner, &json!({ "id": id })).await
}
