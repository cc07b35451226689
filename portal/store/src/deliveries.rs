//! Deliveries: events on their way to webhooks, and the log of what became of them.
//!
//! A portal that tries some holds them by a lease, which ends by the database's own clock: those of
//! portals may differ. What a portal reports of an attempt counts only if nobody has begun another
//! since.

use std::time::Duration;

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::webhooks::{Delivery, DeliveryState};
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::kind::Kind;
use crate::row;

const COLUMNS: &str = "id, webhook_id, event, body, state, attempts, next_at, tried_at, status, fault, created_at";

/// A delivery as the database has it.
#[derive(Debug, Clone)]
pub struct DeliveryRow {
    /// What the API shows.
    pub shown: Delivery,
    /// What is sent.
    pub body: String,
}

/// Adds a delivery.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, row: &DeliveryRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO deliveries (id, webhook_id, event, body, state, attempts, next_at, leased_until, tried_at, \
         status, fault, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8, $9, $10, $11)",
    )
    .bind(row.shown.id.text())
    .bind(row.shown.webhook.text())
    .bind(row.shown.event.clone())
    .bind(row.body.clone())
    .bind(row.shown.state.word())
    .bind(row.shown.attempts)
    .bind(row.shown.next_at.map(Timestamp::as_microsecond))
    .bind(row.shown.tried_at.map(Timestamp::as_microsecond))
    .bind(row.shown.status)
    .bind(row.shown.fault.clone())
    .bind(row.shown.created_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Whether something is due that nobody holds.
///
/// # Errors
/// [`StoreError`].
pub async fn is_due(reads: &mut impl Reads, kind: Kind, now: Timestamp) -> Result<bool, StoreError> {
    let text = format!(
        "SELECT id FROM deliveries WHERE state = 'waiting' AND next_at <= $1 AND leased_until <= {} LIMIT 1",
        now_of(kind)
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(now.as_microsecond());
    Ok(query.fetch_optional(reads.connection()).await?.is_some())
}

/// Takes up to `most` that are due, at most `of_webhook` of one webhook with those that others
/// hold, for so long, and counts an attempt of each. Nobody else takes them meanwhile.
///
/// # Errors
/// [`StoreError`].
pub async fn claim(
    writing: &mut Writing,
    now: Timestamp,
    lease: Duration,
    most: i64,
    of_webhook: i64,
) -> Result<Vec<DeliveryRow>, StoreError> {
    let clock = now_of(writing.kind());
    let lock = match writing.kind() {
        Kind::Sqlite => "",
        Kind::Postgresql => "FOR UPDATE SKIP LOCKED",
    };
    // The limit of each webhook is part of the choice: else those of a slow receiver would be all
    // that is ever chosen.
    let text = format!(
        "UPDATE deliveries SET leased_until = {clock} + $3, attempts = attempts + 1, tried_at = $1 WHERE id IN ( \
         SELECT id FROM deliveries WHERE state = 'waiting' AND next_at <= $1 AND leased_until <= {clock} AND id IN ( \
         SELECT id FROM (SELECT id, leased_until, next_at, \
         SUM(CASE WHEN leased_until > {clock} THEN 1 ELSE 0 END) OVER (PARTITION BY webhook_id) AS held, \
         ROW_NUMBER() OVER (PARTITION BY webhook_id, leased_until > {clock} ORDER BY next_at, id) AS place \
         FROM deliveries WHERE state = 'waiting' AND (next_at <= $1 OR leased_until > {clock})) waiting \
         WHERE leased_until <= {clock} AND held + place <= $4) \
         ORDER BY next_at, id LIMIT $2 {lock}) RETURNING {COLUMNS}"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(now.as_microsecond())
        .bind(most)
        .bind(i64::try_from(lease.as_micros()).unwrap_or(i64::MAX))
        .bind(of_webhook);
    query.fetch_all(writing.connection()).await?.iter().map(of_row).collect()
}

/// Notes what became of an attempt, unless another has begun or somebody has decided otherwise;
/// says whether it was noted.
///
/// # Errors
/// [`StoreError`].
pub async fn note(writing: &mut Writing, after: &Delivery) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE deliveries SET state = $1, next_at = $2, status = $3, fault = $4, leased_until = 0 \
         WHERE id = $5 AND attempts = $6 AND state = 'waiting'",
    )
    .bind(after.state.word())
    .bind(after.next_at.map(Timestamp::as_microsecond))
    .bind(after.status)
    .bind(after.fault.clone())
    .bind(after.id.text())
    .bind(after.attempts)
    .execute(writing.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a delivery begin again from its first attempt.
///
/// # Errors
/// [`StoreError`].
pub async fn begin_again(writing: &mut Writing, id: Id, now: Timestamp) -> Result<(), StoreError> {
    let query = sqlx::query(
        "UPDATE deliveries SET state = 'waiting', attempts = 0, next_at = $1, leased_until = 0 WHERE id = $2",
    );
    query.bind(now.as_microsecond()).bind(id.text()).execute(writing.connection()).await?;
    Ok(())
}

/// Gives up all that waits of webhooks that are switched off.
///
/// # Errors
/// [`StoreError`].
pub async fn give_up_of_disabled(writing: &mut Writing, fault: &str) -> Result<(), StoreError> {
    let query = sqlx::query(
        "UPDATE deliveries SET state = 'dead', next_at = NULL, leased_until = 0, fault = $1 WHERE state = 'waiting' \
         AND event <> 'webhook.test' AND webhook_id IN (SELECT id FROM webhooks WHERE enabled = 0)",
    );
    query.bind(fault.to_owned()).execute(writing.connection()).await?;
    Ok(())
}

/// How many wait for a webhook.
///
/// # Errors
/// [`StoreError`].
pub async fn waiting_of(reads: &mut impl Reads, webhook: Id) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT COUNT(*) AS count FROM deliveries WHERE webhook_id = $1 AND state = 'waiting'");
    row::number(&query.bind(webhook.text()).fetch_one(reads.connection()).await?, "count")
}

/// Finds a delivery.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<DeliveryRow>, StoreError> {
    let text = format!("SELECT {COLUMNS} FROM deliveries WHERE id = $1");
    let query = sqlx::query(sqlx::AssertSqlSafe(text)).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page of a webhook's deliveries, newest first, and one more if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    reads: &mut impl Reads,
    webhook: Id,
    state: Option<DeliveryState>,
    page: &PageRequest,
) -> Result<Vec<Delivery>, StoreError> {
    let text = format!(
        "SELECT {COLUMNS} FROM deliveries WHERE webhook_id = $1 AND ($2 = '' OR state = $2) AND ($3 = '' OR id < $3) \
         ORDER BY id DESC LIMIT $4"
    );
    let query = sqlx::query(sqlx::AssertSqlSafe(text))
        .bind(webhook.text())
        .bind(state.map_or("", DeliveryState::word))
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(|found| Ok(of_row(found)?.shown)).collect()
}

/// Removes up to `most` that have ended and were made before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM deliveries WHERE id IN (SELECT id FROM deliveries WHERE created_at <= $1 AND state <> 'waiting' \
         ORDER BY created_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}

