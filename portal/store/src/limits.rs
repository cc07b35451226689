//! Rate limits that all portals of a database share.

use jiff::Timestamp;

use crate::database::{Reads as _, Writing};
use crate::error::StoreError;
use crate::row;

/// Puts one more request into a bucket if it has room: the generic cell rate algorithm (ITU-T
/// I.371). `every` is the time that one request takes to drain, `burst` how far ahead of the time
/// the bucket may be filled, both in microseconds. Gives the microseconds until there is room if
/// there is none.
///
/// # Errors
/// [`StoreError`].
pub async fn take(
    writing: &mut Writing,
    name: &str,
    now: Timestamp,
    every: i64,
    burst: i64,
) -> Result<Result<(), i64>, StoreError> {
    let now = now.as_microsecond();
    // One statement, so that two portals cannot both take the last place.
    let query = sqlx::query(
        "INSERT INTO limits (name, empty_at) VALUES ($1, $2 + $3) ON CONFLICT (name) DO UPDATE SET empty_at = \
         (CASE WHEN limits.empty_at > $2 THEN limits.empty_at ELSE $2 END) + $3 \
         WHERE (CASE WHEN limits.empty_at > $2 THEN limits.empty_at ELSE $2 END) + $3 <= $2 + $4",
    );
    let query = query.bind(name.to_owned()).bind(now).bind(every).bind(burst);
    if query.execute(writing.connection()).await?.rows_affected() == 1 {
        return Ok(Ok(()));
    }
    let query = sqlx::query("SELECT empty_at FROM limits WHERE name = $1").bind(name.to_owned());
    let empty_at = match query.fetch_optional(writing.connection()).await? {
        Some(found) => row::number(&found, "empty_at")?,
        None => now,
    };
    Ok(Err((empty_at + every - burst - now).max(1)))
}

/// Empties a bucket.
///
/// # Errors
/// [`StoreError`].
pub async fn reset(writing: &mut Writing, name: &str) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM limits WHERE name = $1").bind(name.to_owned()).execute(writing.connection()).await?;
    Ok(())
}

/// Removes up to `most` buckets that have been empty since a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM limits WHERE name IN (SELECT name FROM limits WHERE empty_at <= $1 ORDER BY empty_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}
