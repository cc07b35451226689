//! Webhooks: where events are sent, for whom, and with which sealed secret.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::role::Role;
use culvert_portal_model::webhooks::Webhook;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::kind::Kind;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, owner_id, url, description, events, secret, former_secret, former_until, enabled, ",
            "created_at, version FROM webhooks",
            $tail
        )
    };
}

/// A webhook as the database has it.
#[derive(Debug, Clone)]
pub struct WebhookRow {
    /// What the API shows.
    pub shown: Webhook,
    /// The secret, sealed.
    pub secret: Vec<u8>,
    /// The secret before it, sealed, and until when that signs too.
    pub former: Option<(Vec<u8>, Timestamp)>,
}

/// A webhook in use and one role of its owner, who is active.
#[derive(Debug, Clone)]
pub struct Subscription {
    /// The webhook.
    pub webhook: Id,
    /// Its owner.
    pub owner: Id,
    /// Which events.
    pub events: Vec<String>,
    /// One of the owner's roles.
    pub role: Role,
}

/// Adds a webhook.
///
/// # Errors
/// [`StoreError`].
pub async fn insert(writing: &mut Writing, row: &WebhookRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO webhooks (id, owner_id, url, description, events, secret, enabled, created_at, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
    )
    .bind(row.shown.id.text())
    .bind(row.shown.owner.text())
    .bind(row.shown.url.clone())
    .bind(row.shown.description.clone())
    .bind(row::join(&row.shown.events))
    .bind(row.secret.clone())
    .bind(i64::from(row.shown.enabled))
    .bind(row.shown.created_at.as_microsecond())
    .bind(row.shown.version)
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Writes all of a webhook if its version is still `version`, and counts it up; says whether it
/// was.
///
/// # Errors
/// [`StoreError`].
pub async fn replace(writing: &mut Writing, row: &WebhookRow, version: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE webhooks SET url = $1, description = $2, events = $3, secret = $4, former_secret = $5, \
         former_until = $6, enabled = $7, version = version + 1 WHERE id = $8 AND version = $9",
    )
    .bind(row.shown.url.clone())
    .bind(row.shown.description.clone())
    .bind(row::join(&row.shown.events))
    .bind(row.secret.clone())
    .bind(row.former.as_ref().map(|(secret, _)| secret.clone()))
    .bind(row.former.as_ref().map(|(_, until)| until.as_microsecond()))
    .bind(i64::from(row.shown.enabled))
    .bind(row.shown.id.text())
    .bind(version)
    .execute(writing.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes a webhook and its deliveries if its version is still `version`; says whether it was.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, id: Id, version: i64) -> Result<bool, StoreError> {
    // Nobody makes a delivery to it meanwhile: see [`subscriptions`].
    if writing.kind() == Kind::Postgresql {
        let query = sqlx::query("SELECT id FROM webhooks WHERE id = $1 FOR UPDATE").bind(id.text());
        query.fetch_optional(writing.connection()).await?;
    }
    let query = sqlx::query("DELETE FROM deliveries WHERE webhook_id = $1").bind(id.text());
    query.execute(writing.connection()).await?;
    let query = sqlx::query("DELETE FROM webhooks WHERE id = $1 AND version = $2").bind(id.text()).bind(version);
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Switches all webhooks of a person off.
///
/// # Errors
/// [`StoreError`].
pub async fn disable_of(writing: &mut Writing, owner: Id) -> Result<(), StoreError> {
    let query =
        sqlx::query("UPDATE webhooks SET enabled = 0, version = version + 1 WHERE owner_id = $1 AND enabled = 1");
    query.bind(owner.text()).execute(writing.connection()).await?;
    Ok(())
}

/// Finds a webhook.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<WebhookRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page of the webhooks of one person or of all, newest first, and one more if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, owner: Option<Id>, page: &PageRequest) -> Result<Vec<Webhook>, StoreError> {
    let query =
        sqlx::query(select!(" WHERE ($1 = '' OR owner_id = $1) AND ($2 = '' OR id < $2) ORDER BY id DESC LIMIT $3"));
    let query = query
        .bind(owner.map(Id::text).unwrap_or_default())
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(|found| Ok(of_row(found)?.shown)).collect()
}

/// How many webhooks a person has.
///
/// # Errors
/// [`StoreError`].
pub async fn count_of(reads: &mut impl Reads, owner: Id) -> Result<i64, StoreError> {
    let query = sqlx::query("SELECT COUNT(*) AS count FROM webhooks WHERE owner_id = $1").bind(owner.text());
    row::number(&query.fetch_one(reads.connection()).await?, "count")
}

/// All webhooks in use of people who are active, once for each role of their owner. None of them is
/// deleted until the transaction ends.
///
/// # Errors
/// [`StoreError`].
pub async fn subscriptions(writing: &mut Writing) -> Result<Vec<Subscription>, StoreError> {
    let lock = match writing.kind() {
        Kind::Sqlite => "",
        Kind::Postgresql => "FOR KEY SHARE OF webhooks",
    };
    let text = format!(
        "SELECT webhooks.id AS id, webhooks.owner_id AS owner_id, webhooks.events AS events, user_roles.role AS role \
         FROM webhooks JOIN users ON users.id = webhooks.owner_id AND users.state = 'active' \
         JOIN user_roles ON user_roles.user_id = users.id WHERE webhooks.enabled = 1 ORDER BY webhooks.id {lock}"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(text)).fetch_all(writing.connection()).await?;
    let subscription = |found: &AnyRow| {
        Ok(Subscription {
            webhook: row::id(found, "id")?,
            owner: row::id(found, "owner_id")?,
            events: row::words(found, "events", "kind of event")?,
            role: row::parsed(found, "role", "role")?,
        })
    };
    rows.iter().map(subscription).collect()
}

fn of_row(found: &AnyRow) -> Result<WebhookRow, StoreError> {
    let former = row::bytes_or_none(found, "former_secret")?.zip(row::time_or_none(found, "former_until")?);
    Ok(WebhookRow {
        shown: Webhook {
            id: row::id(found, "id")?,
            owner: row::id(found, "owner_id")?,
            url: row::text(found, "url")?,
            description: row::text(found, "description")?,
            events: row::words(found, "events", "kind of event")?,
            enabled: row::number(found, "enabled")? != 0,
            created_at: row::time(found, "created_at")?,
            version: row::number(found, "version")?,
        },
        secret: row::bytes(found, "secret")?,
        former,
    })
}
