//! Events: what those who follow are told, in the order of commits.

use culvert_portal_model::id::Id;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::{many, row};

/// An event in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventRow {
    /// Its number, from 1.
    pub number: i64,
    /// When.
    pub at: Timestamp,
    /// What happened.
    pub kind: String,
    /// Who may see it besides those who see everything.
    pub owner: Option<Id>,
    /// JSON.
    pub body: String,
}

/// Adds events at the end.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, events: &[EventRow]) -> Result<(), StoreError> {
    for part in many::parts(events) {
        let text = format!("INSERT INTO events (number, at, kind, owner, body) VALUES {}", many::places(part.len(), 5));
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
        for event in part {
            query = query
                .bind(event.number)
                .bind(event.at.as_microsecond())
                .bind(event.kind.clone())
                .bind(event.owner.map(Id::text))
                .bind(event.body.clone());
        }
        query.execute(writing.connection()).await?;
    }
    Ok(())
}

/// Up to `most` events behind a number, oldest first; only those of `owner` if one is given.
///
/// # Errors
/// [`StoreError`].
pub async fn after(
    reads: &mut impl Reads,
    number: i64,
    owner: Option<Id>,
    most: i64,
) -> Result<Vec<EventRow>, StoreError> {
    let query = sqlx::query(
        "SELECT number, at, kind, owner, body FROM events WHERE number > $1 AND ($2 = '' OR owner = $2) \
         ORDER BY number LIMIT $3",
    );
    let query = query.bind(number).bind(owner.map(Id::text).unwrap_or_default()).bind(most);
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// The number of the oldest event that is kept; `None` if there is none.
///
/// # Errors
/// [`StoreError`].
pub async fn oldest(reads: &mut impl Reads) -> Result<Option<i64>, StoreError> {
    let row = sqlx::query("SELECT MIN(number) AS number FROM events").fetch_one(reads.connection()).await?;
    row::number_or_none(&row, "number")
}

/// Removes up to `most` events from before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM events WHERE number IN (SELECT number FROM events WHERE at <= $1 ORDER BY at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<EventRow, StoreError> {
    Ok(EventRow {
        number: row::number(row, "number")?,
        at: row::time(row, "at")?,
        kind: row::text(row, "kind")?,
        owner: row::id_or_none(row, "owner")?,
        body: row::text(row, "body")?,
    })
}
