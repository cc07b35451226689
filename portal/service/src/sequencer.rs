//! Gives entries and events their numbers, in the order of commits.
//!
//! A number that is drawn when a row is inserted becomes visible when its transaction commits,
//! which may be after a higher one; whoever resumes behind the higher one never sees the lower. So
//! rows are said without a number, and one sequencer at a time, of all portals of a database,
//! numbers what is committed. It is also the only one who extends the audit chain: changes need not
//! wait for one another to be chained.

use std::time::Duration;

use culvert_portal_model::audit::AuditEntry;
use culvert_portal_store::audit::{self, AuditRow};
use culvert_portal_store::events::{self, EventRow};
use culvert_portal_store::outbox::{self, Head, OutboxRow, Said};
use culvert_portal_store::{StoreError, Writing};

use crate::chain::{AUDIT, EVENTS, chain_hash, head_message};
use crate::fault::Fault;
use crate::portal::Portal;

/// Rows of one round: a transaction that stays far below the 50 ms that others may wait.
const ROUND: i64 = 200;
/// How long a sequencer sleeps if nobody wakes it: what other portals say is numbered by then.
const PERIOD: Duration = Duration::from_millis(500);

/// Numbers what was said, for ever.
pub async fn run(portal: &Portal) {
    loop {
        // What cannot be numbered now waits in the database, and is tried again.
        let numbered = number_all(portal).await;
        let pause = if numbered.is_ok() { PERIOD } else { PERIOD * 4 };
        let _ = tokio::time::timeout(pause, portal.said.notified()).await;
    }
}

/// Numbers all that is committed by now.
///
/// # Errors
/// [`Fault`] if the database cannot be written.
pub async fn number_all(portal: &Portal) -> Result<(), Fault> {
    loop {
        if outbox::is_empty(&mut portal.database.read().await?).await? {
            return Ok(());
        }
        let mut writing = portal.database.write().await?;
        let count = number_some(portal, &mut writing).await?;
        writing.commit().await?;
        portal.numbered.notify_waiters();
        if count < ROUND {
            return Ok(());
        }
    }
}

async fn number_some(portal: &Portal, writing: &mut Writing) -> Result<i64, Fault> {
    // Whoever holds the ends is the sequencer; others wait here, and find the outbox empty.
    let mut chain = outbox::hold(writing, AUDIT).await?;
    let mut sequence = outbox::hold(writing, EVENTS).await?;
    let rows = outbox::take(writing, ROUND).await?;
    let (before, events_before) = (chain.number, sequence.number);
    for row in &rows {
        match row.said {
            Said::Audit => append_entry(writing, &mut chain, row).await?,
            Said::Event => append_event(writing, &mut sequence, row).await?,
        }
    }
    if chain.number > before {
        chain.signature = portal.signing.sign(&head_message(chain.number, &chain.hash));
        outbox::move_head(writing, AUDIT, &chain).await?;
    }
    if sequence.number > events_before {
        outbox::move_head(writing, EVENTS, &sequence).await?;
    }
    Ok(rows.len() as i64)
}

async fn append_entry(writing: &mut Writing, chain: &mut Head, said: &OutboxRow) -> Result<(), StoreError> {
    let entry: AuditEntry = serde_json::from_str(&said.body)
        .map_err(|error| StoreError::Corrupt { what: "entry of the audit trail", value: error.to_string() })?;
    chain.number += 1;
    chain.hash = chain_hash(&chain.hash, chain.number, &said.body);
    let row = AuditRow {
        number: chain.number,
        at: said.at,
        action: entry.action,
        object: entry.id,
        body: said.body.clone(),
        hash: chain.hash.clone(),
    };
    audit::insert(writing, &row).await
}

async fn append_event(writing: &mut Writing, sequence: &mut Head, said: &OutboxRow) -> Result<(), StoreError> {
    sequence.number += 1;
    let row = EventRow {
        number: sequence.number,
        at: said.at,
        kind: said.kind.clone(),
        owner: said.owner,
        body: said.body.clone(),
    };
    events::insert(writing, &row).await
}
