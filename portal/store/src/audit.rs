//! The audit trail: entries in their order, never changed.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::{many, row};

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditRow {
    /// Its number, from 1.
    pub number: i64,
    /// When.
    pub at: Timestamp,
    /// What was done.
    pub action: String,
    /// To which thing.
    pub object: Option<String>,
    /// The entry's text: what is hashed.
    pub body: String,
    /// The chain's hash after it.
    pub hash: String,
}

/// Which entries are asked for.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Those of this action; empty for all.
    pub action: String,
    /// Those about this kind of thing, a word of letters and hyphens; empty for all.
    pub object: String,
    /// Those about the thing with this identifier; empty for all.
    pub id: String,
    /// Those of what this person did, by a session or a token, or `host`, `portal` or `nobody`;
    /// empty for all.
    pub who: String,
    /// Those from this time on.
    pub from: Option<Timestamp>,
    /// Those before this time.
    pub until: Option<Timestamp>,
}

/// Adds entries at the end.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, entries: &[AuditRow]) -> Result<(), StoreError> {
    for part in many::parts(entries) {
        let places = many::places(part.len(), 6);
        let text = format!("INSERT INTO audit (number, at, action, object_id, body, hash) VALUES {places}");
        let mut query = sqlx::query(sqlx::AssertSqlSafe(text));
        for entry in part {
            query = query
                .bind(entry.number)
                .bind(entry.at.as_microsecond())
                .bind(entry.action.clone())
                .bind(entry.object.clone())
                .bind(entry.body.clone())
                .bind(entry.hash.clone());
        }
        query.execute(writing.connection()).await?;
    }
    Ok(())
}

/// A page, newest first, and one more entry if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, filter: &Filter, page: &PageRequest) -> Result<Vec<AuditRow>, StoreError> {
    let before = page.after.as_deref().and_then(|text| text.parse().ok()).unwrap_or(i64::MAX);
    let [by_session, by_token] = by_whom(&filter.who);
    let query = sqlx::query(
        "SELECT number, at, action, object_id, body, hash FROM audit WHERE number < $1 AND ($2 = '' OR action = $2) \
         AND ($3 = '' OR object_id = $3) AND at >= $4 AND at < $5 AND (body LIKE $6 OR body LIKE $7) \
         AND body LIKE $8 ORDER BY number DESC LIMIT $9",
    );
    let query = query
        .bind(before)
        .bind(filter.action.clone())
        .bind(filter.id.clone())
        .bind(filter.from.map_or(i64::MIN, Timestamp::as_microsecond))
        .bind(filter.until.map_or(i64::MAX, Timestamp::as_microsecond))
        .bind(by_session)
        .bind(by_token)
        .bind(of_kind(&filter.object))
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// Up to `most` entries behind a number, oldest first: to go through all of them.
///
/// # Errors
/// [`StoreError`].
pub async fn after(reads: &mut impl Reads, number: i64, most: i64) -> Result<Vec<AuditRow>, StoreError> {
    let query = sqlx::query(
        "SELECT number, at, action, object_id, body, hash FROM audit WHERE number > $1 ORDER BY number LIMIT $2",
    );
    query.bind(number).bind(most).fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// A pattern of the texts of entries about a kind of thing: the order of their fields is fixed, and
/// a quotation mark within a value is escaped in JSON, so it matches nothing else.
fn of_kind(object: &str) -> String {
    if object.is_empty() { "%".to_owned() } else { format!("%\",\"object\":\"{object}\",\"id\":%") }
}

/// Patterns of the texts of entries that say who did it; nothing else in them is called `who`.
fn by_whom(who: &str) -> [String; 2] {
    let said = |kind: &str, rest: &str| format!("%\",\"who\":{{\"kind\":\"{kind}\"{rest}%");
    match (who, who.parse::<Id>()) {
        ("", _) => ["%".to_owned(), "%".to_owned()],
        (_, Ok(user)) => ["session", "token"].map(|kind| said(kind, &format!(",\"user\":\"{}\"", user.text()))),
        (kind, Err(_)) => [said(kind, "}"), said(kind, "}")],
    }
}

fn of_row(row: &AnyRow) -> Result<AuditRow, StoreError> {
    Ok(AuditRow {
        number: row::number(row, "number")?,
        at: row::time(row, "at")?,
        action: row::text(row, "action")?,
        object: row::text_or_none(row, "object_id")?,
        body: row::text(row, "body")?,
        hash: row::text(row, "hash")?,
    })
}
