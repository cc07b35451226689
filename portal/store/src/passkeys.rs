//! Passkeys.

use culvert_portal_model::id::Id;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// How many somebody has.
///
/// # Errors
/// [`StoreError`].
pub async fn count_of(reads: &mut impl Reads, user: Id) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT COUNT(*) AS count FROM passkeys WHERE user_id = $1").bind(user.text());
    row::number(&query.fetch_one(reads.connection()).await?, "count")
}

/// Removes all of one person.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM passkeys WHERE user_id = $1").bind(user.text()).execute(writing.connection()).await?;
    Ok(())
}
