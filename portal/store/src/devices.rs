//! Devices without a browser that wait to be let in.

use culvert_portal_model::id::Id;
use culvert_portal_model::scope::Scope;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, device_hash, user_code, client, scopes, state, user_id, days, address, created_at, ",
            "expires_at, polled_at, poll_seconds FROM device_grants",
            $tail
        )
    };
}

/// What was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GrantState {
    /// Nothing yet.
    Waiting,
    /// It is let in.
    Approved,
    /// It is not.
    Denied,
}

impl GrantState {
    const fn word(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Approved => "approved",
            Self::Denied => "denied",
        }
    }

    fn of_word(word: &str) -> Option<Self> {
        [Self::Waiting, Self::Approved, Self::Denied].into_iter().find(|state| state.word() == word)
    }
}

/// A device that waits.
#[derive(Debug, Clone)]
pub struct DeviceRow {
    /// Names it.
    pub id: Id,
    /// The hash of its secret.
    pub device_hash: String,
    /// What it shows to its person, without the hyphen.
    pub user_code: String,
    /// What it calls itself.
    pub client: String,
    /// What it wants, and when it is let in, what it gets.
    pub scopes: Vec<Scope>,
    /// What was decided.
    pub state: GrantState,
    /// Who decided.
    pub user: Option<Id>,
    /// For how many days its token is to be good; 0 while nobody has said.
    pub days: u32,
    /// The address that it asks from.
    pub address: String,
    /// When it asked.
    pub created_at: Timestamp,
    /// Until when it can be let in.
    pub expires_at: Timestamp,
    /// When it last asked whether it was.
    pub polled_at: Timestamp,
    /// How long it has to wait until it asks again.
    pub poll_seconds: u32,
}

/// Adds a device.
///
/// # Errors
/// [`StoreError::Taken`] if another shows the same code.
pub async fn insert(writing: &mut Writing, device: &DeviceRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO device_grants (id, device_hash, user_code, client, scopes, state, user_id, days, address, \
         created_at, expires_at, polled_at, poll_seconds) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(device.id.text())
    .bind(device.device_hash.clone())
    .bind(device.user_code.clone())
    .bind(device.client.clone())
    .bind(row::join(&device.scopes))
    .bind(device.state.word())
    .bind(device.user.map(Id::text))
    .bind(i64::from(device.days))
    .bind(device.address.clone())
    .bind(device.created_at.as_microsecond())
    .bind(device.expires_at.as_microsecond())
    .bind(device.polled_at.as_microsecond())
    .bind(i64::from(device.poll_seconds))
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Finds a device by the hash of its secret.
///
/// # Errors
/// [`StoreError`].
pub async fn by_secret(reads: &mut impl Reads, device_hash: &str) -> Result<Option<DeviceRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE device_hash = $1")).bind(device_hash.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds a device by the code that it shows.
///
/// # Errors
/// [`StoreError`].
pub async fn by_user_code(reads: &mut impl Reads, user_code: &str) -> Result<Option<DeviceRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE user_code = $1")).bind(user_code.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Writes down what was decided of a device that waits; says whether it still did.
///
/// # Errors
/// [`StoreError`].
pub async fn decide(writing: &mut Writing, device: &DeviceRow) -> Result<bool, StoreError> {
    let query = sqlx::query(
        "UPDATE device_grants SET state = $1, user_id = $2, scopes = $3, days = $4 WHERE id = $5 AND state = 'waiting'",
    );
    let query = query
        .bind(device.state.word())
        .bind(device.user.map(Id::text))
        .bind(row::join(&device.scopes))
        .bind(i64::from(device.days))
        .bind(device.id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Remembers that a device asked, and how long it has to wait now.
///
/// # Errors
/// [`StoreError`].
pub async fn polled(writing: &mut Writing, id: Id, at: Timestamp, poll_seconds: u32) -> Result<(), StoreError> {
    sqlx::query("UPDATE device_grants SET polled_at = $1, poll_seconds = $2 WHERE id = $3")
        .bind(at.as_microsecond())
        .bind(i64::from(poll_seconds))
        .bind(id.text())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Removes a device that has its answer; says whether it was there. Of two that race, one is told
/// so.
///
/// # Errors
/// [`StoreError`].
pub async fn spend(writing: &mut Writing, id: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM device_grants WHERE id = $1").bind(id.text());
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Removes all that one person has decided about.
///
/// # Errors
/// [`StoreError`].
pub async fn delete_of(writing: &mut Writing, user: Id) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM device_grants WHERE user_id = $1").bind(user.text());
    query.execute(writing.connection()).await?;
    Ok(())
}

/// Removes up to `most` devices whose time ended before a time; says how many.
///
/// # Errors
/// [`StoreError`].
pub async fn purge(writing: &mut Writing, before: Timestamp, most: i64) -> Result<u64, StoreError> {
    let query = sqlx::query(
        "DELETE FROM device_grants WHERE id IN \
         (SELECT id FROM device_grants WHERE expires_at <= $1 ORDER BY expires_at LIMIT $2)",
    );
    let done = query.bind(before.as_microsecond()).bind(most).execute(writing.connection()).await?;
    Ok(done.rows_affected())
}

fn of_row(row: &AnyRow) -> Result<DeviceRow, StoreError> {
    Ok(DeviceRow {
        id: row::id(row, "id")?,
        device_hash: row::text(row, "device_hash")?,
        user_code: row::text(row, "user_code")?,
        client: row::text(row, "client")?,
        scopes: row::words(row, "scopes", "scope")?,
        state: row::word(row, "state", "state of a device", GrantState::of_word)?,
        user: row::id_or_none(row, "user_id")?,
        days: row::small(row, "days", "number of days")?,
        address: row::text(row, "address")?,
        created_at: row::time(row, "created_at")?,
        expires_at: row::time(row, "expires_at")?,
        polled_at: row::time(row, "polled_at")?,
        poll_seconds: row::small(row, "poll_seconds", "number of seconds")?,
    })
}
