//! Exchanges with a browser of several steps: what the portal remembers of the first, until the
//! second spends it.

use culvert_portal_model::id::Id;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::{Reads as _, Writing};
use crate::error::StoreError;
use crate::row;

/// Whose ceremony it is, of which kind, and how long it lasts.
#[derive(Debug, Clone)]
pub struct Ceremony<'a> {
    /// The hash of the secret that the second step has.
    pub secret_hash: &'a str,
    /// What it is for.
    pub kind: &'a str,
    /// Whose it is, if that is known.
    pub user: Option<Id>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// Remembers a first step.
///
/// # Errors
/// [`StoreError`].
pub async fn insert<T: Serialize + Sync>(
    writing: &mut Writing,
    ceremony: &Ceremony<'_>,
    body: &T,
) -> Result<(), StoreError> {
    let body = serde_json::to_string(body).map_err(|error| StoreError::Failed(error.to_string()))?;
    sqlx::query("INSERT INTO ceremonies (secret_hash, kind, user_id, body, expires_at) VALUES ($1, $2, $3, $4, $5)")
        .bind(ceremony.secret_hash.to_owned())
        .bind(ceremony.kind.to_owned())
        .bind(ceremony.user.map(Id::text))
        .bind(body)
        .bind(ceremony.expires_at.as_microsecond())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// What was remembered of a first step that has not ended.
///
/// # Errors
/// [`StoreError`].
pub async fn find<T: DeserializeOwned>(
    writing: &mut Writing,
    kind: &str,
    secret_hash: &str,
    now: Timestamp,
) -> Result<Option<T>, StoreError> {
    let query = sqlx::query("SELECT body FROM ceremonies WHERE secret_hash = $1 AND kind = $2 AND expires_at > $3");
    let query = query.bind(secret_hash.to_owned()).bind(kind.to_owned()).bind(now.as_microsecond());
    let found = query.fetch_optional(writing.connection()).await?;
    found.map(|found| row::json(&found, "body", "ceremony")).transpose()
}

/// Spends a first step; says whether it was there. Of two that race, one is told so.
///
/// # Errors
/// [`StoreError`].
pub async fn spend(writing: &mut Writing, secret_hash: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM ceremonies WHERE secret_hash = $1").bind(secret_hash.to_owned());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Ends all of one person.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM ceremonies WHERE user_id = $1").bind(user.text());
    query.execute(writing.connection()).await?;
    Ok(())
}

/// Removes up to `most` that ended before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM ceremonies WHERE secret_hash IN \
         (SELECT secret_hash FROM ceremonies WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}
