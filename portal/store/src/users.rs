//! Accounts and their roles.

use std::collections::HashSet;

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::role::Role;
use jiff::Timestamp;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::kind::Kind;
use crate::{many, row};

/// Who gave a role, if a person did.
pub const BY_HAND: &str = "hand";

macro_rules! select {
    ($tail:literal) => {
        concat!(
            "SELECT id, name, display_name, email, state, password_hash, totp_secret, totp_pending, totp_step, ",
            "created_at, last_login_at, version FROM users",
            $tail
        )
    };
}

/// Accounts with a row for each of their roles.
macro_rules! select_shown {
    ($which:literal) => {
        concat!(
            "SELECT id, name, display_name, email, state, password_hash, totp_secret, totp_pending, totp_step, ",
            "created_at, last_login_at, version, role, origin, ",
            "(SELECT COUNT(*) FROM passkeys WHERE passkeys.user_id = shown.id) AS passkeys ",
            "FROM (SELECT * FROM users ",
            $which,
            ") AS shown LEFT JOIN user_roles ON user_roles.user_id = shown.id ORDER BY name, role, origin"
        )
    };
}

/// An account as the database has it, with what nobody is shown.
#[derive(Debug, Clone)]
pub struct UserRow {
    /// Names it for ever.
    pub id: Id,
    /// What the person logs in with, in lower case.
    pub name: String,
    /// What others see.
    pub display_name: String,
    /// Where mail goes.
    pub email: Option<String>,
    /// Whether the account can be used.
    pub state: AccountState,
    /// The password's hash in PHC form; none for those who log in elsewhere.
    pub password_hash: Option<String>,
    /// The secret of the codes, sealed.
    pub totp_secret: Option<Vec<u8>>,
    /// One that is not confirmed yet, sealed.
    pub totp_pending: Option<Vec<u8>>,
    /// The step of the newest code that was used.
    pub totp_step: i64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When the person last logged in.
    pub last_login_at: Option<Timestamp>,
    /// Counts changes.
    pub version: i64,
}

/// What is shown of an account that is not in its row.
#[derive(Debug, Clone, Default)]
pub struct Given {
    /// Its roles, with who gave each.
    pub roles: Vec<(Role, String)>,
    /// How many passkeys it has.
    pub passkeys: i64,
}

/// Adds an account.
///
/// # Errors
/// [`StoreError::Taken`] if the name is.
pub async fn insert(writing: &mut Writing, user: &UserRow) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO users (id, name, display_name, email, state, password_hash, totp_secret, totp_pending, \
         totp_step, created_at, last_login_at, version) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
    )
    .bind(user.id.text())
    .bind(user.name.clone())
    .bind(user.display_name.clone())
    .bind(user.email.clone())
    .bind(user.state.word())
    .bind(user.password_hash.clone())
    .bind(user.totp_secret.clone())
    .bind(user.totp_pending.clone())
    .bind(user.totp_step)
    .bind(user.created_at.as_microsecond())
    .bind(user.last_login_at.map(Timestamp::as_microsecond))
    .bind(user.version)
    .execute(writing.connection())
    .await?;
    Ok(())
}

/// Writes all of an account if its version is still `version`, and counts it up; says whether it
/// was.
///
/// # Errors
/// [`StoreError::Taken`] if the new name is.
pub async fn replace(writing: &mut Writing, user: &UserRow, version: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE users SET name = $1, display_name = $2, email = $3, state = $4, password_hash = $5, totp_secret = $6, \
         totp_pending = $7, totp_step = $8, version = version + 1 WHERE id = $9 AND version = $10",
    )
    .bind(user.name.clone())
    .bind(user.display_name.clone())
    .bind(user.email.clone())
    .bind(user.state.word())
    .bind(user.password_hash.clone())
    .bind(user.totp_secret.clone())
    .bind(user.totp_pending.clone())
    .bind(user.totp_step)
    .bind(user.id.text())
    .bind(version)
    .execute(writing.connection())
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the step of the newest used code forward; says whether it was behind.
///
/// # Errors
/// [`StoreError`].
pub async fn use_totp_step(writing: &mut Writing, user: Id, step: i64) -> Result<bool, StoreError> {
    let done = sqlx::query("UPDATE users SET totp_step = $1 WHERE id = $2 AND totp_step < $1")
        .bind(step)
        .bind(user.text())
        .execute(writing.connection())
        .await?;
    Ok(done.rows_affected() == 1)
}

