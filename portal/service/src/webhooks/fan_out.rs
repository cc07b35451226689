//! From an event to the deliveries of it, in the sequencer's transaction.

use std::collections::HashMap;

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::{Access, Action, access};
use culvert_portal_model::role::Role;
use culvert_portal_model::webhooks::{Delivery, DeliveryState};
use culvert_portal_store::Writing;
use culvert_portal_store::deliveries::{self, DeliveryRow};
use culvert_portal_store::events::EventRow;
use culvert_portal_store::webhooks::subscriptions;
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::portal::Portal;

/// Deliveries that wait for one webhook. Those beyond are dead from the beginning.
const WAITING_MAX: i64 = 1_000;

/// The webhooks of one round of the sequencer, read when its first event comes.
#[derive(Debug, Default)]
pub struct FanOut {
    targets: Option<Vec<Target>>,
    has_deliveries: bool,
}

#[derive(Debug)]
struct Target {
    webhook: Id,
    owner: Id,
    events: Vec<String>,
    roles: Vec<Role>,
    waiting: i64,
}

impl FanOut {
    /// Makes the deliveries of an event.
    ///
    /// # Errors
    /// [`Fault`] if they cannot be written.
    pub async fn deliver(
        &mut self,
        portal: &Portal,
        writing: &mut Writing,
        event: &EventRow,
        data: &Value,
    ) -> Result<(), Fault> {
        let targets = match &mut self.targets {
            Some(targets) => targets,
            none => none.insert(targets(writing).await?),
        };
        let body = content(&event.kind, event.at, event.number, data);
        for target in targets.iter_mut().filter(|target| target.wants(event)) {
            let row = row(portal, target.webhook, &event.kind, body.clone());
            let row = if target.waiting < WAITING_MAX { row } else { too_many(row) };
            deliveries::insert(writing, &row).await?;
            target.waiting += 1;
            self.has_deliveries = true;
        }
        Ok(())
    }

    /// Whether there was any.
    #[must_use]
    pub const fn has_deliveries(&self) -> bool {
        self.has_deliveries
    }
}

/// What a receiver is sent, as Standard Webhooks recommends it.
pub(super) fn content(kind: &str, at: jiff::Timestamp, number: i64, data: &Value) -> String {
    json!({ "type": kind, "timestamp": at, "number": number, "data": data }).to_string()
}

/// A delivery that is due now.
pub(super) fn row(portal: &Portal, webhook: Id, event: &str, body: String) -> DeliveryRow {
    let now = portal.now();
    let shown = Delivery {
        id: portal.new_id(),
        webhook,
        event: event.to_owned(),
        state: DeliveryState::Waiting,
        attempts: 0,
        next_at: Some(now),
        tried_at: None,
        status: None,
        fault: None,
        created_at: now,
    };
    DeliveryRow { shown, body }
}

fn too_many(row: DeliveryRow) -> DeliveryRow {
    let fault = format!("{WAITING_MAX} deliveries wait for this webhook already: its receiver is too slow");
    let shown = Delivery { state: DeliveryState::Dead, next_at: None, fault: Some(fault), ..row.shown };
    DeliveryRow { shown, ..row }
}

async fn targets(writing: &mut Writing) -> Result<Vec<Target>, Fault> {
    let mut found: HashMap<Id, Target> = HashMap::new();
    for one in subscriptions(writing).await? {
        let (webhook, owner) = (one.webhook, one.owner);
        let new = || Target { webhook, owner, events: one.events, roles: Vec::new(), waiting: 0 };
        found.entry(webhook).or_insert_with(new).roles.push(one.role);
    }
    let mut targets: Vec<Target> = found.into_values().collect();
    for target in &mut targets {
        target.waiting = deliveries::waiting_of(writing, target.webhook).await?;
    }
    Ok(targets)
}

impl Target {
    /// Whether the webhook is for this event, and its owner would see it among the events, now.
    fn wants(&self, event: &EventRow) -> bool {
        let is_chosen = self.events.iter().any(|wanted| wanted == "*" || *wanted == event.kind);
        let is_meant = EventKind::of_word(&event.kind) != Some(EventKind::WebhookTest);
        let may_see = match access(&self.roles, Action::EventFollow) {
            Access::Any => true,
            Access::Own => event.owner == Some(self.owner),
            Access::None => false,
        };
        // Whoever may have none any more, after a change of roles, is told nothing.
        let may_have = access(&self.roles, Action::WebhookEdit) != Access::None;
        is_chosen && is_meant && may_see && may_have
    }
}
