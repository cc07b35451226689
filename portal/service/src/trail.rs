//! What a change says of itself, in its own transaction: entries of the audit trail, and events.

use culvert_portal_model::audit::{AuditEntry, Outcome};
use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::outbox::{self, OutboxRow, Said};
use culvert_portal_store::{Writing, idempotency};
use serde::Serialize;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::portal::Portal;

/// What was changed.
#[derive(Debug, Clone, Default)]
pub struct Change {
    object: &'static str,
    id: Option<String>,
    before: Option<serde_json::Value>,
    after: Option<serde_json::Value>,
}

impl Change {
    /// A change of one thing of a kind.
    #[must_use]
    pub fn of(object: &'static str, id: Id) -> Self {
        Self { object, id: Some(id.text()), before: None, after: None }
    }

    /// A change of something that has no identifier.
    #[must_use]
    pub fn of_kind(object: &'static str) -> Self {
        Self { object, ..Self::default() }
    }

    /// What it was. Secrets have no place in what is given here.
    #[must_use]
    pub fn from(mut self, before: &impl Serialize) -> Self {
        self.before = serde_json::to_value(before).ok();
        self
    }

    /// What it is now. Secrets have no place in what is given here.
    #[must_use]
    pub fn to(mut self, after: &impl Serialize) -> Self {
        self.after = serde_json::to_value(after).ok();
        self
    }
}

impl Portal {
    /// Says in a transaction what it changes.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be written.
    pub async fn record(
        &self,
        writing: &mut Writing,
        actor: &Actor,
        action: Action,
        change: Change,
    ) -> Result<(), Fault> {
        self.record_as(writing, actor, action.word(), Outcome::Done, change).await
    }

    /// Says something that has no row in the table of actions, or that was refused.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be written.
    pub async fn record_as(
        &self,
        writing: &mut Writing,
        actor: &Actor,
        action: &str,
        outcome: Outcome,
        change: Change,
    ) -> Result<(), Fault> {
        let entry = AuditEntry {
            at: self.now(),
            who: actor.who.clone(),
            address: actor.address.clone(),
            request: actor.request.clone(),
            action: action.to_owned(),
            object: change.object.to_owned(),
            id: change.id,
            before: change.before,
            after: change.after,
            outcome,
        };
        if let Some(claim) = &actor.idempotency
            && !idempotency::mark_done(writing, claim).await?
        {
            let detail = "another copy of this request has taken its place: nothing was changed";
            return Err(Fault::new(Problem::IdempotencyConflict, detail));
        }
        let body = serde_json::to_string(&entry).map_err(Fault::internal)?;
        let id = self.new_id();
        let row = OutboxRow {
            id,
            said: Said::Audit,
            kind: String::new(),
            owner: None,
            body,
            at: entry.at,
            mark: String::new(),
        };
        self.say(writing, row).await
    }

    /// Tells those who follow, and webhooks. `owner` hears of it too if they hear only of their
    /// own. `body` names what it is about and does not show it.
    ///
    /// # Errors
    /// [`Fault`] if it cannot be written.
    pub async fn announce(
        &self,
        writing: &mut Writing,
        kind: EventKind,
        owner: Option<Id>,
        body: &(impl Serialize + Sync),
    ) -> Result<(), Fault> {
        let body = serde_json::to_string(body).map_err(Fault::internal)?;
        let kind = kind.word().to_owned();
        let (id, at) = (self.new_id(), self.now());
        self.say(writing, OutboxRow { id, said: Said::Event, kind, owner, body, at, mark: String::new() }).await
    }

    /// Whether the portal has written a row itself.
    pub(crate) fn has_said(&self, row: &OutboxRow) -> bool {
        // Whoever could measure the comparison reads the database anyway.
        self.mark_of(row) == row.mark
    }

    async fn say(&self, writing: &mut Writing, row: OutboxRow) -> Result<(), Fault> {
        let mark = self.mark_of(&row);
        Ok(outbox::insert(writing, &OutboxRow { mark, ..row }).await?)
    }

    fn mark_of(&self, row: &OutboxRow) -> String {
        let parts = row.marked();
        let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
        self.signing.mark("outbox", &parts)
    }

    /// Commits a transaction, and wakes the sequencer.
    ///
    /// # Errors
    /// [`Fault`].
    pub async fn commit(&self, writing: Writing) -> Result<(), Fault> {
        writing.commit().await?;
        self.said.notify_one();
        Ok(())
    }
}
