//! API tokens. A revoked token has no row.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::Token;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, user_id, name, prefix, scopes, created_at, expires_at, last_used_at, last_used_address ",
            "FROM tokens",
            $tail
        )
    };
}

/// Adds a token.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, token: &Token, secret_hash: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO tokens (id, user_id, name, secret_hash, prefix, scopes, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(token.id.text())
    .bind(token.user.text())
    .bind(token.name.clone())
    .bind(secret_hash.to_owned())
    .bind(token.prefix.clone())
    .bind(row::join(&token.scopes))
    .bind(token.created_at.as_microsecond())
    .bind(token.expires_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds a token by the hash of its secret.
///
/// # Errors
/// [`StoreError`].
pub async fn by_secret(reads: &mut impl Reads, secret_hash: &str) -> Result<Option<Token>, StoreError> {
    let query = sqlx::query(select!(" WHERE secret_hash = $1")).bind(secret_hash.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds a token.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<Token>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page of the tokens of one person or of all, newest first, and one more if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, user: Option<Id>, page: &PageRequest) -> Result<Vec<Token>, StoreError> {
    let query =
        sqlx::query(select!(" WHERE ($1 = '' OR user_id = $1) AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3"));
    let query = query
        .bind(user.map(Id::text).unwrap_or_default())
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// Remembers that a token was used, and from where.
///
/// # Errors
/// [`StoreError`].
pub async fn used(writing: &mut Writing, id: Id, at: Timestamp, address: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE tokens SET last_used_at = $1, last_used_address = $2 WHERE id = $3")
        .bind(at.as_microsecond())
        .bind(address.to_owned())
        .bind(id.text())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Revokes a token; says whether there was one.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM tokens WHERE id = $1").bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Revokes all tokens of a person; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM tokens WHERE user_id = $1").bind(user.text());
    Ok(query.execute(writing.connection()).await?.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<Token, StoreError> {
    Ok(Token {
        id: row::id(row, "id")?,
        user: row::id(row, "user_id")?,
        name: row::text(row, "name")?,
        prefix: row::text(row, "prefix")?,
        scopes: row::words(row, "scopes", "scope")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::time(row, "expires_at")?,
        last_used_at: row::time_or_none(row, "last_used_at")?,
        last_used_address: row::text_or_none(row, "last_used_address")?,
    })
}
