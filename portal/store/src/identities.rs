//! Identities that people have at providers, linked to their accounts: by issuer and subject.

use culvert_portal_model::id::Id;
use culvert_portal_model::providers::Identity;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, issuer, subject, user_id, provider_id, email, linked_at, last_used_at FROM identities",
            $tail
        )
    };
}

/// Links an identity.
///
/// # Errors
/// [`StoreError::Taken`] if it is linked.
pub async fn insert(writing: &mut Writing, identity: &Identity) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO identities (id, issuer, subject, user_id, provider_id, email, linked_at, last_used_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
    )
    .bind(identity.id.text())
    .bind(identity.issuer.clone())
    .bind(identity.subject.clone())
    .bind(identity.user.text())
    .bind(identity.provider.text())
    .bind(identity.email.clone())
    .bind(identity.linked_at.as_microsecond())
    .bind(identity.last_used_at.as_microsecond())
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds an identity.
///
/// # Errors
/// [`StoreError`].
pub async fn find(reads: &mut impl Reads, issuer: &str, subject: &str) -> Result<Option<Identity>, StoreError> {
    let query = sqlx::query(select!(" WHERE issuer = $1 AND subject = $2"));
    let query = query.bind(issuer.to_owned()).bind(subject.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// The identities of one person, in the order in which they were linked.
///
/// # Errors
/// [`StoreError`].
pub async fn of_user(reads: &mut impl Reads, user: Id) -> Result<Vec<Identity>, StoreError> {
    let query = sqlx::query(select!(" WHERE user_id = $1 ORDER BY id LIMIT 100")).bind(user.text());
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// By how many identities one person can log in, apart from one of them.
///
/// # Errors
/// [`StoreError`].
pub async fn count_usable(reads: &mut impl Reads, user: Id, except: Id) -> Result<i64, StoreError> {
    let query = sqlx::query(
        "SELECT COUNT(*) AS count FROM identities JOIN providers ON providers.id = identities.provider_id \
         WHERE identities.user_id = $1 AND identities.id <> $2 AND providers.enabled <> 0",
    );
    row::number(&query.bind(user.text()).bind(except.text()).fetch_one(reads.connection()).await?, "count")
}

/// Remembers that an identity was used, and the address that the provider told.
///
/// # Errors
/// [`StoreError`].
pub async fn used(writing: &mut Writing, id: Id, email: Option<&str>, at: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE identities SET last_used_at = $1, email = $2 WHERE id = $3")
        .bind(at.as_microsecond())
        .bind(email.map(str::to_owned))
        .bind(id.text())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Unlinks an identity; says whether it was linked.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM identities WHERE id = $1").bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Unlinks all identities of a provider; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of_provider(writing: &mut Writing, provider: Id) -> Result<u64, StoreError> {
    let query = sqlx::query("DELETE FROM identities WHERE provider_id = $1").bind(provider.text());
    Ok(query.execute(writing.connection()).await?.rows_affected())
}

/// How many identities a provider has.
///
/// # Errors
/// [`StoreError`].
pub async fn count_of_provider(reads: &mut impl Reads, provider: Id) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT COUNT(*) AS count FROM identities WHERE provider_id = $1").bind(provider.text());
    row::number(&query.fetch_one(reads.connection()).await?, "count")
}

fn of_row(row: &AnyRow) -> Result<Identity, StoreError> {
    Ok(Identity {
        id: row::id(row, "id")?,
        user: row::id(row, "user_id")?,
        provider: row::id(row, "provider_id")?,
        issuer: row::text(row, "issuer")?,
        subject: row::text(row, "subject")?,
        email: row::text_or_none(row, "email")?,
        linked_at: row::time(row, "linked_at")?,
        last_used_at: row::time(row, "last_used_at")?,
    })
}
