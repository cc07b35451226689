//! Documents of which there is one each: settings.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// A document and its version; `None` if it was never written.
///
/// # Errors
/// [`StoreError`].
pub async fn get<T: DeserializeOwned>(reads: &mut impl Reads, name: &str) -> Result<Option<(T, i64)>, StoreError> {
    let query = sqlx::query("SELECT body, version FROM settings WHERE name = $1").bind(name.to_owned());
    let Some(found) = query.fetch_optional(reads.connection()).await? else { return Ok(None) };
    Ok(Some((row::json(&found, "body", "setting")?, row::number(&found, "version")?)))
}

/// Writes a document if its version is still `version` (0: it was never written); says whether it
/// was. Its version is `version + 1` then.
///
/// # Errors
/// [`StoreError`].
pub async fn put<T: Serialize + Sync>(
    writing: &mut Writing,
    name: &str,
    document: &T,
    version: i64,
) -> Result<bool, StoreError> {
    let body = serde_json::to_string(document).map_err(|error| StoreError::Failed(error.to_string()))?;
    let query = if version == 0 {
        sqlx::query("INSERT INTO settings (name, body, version) VALUES ($1, $2, $3 + 1) ON CONFLICT DO NOTHING")
    } else {
        sqlx::query("UPDATE settings SET body = $2, version = $3 + 1 WHERE name = $1 AND version = $3")
    };
    let done = query.bind(name.to_owned()).bind(body).bind(version).execute(writing.connection()).await?;
    Ok(done.rows_affected() == 1)
}
