//! Passkeys.

use culvert_portal_model::id::Id;
use culvert_portal_model::passkeys::Passkey;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, user_id, name, credential_id, public_key, counter, created_at, last_used_at FROM passkeys",
            $tail
        )
    };
}

/// A passkey as the database has it.
#[derive(Debug, Clone)]
pub struct PasskeyRow {
    /// What is shown.
    pub passkey: Passkey,
    /// What its authenticator calls it, in base64url.
    pub credential_id: String,
    /// Its key as the authenticator wrote it (COSE).
    pub public_key: Vec<u8>,
    /// How often it has signed.
    pub counter: u32,
}

/// Adds a passkey.
///
/// # Errors
/// [`StoreError::Taken`] if it is registered.
pub async fn insert(writing: &mut Writing, row: &PasskeyRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO passkeys (id, user_id, name, credential_id, public_key, counter, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(row.passkey.id.text())
    .bind(row.passkey.user.text())
    .bind(row.passkey.name.clone())
    .bind(row.credential_id.clone())
    .bind(row.public_key.clone())
    .bind(i64::from(row.counter))
    .bind(row.passkey.created_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds a passkey by what its authenticator calls it.
///
/// # Errors
/// [`StoreError`].
pub async fn by_credential(reads: &mut impl Reads, credential_id: &str) -> Result<Option<PasskeyRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE credential_id = $1")).bind(credential_id.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// The passkeys of one person, in the order in which they were registered.
///
/// # Errors
/// [`StoreError`].
pub async fn of_user(reads: &mut impl Reads, user: Id) -> Result<Vec<PasskeyRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE user_id = $1 ORDER BY id LIMIT 100")).bind(user.text());
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// How many somebody has.
///
/// # Errors
/// [`StoreError`].
pub async fn count_of(reads: &mut impl Reads, user: Id) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT COUNT(*) AS count FROM passkeys WHERE user_id = $1").bind(user.text());
    row::number(&query.fetch_one(reads.connection()).await?, "count")
}

/// Remembers that a passkey was used, and how often it has signed; says whether nobody else has
/// written that meanwhile.
///
/// # Errors
/// [`StoreError`].
pub async fn used(writing: &mut Writing, id: Id, before: u32, counter: u32, at: Timestamp) -> Result<bool, StoreError> {
    let query = sqlx::query("UPDATE passkeys SET counter = $1, last_used_at = $2 WHERE id = $3 AND counter = $4");
    let query = query.bind(i64::from(counter)).bind(at.as_microsecond()).bind(id.text()).bind(i64::from(before));
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Removes a passkey of one person; says whether there was one.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, user: Id, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM passkeys WHERE id = $1 AND user_id = $2").bind(id.text()).bind(user.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Removes all of one person.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user.text()).execute(writing.connection()).await?;
    Ok(())
}

fn of_row(row: &AnyRow) -> Result<PasskeyRow, StoreError> {
    let passkey = Passkey {
        id: row::id(row, "id")?,
        user: row::id(row, "user_id")?,
        name: row::text(row, "name")?,
        created_at: row::time(row, "created_at")?,
        last_used_at: row::time_or_none(row, "last_used_at")?,
    };
    Ok(PasskeyRow {
        passkey,
        credential_id: row::text(row, "credential_id")?,
        public_key: row::bytes(row, "public_key")?,
        counter: row::small(row, "counter", "counter of a passkey")?,
    })
}
