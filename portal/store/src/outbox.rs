//! What a transaction says of its change: entries of the audit trail, and events.
//!
//! They are written in the change's own transaction, so there is neither a change without its entry
//! nor an entry without its change. Their numbers come later ([`take`]), from one sequencer at a
//! time, which sees only what is committed: so a number never appears behind a higher one.

use culvert_portal_model::id::Id;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads as _, Writing};
use crate::error::StoreError;
use crate::kind::Kind;
use crate::row;

/// What kind of thing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    /// An entry of the audit trail.
    Audit,
    /// An event for those who follow.
    Event,
}

/// Something said.
#[derive(Debug, Clone)]
pub struct OutboxRow {
    /// Names it, and sorts it.
    pub id: Id,
    /// An entry or an event; of an event, its kind.
    pub said: Said,
    /// The kind of event; empty for an entry.
    pub kind: String,
    /// Who may see the event; `None` for those who see everything.
    pub owner: Option<Id>,
    /// JSON.
    pub body: String,
    /// When.
    pub at: Timestamp,
    /// By what the portal knows that it has written the row.
    pub mark: String,
}

impl OutboxRow {
    /// What the mark is of.
    #[must_use]
    pub fn marked(&self) -> [Vec<u8>; 5] {
        [
            self.id.text().into_bytes(),
            word(self.said, &self.kind).into_bytes(),
            self.owner.map(Id::text).unwrap_or_default().into_bytes(),
            self.body.clone().into_bytes(),
            self.at.as_microsecond().to_string().into_bytes(),
        ]
    }
}

/// The prefix under which an entry's kind is kept.
const AUDIT: &str = "audit";

/// Says something with the transaction.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, said: &OutboxRow) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO outbox (id, kind, owner, body, at, mark) VALUES ($1, $2, $3, $4, $5, $6)")
        .bind(said.id.text())
        .bind(word(said.said, &said.kind))
        .bind(said.owner.map(Id::text))
        .bind(said.body.clone())
        .bind(said.at.as_microsecond())
        .bind(said.mark.clone())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// What was taken out.
#[derive(Debug, Clone)]
pub enum Taken {
    /// Something said.
    Said(OutboxRow),
    /// A row that this program cannot have written.
    Unreadable(Unreadable),
}

/// A row that cannot be read, as it is.
#[derive(Debug, Clone)]
pub struct Unreadable {
    /// What names it.
    pub id: String,
    /// Of what kind it claims to be.
    pub kind: String,
    /// Its owner.
    pub owner: Option<String>,
    /// Its text.
    pub body: String,
    /// Its time.
    pub at: i64,
    /// What is wrong with it.
    pub reason: String,
}

impl Unreadable {
    /// Something said whose text is not what it should be.
    #[must_use]
    pub fn of(said: OutboxRow, reason: String) -> Self {
        Self {
            id: said.id.text(),
            kind: word(said.said, &said.kind),
            owner: said.owner.map(Id::text),
            body: said.body,
            at: said.at.as_microsecond(),
            reason,
        }
    }
}

/// Takes out up to `most` in the order in which they were said.
///
/// # Errors
/// [`StoreError`].
pub async fn take(writing: &mut Writing, most: i64) -> Result<Vec<Taken>, StoreError> {
    let query = sqlx::query(
        "DELETE FROM outbox WHERE id IN (SELECT id FROM outbox ORDER BY id LIMIT $1) \
         RETURNING id, kind, owner, body, at, mark",
    );
    let mut rows = query.bind(most).fetch_all(writing.connection()).await?;
    // What a statement returns of what it changes has no order.
    rows.sort_by_cached_key(|found| row::text(found, "id").unwrap_or_default());
    rows.iter().map(of_row).collect()
}

