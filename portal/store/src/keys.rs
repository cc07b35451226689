//! The portal's own keys, sealed.

use jiff::Timestamp;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// A key's sealed bytes.
///
/// # Errors
/// [`StoreError`].
pub async fn get(reads: &mut impl Reads, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let query = sqlx::query("SELECT sealed FROM keys WHERE name = $1").bind(name.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(|row| row::bytes(row, "sealed")).transpose()
}

/// Whether nothing was ever sealed in this database: the portal's own key is the first.
///
/// # Errors
/// [`StoreError`].
pub async fn is_empty(reads: &mut impl Reads) -> Result<bool, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS count FROM keys").fetch_one(reads.connection()).await?;
    Ok(row::number(&row, "count")? == 0)
}

/// Keeps a key if there is none of that name; of several portals that start at once, one does.
///
/// # Errors
/// [`StoreError`].
pub async fn insert_if_absent(
    writing: &mut Writing,
    name: &str,
    sealed: &[u8],
    at: Timestamp,
) -> Result<bool, StoreError> {
    let query = sqlx::query("INSERT INTO keys (name, sealed, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING");
    let query = query.bind(name.to_owned()).bind(sealed.to_vec()).bind(at.as_microsecond());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// A column that holds sealed values.
struct Column {
    /// What they are, for people, and part of what each is bound to.
    name: &'static str,
    read: &'static str,
    write: &'static str,
}

/// All columns that hold sealed values.
const SEALED: &[Column] = &[
    Column {
        name: "portal key",
        read: "SELECT name AS id, sealed AS value FROM keys",
        write: "UPDATE keys SET sealed = $1 WHERE name = $2 AND sealed = $3",
    },
    Column {
        name: "second factor",
        read: "SELECT id, totp_secret AS value FROM users WHERE totp_secret IS NOT NULL",
        write: "UPDATE users SET totp_secret = $1 WHERE id = $2 AND totp_secret = $3",
    },
    Column {
        name: "second factor",
        read: "SELECT id, totp_pending AS value FROM users WHERE totp_pending IS NOT NULL",
        write: "UPDATE users SET totp_pending = $1 WHERE id = $2 AND totp_pending = $3",
    },
    Column {
        name: "identity provider",
        read: "SELECT id, client_secret AS value FROM providers WHERE client_secret IS NOT NULL",
        write: "UPDATE providers SET client_secret = $1 WHERE id = $2 AND client_secret = $3",
    },
    Column {
        name: "webhook",
        read: "SELECT id, secret AS value FROM webhooks",
        write: "UPDATE webhooks SET secret = $1 WHERE id = $2 AND secret = $3",
    },
    Column {
        name: "webhook",
        read: "SELECT id, former_secret AS value FROM webhooks WHERE former_secret IS NOT NULL",
        write: "UPDATE webhooks SET former_secret = $1 WHERE id = $2 AND former_secret = $3",
    },
];

/// Replaces every sealed value by what `change` makes of its kind, its row and itself, in one
/// transaction; says how many there were.
///
/// # Errors
/// [`StoreError`], or what `change` returns.
pub async fn reseal<E: From<StoreError>>(
    writing: &mut Writing,
    mut change: impl FnMut(&str, &str, &[u8]) -> Result<Vec<u8>, E>,
) -> Result<usize, E> {
    let mut count = 0;
    for column in SEALED {
        let rows = sqlx::query(column.read).fetch_all(writing.connection()).await.map_err(StoreError::from)?;
        for found in &rows {
            let (id, sealed) = (row::text(found, "id")?, row::bytes(found, "value")?);
            let again = change(column.name, &id, &sealed)?;
            let query = sqlx::query(column.write).bind(again).bind(id).bind(sealed);
            query.execute(writing.connection()).await.map_err(StoreError::from)?;
            count += 1;
        }
    }
    Ok(count)
}
