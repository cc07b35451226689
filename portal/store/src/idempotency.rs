//! Answers that are repeated when a client repeats its request.

use jiff::Timestamp;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// The status of a request whose change is committed and whose answer is not kept yet.
const DONE: i64 = 0;

/// Who works on which request, since when. Whoever takes an abandoned request over has another
/// time: what the one before still does is undone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose key it is.
    pub caller: String,
    /// The key.
    pub name: String,
    /// When it was claimed.
    pub at: Timestamp,
}

/// A request that was seen before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The hash of its method, path and content.
    pub request_hash: String,
    /// Whether what it changes is committed.
    pub is_done: bool,
    /// Its answer; none while it is worked on, or if its portal died before it could keep it.
    pub answer: Option<KeptAnswer>,
    /// When it came.
    pub created_at: Timestamp,
}

/// An answer that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptAnswer {
    /// The status.
    pub status: u16,
    /// JSON: an array of names and values.
    pub headers: String,
    /// The content.
    pub body: Vec<u8>,
}

/// Notes that a request is worked on; says whether nobody did so before.
///
/// # Errors
/// [`StoreError`].
pub async fn begin(writing: &mut Writing, claim: &Claim, request_hash: &str) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "INSERT INTO idempotency (caller, name, request_hash, created_at) VALUES ($1, $2, $3, $4) \
         ON CONFLICT DO NOTHING",
    );
    let query = query
        .bind(claim.caller.clone())
        .bind(claim.name.clone())
        .bind(request_hash.to_owned())
        .bind(claim.at.as_microsecond());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Takes over a request whose portal has died at its work; says whether nobody else did.
///
/// # Errors
/// [`StoreError`].
pub async fn take_over(writing: &mut Writing, claim: &Claim, seen: &Seen) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "UPDATE idempotency SET created_at = $1 WHERE caller = $2 AND name = $3 AND created_at = $4 AND status IS NULL",
    );
    let query = query
        .bind(claim.at.as_microsecond())
        .bind(claim.caller.clone())
        .bind(claim.name.clone())
        .bind(seen.created_at.as_microsecond());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// What is known of a request.
///
/// # Errors
/// [`StoreError`].
pub async fn find(reads: &mut impl Reads, caller: &str, name: &str) -> Result<Option<Seen>, StoreError> {
    let query = sqlx::query(
        "SELECT request_hash, status, headers, body, created_at FROM idempotency WHERE caller = $1 AND name = $2",
    );
    let query = query.bind(caller.to_owned()).bind(name.to_owned());
    let Some(found) = query.fetch_optional(reads.connection()).await? else { return Ok(None) };
    let status = row::number_or_none(&found, "status")?;
    let answer = match status {
        Some(status) if status != DONE => Some(KeptAnswer {
            status: u16::try_from(status)
                .map_err(|_| StoreError::Corrupt { what: "status", value: status.to_string() })?,
            headers: row::text(&found, "headers")?,
            body: row::bytes(&found, "body")?,
        }),
        _ => None,
    };
    Ok(Some(Seen {
        is_done: status.is_some(),
        request_hash: row::text(&found, "request_hash")?,
        answer,
        created_at: row::time(&found, "created_at")?,
    }))
}

/// Marks a request as done, in the transaction of what it changes; says whether the claim still
/// holds.
///
/// # Errors
/// [`StoreError`].
pub async fn mark_done(writing: &mut Writing, claim: &Claim) -> Result<bool, StoreError> {
    let query = sqlx::query("UPDATE idempotency SET status = $1 WHERE caller = $2 AND name = $3 AND created_at = $4");
    let query = query.bind(DONE).bind(claim.caller.clone()).bind(claim.name.clone()).bind(claim.at.as_microsecond());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Keeps the answer, if the claim still holds.
///
/// # Errors
/// [`StoreError`].
pub async fn finish(writing: &mut Writing, claim: &Claim, answer: &KeptAnswer) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE idempotency SET status = $1, headers = $2, body = $3 \
         WHERE caller = $4 AND name = $5 AND created_at = $6",
    )
    .bind(i64::from(answer.status))
    .bind(answer.headers.clone())
    .bind(answer.body.clone())
    .bind(claim.caller.clone())
    .bind(claim.name.clone())
    .bind(claim.at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Forgets a request that changed nothing, so that it can come again. One that is marked as done
/// stays: its failure was only that its portal did not hear of the commit. A commit that is still
/// on its way holds the row, and this waits for it.
///
/// # Errors
/// [`StoreError`].
pub async fn forget(writing: &mut Writing, claim: &Claim) -> Result<(), StoreError> {
    let query =
        sqlx::query("DELETE FROM idempotency WHERE caller = $1 AND name = $2 AND created_at = $3 AND status IS NULL");
    let query = query.bind(claim.caller.clone()).bind(claim.name.clone()).bind(claim.at.as_microsecond());
    query.execute(writing.connection()).await?;
    Ok(())
}

/// Removes up to `most` that came before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM idempotency WHERE created_at <= $1 AND name IN (SELECT name FROM idempotency \
         WHERE created_at <= $1 ORDER BY created_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}
