//! Secret links that are spent by their use: for a new password, to confirm an address, for the
//! first administrator.

use culvert_portal_model::id::Id;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// A link.
#[derive(Debug, Clone)]
pub struct LinkRow {
    /// Names it.
    pub id: Id,
    /// What it is for.
    pub kind: String,
    /// The hash of its secret.
    pub secret_hash: String,
    /// Whose it is; none of the first administrator's.
    pub user: Option<Id>,
    /// What it confirms.
    pub detail: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Adds a link.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, link: &LinkRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO links (id, kind, secret_hash, user_id, detail, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(link.id.text())
    .bind(link.kind.clone())
    .bind(link.secret_hash.clone())
    .bind(link.user.map(Id::text))
    .bind(link.detail.clone())
    .bind(link.created_at.as_microsecond())
    .bind(link.expires_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds a link of a kind by the hash of its secret, without spending it.
///
/// # Errors
/// [`StoreError`].
pub async fn find(reads: &mut impl Reads, kind: &str, secret_hash: &str) -> Result<Option<LinkRow>, StoreError> {
    let query = sqlx::query(
        "SELECT id, kind, secret_hash, user_id, detail, created_at, expires_at FROM links \
         WHERE kind = $1 AND secret_hash = $2",
    );
    let query = query.bind(kind.to_owned()).bind(secret_hash.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Spends a link; says whether it was still there. Of two that race for one, one is told so.
///
/// # Errors
/// [`StoreError`].
pub async fn spend(writing: &mut Writing, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM links WHERE id = $1").bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Withdraws all links of a kind of one person; of every kind if `kind` is `None`.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id, kind: Option<&str>) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM links WHERE user_id = $1 AND ($2 = '' OR kind = $2)")
        .bind(user.text())
        .bind(kind.unwrap_or_default().to_owned())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Withdraws all links of a kind, whoever's they are.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_kind(writing: &mut Writing, kind: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM links WHERE kind = $1").bind(kind.to_owned()).execute(writing.connection()).await?;
    Ok(())
}

/// Removes links that ended before a time.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM links WHERE expires_at <= $1").bind(before.as_microsecond());
    Ok(query.execute(writing.connection()).await?.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<LinkRow, StoreError> {
    Ok(LinkRow {
        id: row::id(row, "id")?,
        kind: row::text(row, "kind")?,
        secret_hash: row::text(row, "secret_hash")?,
        user: row::id_or_none(row, "user_id")?,
        detail: row::text_or_none(row, "detail")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::time(row, "expires_at")?,
    })
}
