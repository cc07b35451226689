//! Codes that stand in for a lost second factor, each once.

use culvert_portal_model::id::Id;

use crate::database::{Reads as _, Writing};
use crate::error::StoreError;

/// Replaces a person's codes.
///
/// # Errors
/// [`StoreError`].
pub async fn replace(writing: &mut Writing, user: Id, hashes: &[String]) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM recovery_codes WHERE user_id = $1").bind(user.text());
    query.execute(writing.connection()).await?;
    for hash in hashes {
        sqlx::query("INSERT INTO recovery_codes (user_id, code_hash) VALUES ($1, $2)")
            .bind(user.text())
            .bind(hash.clone())
            .execute(writing.connection())
            .await?;
    }
    Ok(())
}

/// Spends a code; says whether it was there.
///
/// # Errors
/// [`StoreError`].
pub async fn spend(writing: &mut Writing, user: Id, hash: &str) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM recovery_codes WHERE user_id = $1 AND code_hash = $2")
        .bind(user.text())
        .bind(hash.to_owned());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}