/// Counts a change of an account that is none of its row.
///
/// # Errors
/// [`StoreError`].
pub async fn count_change(writing: &mut Writing, user: Id) -> Result<(), StoreError> {
    let query = sqlx::query("UPDATE users SET version = version + 1 WHERE id = $1").bind(user.text());
    query.execute(writing.connection()).await?;
    Ok(())
}

/// Remembers that somebody logged in. This is no change of the account.
///
/// # Errors
/// [`StoreError`].
pub async fn logged_in(writing: &mut Writing, user: Id, at: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE users SET last_login_at = $1 WHERE id = $2")
        .bind(at.as_microsecond())
        .bind(user.text())
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Finds an account.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<UserRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE id = $1")).bind(id.text());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds an account by the name that its person logs in with.
///
/// # Errors
/// [`StoreError`].
pub async fn by_name(reads: &mut impl Reads, name: &str) -> Result<Option<UserRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE name = $1")).bind(name.to_owned());
    query.fetch_optional(reads.connection()).await?.as_ref().map(of_row).transpose()
}

/// Finds accounts by their address of mail, which several may share.
///
/// # Errors
/// [`StoreError`].
pub async fn by_email(reads: &mut impl Reads, email: &str) -> Result<Vec<UserRow>, StoreError> {
    let query = sqlx::query(select!(" WHERE email = $1 ORDER BY id LIMIT 10")).bind(email.to_owned());
    query.fetch_all(reads.connection()).await?.iter().map(of_row).collect()
}

/// Finds an account with what is shown of it, in one question.
///
/// # Errors
/// [`StoreError`].
pub async fn shown(reads: &mut impl Reads, id: Id) -> Result<Option<(UserRow, Given)>, StoreError> {
    let query = sqlx::query(select_shown!("WHERE id = $1")).bind(id.text());
    Ok(with_given(&query.fetch_all(reads.connection()).await?)?.pop())
}

/// A page of accounts whose names begin with something, in the order of their names, and one more
/// if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn list(
    reads: &mut impl Reads,
    state: Option<AccountState>,
    beginning: &str,
    page: &PageRequest,
) -> Result<Vec<(UserRow, Given)>, StoreError> {
    let query = sqlx::query(select_shown!(
        "WHERE name > $1 AND ($2 = '' OR state = $2) AND substr(name, 1, length($3)) = $3 ORDER BY name LIMIT $4"
    ))
    .bind(page.after.clone().unwrap_or_default())
    .bind(state.map_or("", AccountState::word))
    .bind(beginning.to_owned())
    .bind(i64::from(page.rows) + 1);
    with_given(&query.fetch_all(reads.connection()).await?)
}

/// How many accounts there are.
///
/// # Errors
/// [`StoreError`].
pub async fn count(reads: &mut impl Reads) -> Result<i64, StoreError> {
    let row = sqlx::query("SELECT COUNT(*) AS count FROM users").fetch_one(reads.connection()).await?;
    row::number(&row, "count")
}

/// Lets one transaction at a time take the role of an administrator from somebody: of two that take
/// it from each other, the second sees what the first has done. To be called before anything is
/// changed. Transactions of SQLite are one at a time anyway.
///
/// # Errors
/// [`StoreError`].
pub async fn lock_admins(writing: &mut Writing) -> Result<(), StoreError> {
    if writing.kind() == Kind::Postgresql {
        let query = sqlx::query("SELECT user_id FROM user_roles WHERE role = $1 ORDER BY user_id, origin FOR UPDATE");
        query.bind(Role::Admin.word()).fetch_all(writing.connection()).await?;
    }
    Ok(())
}

/// How many active accounts have a role.
///
/// # Errors
/// [`StoreError`].
pub async fn count_active_with(reads: &mut impl Reads, role: Role) -> Result<i64, StoreError> {
    let query = sqlx::query(
        "SELECT COUNT(DISTINCT users.id) AS count FROM users JOIN user_roles ON user_roles.user_id = users.id \
         WHERE user_roles.role = $1 AND users.state = 'active'",
    );
    row::number(&query.bind(role.word()).fetch_one(reads.connection()).await?, "count")
}

