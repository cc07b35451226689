//! Who is logged in where.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, user_id, secret_hash, created_at, last_seen_at, expires_at, proved_at, address, agent ",
            "FROM sessions",
            $tail
        )
    };
}

/// A session as the database has it.
#[derive(Debug, Clone)]
pub struct SessionRow {
    /// Names it; not the secret.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// The hash of the secret in the cookie.
    pub secret_hash: String,
    /// When the person logged in.
    pub created_at: Timestamp,
    /// When it was last used.
    pub last_seen_at: Timestamp,
    /// When it ends however much it is used.
    pub expires_at: Timestamp,
    /// When the person last proved who they are.
    pub proved_at: Timestamp,
    /// The address that it was last used from.
    pub address: String,
    /// What the browser calls itself.
    pub agent: String,
}

/// Adds a session.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, session: &SessionRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO sessions (id, user_id, secret_hash, created_at, last_seen_at, expires_at, proved_at, address, \
         agent) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(session.id.text())
    .bind(session.user.text())
    .bind(session.secret_hash.clone())
    .bind(session.created_at.as_microsecond())
    .bind(session.last_seen_at.as_microsecond())
    .bind(session.expires_at.as_microsecond())
    .bind(session.proved_at.as_microsecond())
    .bind(session.address.clone())
    .bind(session.agent.clone())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds a session by the hash of its secret.
///
/// # Errors
/// [`StoreError`].
pub async fn by_secret(reads: &mut impl Reads, secret_hash: &str) -> Result<Option<SessionRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE secret_hash = $1")).bind(secret_hash.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds a session.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<SessionRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page of the sessions that have not ended, of one person or of all, newest first, and one more
/// if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    reads: &mut impl Reads,
    user: Option<Id>,
    now: Timestamp,
    page: &PageRequest,
) -> Result<Vec<SessionRow>, StoreError> {
    let query = sqlx::query(select!(
        " WHERE ($1 = '' OR user_id = $1) AND expires_at > $2 AND ($3 = '' OR id < $3) ORDER BY id DESC LIMIT $4"
    ));
    let query = query
        .bind(user.map(Id::text).unwrap_or_default())
        .bind(now.as_microsecond())
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// The addresses that a person's sessions, also those that have ended, were last used from.
///
/// # Errors
/// [`StoreError`].
pub async fn addresses_of(reads: &mut impl Reads, user: Id) -> Result<Vec<String>, StoreError> {
    let query = sqlx::query("SELECT DISTINCT address FROM sessions WHERE user_id = $1 LIMIT 100").bind(user.text());
    query.fetch_all(reads.connection()).await?.iter().map(|found| row::text(found, "address")).collect()
}

/// Remembers that a session was used, and from where.
///
/// # Errors
/// [`StoreError`].
pub async fn seen(writing: &mut Writing, id: Id, at: Timestamp, address: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET last_seen_at = $1, address = $2 WHERE id = $3 AND last_seen_at < $1")
        .bind(at.as_microsecond())
        .bind(address.to_owned())
        .bind(id.text())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Gives a session another secret after a proof; says whether it was there with the old one.
///
/// # Errors
/// [`StoreError`].
pub async fn rotate(
    writing: &mut Writing,
    old_hash: &str,
    new_hash: &str,
    proved_at: Timestamp,
) -> Result<bool, StoreError> {
    // Later than the login also where it was at the same time: the two proofs are told apart.
    let query = sqlx::query(
        "UPDATE sessions SET secret_hash = $1, \
         proved_at = CASE WHEN $2 > created_at THEN $2 ELSE created_at + 1 END WHERE secret_hash = $3",
    );
    let query = query.bind(new_hash.to_owned()).bind(proved_at.as_microsecond()).bind(old_hash.to_owned());
    let done = query.execute(writing.connection()).await?;
    Ok(done.rows_affected() == 1)
}

/// Ends a session; says whether there was one. Its row stays for a while: the address in it is one
/// that the person is known to use.
///
/// # Errors
/// [`StoreError`].
pub async fn end(writing: &mut Writing, id: Id, now: Timestamp) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "UPDATE sessions SET expires_at = $1, secret_hash = 'ended ' || id WHERE id = $2 AND expires_at > $1",
    );
    let query = query.bind(now.as_microsecond()).bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Ends all sessions of a person, except one; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn end_of(writing: &mut Writing, user: Id, except: Option<Id>, now: Timestamp) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "UPDATE sessions SET expires_at = $1, secret_hash = 'ended ' || id \
         WHERE user_id = $2 AND id <> $3 AND expires_at > $1",
    );
    let query = query.bind(now.as_microsecond()).bind(user.text()).bind(except.map(Id::text).unwrap_or_default());
    Ok(query.execute(writing.connection()).await?.rows_affected())
}

/// Removes up to `most` sessions that ended before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM sessions WHERE id IN (SELECT id FROM sessions WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        id: row::id(row, "id")?,
        user: row::id(row, "user_id")?,
        secret_hash: row::text(row, "secret_hash")?,
        created_at: row::time(row, "created_at")?,
        last_seen_at: row::time(row, "last_seen_at")?,
        expires_at: row::time(row, "expires_at")?,
        proved_at: row::time(row, "proved_at")?,
        address: row::text(row, "address")?,
        agent: row::text(row, "agent")?,
    })
}