/// Keeps a row that cannot be read, for people to look at.
///
/// # Errors
/// [`StoreError`].
pub async fn set_aside(writing: &mut Writing, row: &Unreadable, at: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO outbox_set_aside (id, kind, owner, body, at, reason, set_aside_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING",
    )
    .bind(row.id.clone())
    .bind(row.kind.clone())
    .bind(row.owner.clone())
    .bind(row.body.clone())
    .bind(row.at)
    .bind(row.reason.clone())
    .bind(at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// The end of a chain of numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// The last number; 0 if there is none.
    pub number: i64,
    /// The last hash.
    pub hash: String,
    /// The portal's signature.
    pub signature: String,
}

/// Takes hold of the end of a chain until the transaction ends: nobody else numbers meanwhile.
///
/// # Errors
/// [`StoreError`].
pub async fn hold(writing: &mut Writing, name: &str) -> Result<Head, StoreError> {
    let query = match writing.kind() {
        Kind::Sqlite => sqlx::query("SELECT number, hash, signature FROM heads WHERE name = $1"),
        Kind::Postgresql => sqlx::query("SELECT number, hash, signature FROM heads WHERE name = $1 FOR UPDATE"),
    };
    to_head(&query.bind(name.to_owned()).fetch_one(writing.connection()).await?)
}

/// Moves the end of a chain.
///
/// # Errors
/// [`StoreError`].
pub async fn move_head(writing: &mut Writing, name: &str, head: &Head) -> Result<(), StoreError> {
    sqlx::query("UPDATE heads SET number = $1, hash = $2, signature = $3 WHERE name = $4")
        .bind(head.number)
        .bind(head.hash.clone())
        .bind(head.signature.clone())
        .bind(name.to_owned())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// The end of a chain.
///
/// # Errors
/// [`StoreError`].
pub async fn head(reads: &mut impl crate::database::Reads, name: &str) -> Result<Head, StoreError> {
    let query = sqlx::query("SELECT number, hash, signature FROM heads WHERE name = $1").bind(name.to_owned());
    to_head(&query.fetch_one(reads.connection()).await?)
}

/// When the first was said of what waits for its number, in microseconds; `None` if nothing waits.
///
/// # Errors
/// [`StoreError`].
pub async fn waiting_since(reads: &mut impl crate::database::Reads) -> Result<Option<i64>, StoreError> {
    let query = sqlx::query("SELECT at FROM outbox ORDER BY id LIMIT 1");
    query.fetch_optional(reads.connection()).await?.as_ref().map(|row| row::number(row, "at")).transpose()
}

fn word(said: Said, kind: &str) -> String {
    match said {
        Said::Audit => AUDIT.to_owned(),
        Said::Event => format!("event {kind}"),
    }
}

fn to_head(row: &AnyRow) -> Result<Head, StoreError> {
    Ok(Head {
        number: row::number(row, "number")?,
        hash: row::text(row, "hash")?,
        signature: row::text(row, "signature")?,
    })
}

fn of_row(row: &AnyRow) -> Result<Taken, StoreError> {
    match said_of_row(row) {
        Ok(said) => Ok(Taken::Said(said)),
        Err(StoreError::Corrupt { what, value }) => Ok(Taken::Unreadable(Unreadable {
            id: row::text(row, "id")?,
            kind: row::text(row, "kind")?,
            owner: row::text_or_none(row, "owner")?,
            body: row::text(row, "body")?,
            at: row::number(row, "at")?,
            reason: format!("its {what} is '{value}'"),
        })),
        Err(other) => Err(other),
    }
}

fn said_of_row(row: &AnyRow) -> Result<OutboxRow, StoreError> {
    let kind = row::text(row, "kind")?;
    let (said, kind) = match kind.strip_prefix("event ") {
        Some(event) => (Said::Event, event.to_owned()),
        None if kind == AUDIT => (Said::Audit, String::new()),
        None => return Err(StoreError::Corrupt { what: "kind of outbox entry", value: kind }),
    };
    Ok(OutboxRow {
        id: row::id(row, "id")?,
        said,
        kind,
        owner: row::id_or_none(row, "owner")?,
        body: row::text(row, "body")?,
        at: row::time(row, "at")?,
        mark: row::text(row, "mark")?,
    })
}