/// The roles of an account, with who gave each.
///
/// # Errors
/// [`StoreError`].
pub async fn roles(reads: &mut impl Reads, user: Id) -> Result<Vec<(Role, String)>, StoreError> {
    let query = sqlx::query("SELECT role, origin FROM user_roles WHERE user_id = $1 ORDER BY role, origin");
    let rows = query.bind(user.text()).fetch_all(reads.connection()).await?;
    rows.iter().map(|row| Ok((row::parsed(row, "role", "role")?, row::text(row, "origin")?))).collect()
}

/// The first of these that is nobody's identifier, if there is one.
///
/// # Errors
/// [`StoreError`].
pub async fn first_missing(reads: &mut impl Reads, ids: &[Id]) -> Result<Option<Id>, StoreError> {
    for part in many::parts(ids) {
        let text = format!("SELECT id FROM users WHERE id IN ({})", many::places(part.len(), 1));
        let query = part.iter().fold(sqlx::query(sqlx::AssertSqlSafe(text)), |query, id| query.bind(id.text()));
        let rows = query.fetch_all(reads.connection()).await?;
        let found = rows.iter().map(|found| row::id(found, "id")).collect::<Result<HashSet<Id>, _>>()?;
        if let Some(missing) = part.iter().find(|id| !found.contains(id)) {
            return Ok(Some(*missing));
        }
    }
    Ok(None)
}

/// Replaces the roles that one origin has given.
///
/// # Errors
/// [`StoreError`].
pub async fn set_roles(writing: &mut Writing, user: Id, origin: &str, roles: &[Role]) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM user_roles WHERE user_id = $1 AND origin = $2")
        .bind(user.text())
        .bind(origin.to_owned())
        .execute(writing.connection())
        .await?;
    for role in roles {
        sqlx::query("INSERT INTO user_roles (user_id, role, origin) VALUES ($1, $2, $3)")
            .bind(user.text())
            .bind(role.word())
            .bind(origin.to_owned())
            .execute(writing.connection())
            .await?;
    }
    Ok(())
}

/// Who has roles that one origin has given.
///
/// # Errors
/// [`StoreError`].
pub async fn with_roles_of(reads: &mut impl Reads, origin: &str) -> Result<Vec<Id>, StoreError> {
    let query = sqlx::query("SELECT DISTINCT user_id FROM user_roles WHERE origin = $1").bind(origin.to_owned());
    query.fetch_all(reads.connection()).await?.iter().map(|found| row::id(found, "user_id")).collect()
}

/// Accounts of rows that have one for each role.
fn with_given(rows: &[AnyRow]) -> Result<Vec<(UserRow, Given)>, StoreError> {
    let mut found: Vec<(UserRow, Given)> = Vec::new();
    for row in rows {
        let id = row::id(row, "id")?;
        if found.last().is_none_or(|(user, _)| user.id != id) {
            found.push((of_row(row)?, Given { passkeys: row::number(row, "passkeys")?, ..Given::default() }));
        }
        if let (Some((_, given)), Some(origin)) = (found.last_mut(), row::text_or_none(row, "origin")?) {
            given.roles.push((row::parsed(row, "role", "role")?, origin));
        }
    }
    Ok(found)
}

fn of_row(row: &AnyRow) -> Result<UserRow, StoreError> {
    Ok(UserRow {
        id: row::id(row, "id")?,
        name: row::text(row, "name")?,
        display_name: row::text(row, "display_name")?,
        email: row::text_or_none(row, "email")?,
        state: row::word(row, "state", "state of an account", AccountState::of_word)?,
        password_hash: row::text_or_none(row, "password_hash")?,
        totp_secret: row::bytes_or_none(row, "totp_secret")?,
        totp_pending: row::bytes_or_none(row, "totp_pending")?,
        totp_step: row::number(row, "totp_step")?,
        created_at: row::time(row, "created_at")?,
        last_login_at: row::time_or_none(row, "last_login_at")?,
        version: row::number(row, "version")?,
    })
}