/// Removes up to `most` that have ended, of webhooks that have more than `kept` of them, the oldest
/// first; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge_excess(writing: &mut Writing, kept: i64, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM deliveries WHERE id IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY webhook_id \
         ORDER BY id DESC) AS place FROM deliveries WHERE state <> 'waiting') ended WHERE place > $1 LIMIT $2)",
    );
    Ok(query.bind(kept).bind(most).execute(writing.connection()).await?.rows_affected())
}

/// The database's own time, in microseconds.
const fn now_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Sqlite => "CAST(unixepoch('subsec') * 1000000 AS INTEGER)",
        Kind::Postgresql => "CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)",
    }
}

fn of_row(found: &AnyRow) -> Result<DeliveryRow, StoreError> {
    Ok(DeliveryRow {
        shown: Delivery {
            id: row::id(found, "id")?,
            webhook: row::id(found, "webhook_id")?,
            event: row::text(found, "event")?,
            state: row::word(found, "state", "state of a delivery", DeliveryState::of_word)?,
            attempts: row::number(found, "attempts")?,
            next_at: row::time_or_none(found, "next_at")?,
            tried_at: row::time_or_none(found, "tried_at")?,
            status: row::number_or_none(found, "status")?,
            fault: row::text_or_none(found, "fault")?,
            created_at: row::time(found, "created_at")?,
        },
        body: row::text(found, "body")?,
    })
}
