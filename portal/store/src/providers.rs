//! Identity providers.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::providers::{AccountPolicy, Provider};
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, name, title, issuer, client_id, client_secret, scopes, groups_claim, roles_by_group, ",
            "accounts, inside, enabled, version FROM providers",
            $tail
        )
    };
}

/// A provider as the database has it, with its secret.
#[derive(Debug, Clone)]
pub struct ProviderRow {
    /// What is shown.
    pub provider: Provider,
    /// The portal's secret, sealed.
    pub client_secret: Option<Vec<u8>>,
}

/// Adds a provider.
///
/// # Errors
/// [`StoreError::Taken`] if its name or issuer is.
pub async fn insert(writing: &mut Writing, row: &ProviderRow) -> Result<(), StoreError> {
    let provider = &row.provider;
    sqlx::query(
        "INSERT INTO providers (id, name, title, issuer, client_id, client_secret, scopes, groups_claim, \
         roles_by_group, accounts, inside, enabled, version) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
    )
    .bind(provider.id.text())
    .bind(provider.name.clone())
    .bind(provider.title.clone())
    .bind(provider.issuer.clone())
    .bind(provider.client_id.clone())
    .bind(row.client_secret.clone())
    .bind(row::join(&provider.scopes))
    .bind(provider.groups_claim.clone())
    .bind(roles(provider)?)
    .bind(provider.accounts.word())
    .bind(i64::from(provider.inside))
    .bind(i64::from(provider.enabled))
    .bind(provider.version)
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Writes all of a provider if its version is still `version`, and counts it up; says whether it
/// was.
///
/// # Errors
/// [`StoreError::Taken`] if its name or issuer is.
pub async fn replace(writing: &mut Writing, row: &ProviderRow, version: i64) -> Result<bool, StoreError> {
    let provider = &row.provider;
    let done = sqlx::query(
        "UPDATE providers SET name = $1, title = $2, issuer = $3, client_id = $4, client_secret = $5, scopes = $6, \
         groups_claim = $7, roles_by_group = $8, accounts = $9, inside = $10, enabled = $11, version = version + 1 \
         WHERE id = $12 AND version = $13",
    )
    .bind(provider.name.clone())
    .bind(provider.title.clone())
    .bind(provider.issuer.clone())
    .bind(provider.client_id.clone())
    .bind(row.client_secret.clone())
    .bind(row::join(&provider.scopes))
    .bind(provider.groups_claim.clone())
    .bind(roles(provider)?)
    .bind(provider.accounts.word())
    .bind(i64::from(provider.inside))
    .bind(i64::from(provider.enabled))
    .bind(provider.id.text())
    .bind(version)
    .execute(writing.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Deletes a provider of a version; says whether it was that.
///
/// # Errors
/// [`StoreError`]; also while identities are linked by it.
pub async fn delete(writing: &mut Writing, id: Id, version: i64) -> Result<bool, StoreError> {
    let query = sqlx::query("DELETE FROM providers WHERE id = $1 AND version = $2").bind(id.text()).bind(version);
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Finds a provider.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<ProviderRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds a provider by its name.
///
/// # Errors
/// [`StoreError`].
pub async fn by_name(reads: &mut impl Reads, name: &str) -> Result<Option<ProviderRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE name = $1")).bind(name.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// A page of providers in the order of their names, and one more if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, page: &PageRequest) -> Result<Vec<Provider>, StoreError> {
    let query = sqlx::query(select!(" WHERE name > $1 ORDER BY name LIMIT $2"))
        .bind(page.after.clone().unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    query.fetch_all(reads.connection()).await?.iter().map(|row| Ok(of_row(row)?.provider)).collect()
}

fn roles(provider: &Provider) -> Result<String, StoreError> {
    serde_json::to_string(&provider.roles_by_group).map_err(|error| StoreError::Failed(error.to_string()))
}

fn of_row(row: &AnyRow) -> Result<ProviderRow, StoreError> {
    let client_secret = row::bytes_or_none(row, "client_secret")?;
    let provider = Provider {
        id: row::id(row, "id")?,
        name: row::text(row, "name")?,
        title: row::text(row, "title")?,
        issuer: row::text(row, "issuer")?,
        client_id: row::text(row, "client_id")?,
        has_client_secret: client_secret.is_some(),
        scopes: row::words(row, "scopes", "scope of a provider")?,
        groups_claim: row::text_or_none(row, "groups_claim")?,
        roles_by_group: row::json(row, "roles_by_group", "table of roles")?,
        accounts: row::word(row, "accounts", "policy for accounts", AccountPolicy::of_word)?,
        inside: row::number(row, "inside")? != 0,
        enabled: row::number(row, "enabled")? != 0,
        version: row::number(row, "version")?,
    };
    Ok(ProviderRow { provider, client_secret })
}
