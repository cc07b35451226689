//! Invitations. A withdrawn one has no row; a used one says by whom.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::Invitation;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!("SELECT id, roles, email, created_by, created_at, expires_at, used_at, used_by FROM invitations", $tail)
    };
}

/// Adds an invitation.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, invitation: &Invitation, secret_hash: &str) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO invitations (id, secret_hash, roles, email, created_by, created_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(invitation.id.text())
    .bind(secret_hash.to_owned())
    .bind(row::join(&invitation.roles))
    .bind(invitation.email.clone())
    .bind(invitation.created_by.text())
    .bind(invitation.created_at.as_microsecond())
    .bind(invitation.expires_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds an invitation by the hash of its secret.
///
/// # Errors
/// [`StoreError`].
pub async fn by_secret(reads: &mut impl Reads, secret_hash: &str) -> Result<Option<Invitation>, StoreError> {
    let query = sqlx::query(select!(" WHERE secret_hash = $1")).bind(secret_hash.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds an invitation.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<Invitation>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page, newest first, and one more if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, page: &PageRequest) -> Result<Vec<Invitation>, StoreError> {
    let query = sqlx::query(select!(" WHERE $1 = '' OR id < $1 ORDER BY id DESC LIMIT $2"))
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// Spends an invitation; says whether it was unused. Of two that race for one, one is told so.
///
/// # Errors
/// [`StoreError`].
pub async fn spend(writing: &mut Writing, id: Id, user: Id, at: Timestamp) -> Result<bool, StoreError> {
    let query = sqlx::query("UPDATE invitations SET used_at = $1, used_by = $2 WHERE id = $3 AND used_at IS NULL")
        .bind(at.as_microsecond())
        .bind(user.text())
        .bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Withdraws an invitation that is unused; says whether there was one.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM invitations WHERE id = $1 AND used_at IS NULL").bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Withdraws all invitations that one person has made and that are unused.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_unused_of(writing: &mut Writing, created_by: Id) -> Result<u64, StoreError> {
    let query =
        sqlx::query("DELETE FROM invitations WHERE created_by = $1 AND used_at IS NULL").bind(created_by.text());
    Ok(query.execute(writing.connection()).await?.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<Invitation, StoreError> {
    Ok(Invitation {
        id: row::id(row, "id")?,
        roles: row::words(row, "roles", "role")?,
        email: row::text_or_none(row, "email")?,
        created_by: row::id(row, "created_by")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::time(row, "expires_at")?,
        used_at: row::time_or_none(row, "used_at")?,
        used_by: row::id_or_none(row, "used_by")?,
    })
}
