//! Groups and who is in them.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::Group;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::row;

/// Adds a group without members.
///
/// # Errors
/// [`StoreError::Taken`] if the name is.
pub async fn insert(writing: &mut Writing, group: &Group) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO user_groups (id, name, description, version) VALUES ($1, $2, $3, $4)")
        .bind(group.id.text())
        .bind(group.name.clone())
        .bind(group.description.clone())
        .bind(group.version)
        .execute(writing.connection())
        .await?;
    Ok(())
}

/// Writes a group's name, description and members if its version is still `version`, and counts it
/// up; says whether it was.
///
/// # Errors
/// [`StoreError::Taken`] if the new name is.
pub async fn replace(writing: &mut Writing, group: &Group, version: i64) -> Result<bool, StoreError> {
    let done = sqlx::query(
        "UPDATE user_groups SET name = $1, description = $2, version = version + 1 WHERE id = $3 AND version = $4",
    )
    .bind(group.name.clone())
    .bind(group.description.clone())
    .bind(group.id.text())
    .bind(version)
    .execute(writing.connection())
    .await?;
    if done.rows_affected() == 0 {
        return Ok(false);
    }
    delete_members(writing, group.id).await?;
    for member in &group.members {
        sqlx::query("INSERT INTO group_members (group_id, user_id) VALUES ($1, $2)")
            .bind(group.id.text())
            .bind(member.text())
            .execute(writing.connection())
            .await?;
    }
    Ok(true)
}

/// Deletes a group if its version is still `version`; says whether it was.
///
/// # Errors
/// [`StoreError`].
pub async fn delete(writing: &mut Writing, group: Id, version: i64) -> Result<bool, StoreError> {
    delete_members(writing, group).await?;
    let query = sqlx::query("DELETE FROM user_groups WHERE id = $1 AND version = $2").bind(group.text()).bind(version);
    Ok(query.execute(writing.connection()).await?.rows_affected() == 1)
}

/// Finds a group with its members.
///
/// # Errors
/// [`StoreError`].
pub async fn by_id(reads: &mut impl Reads, id: Id) -> Result<Option<Group>, StoreError> {
    let query = sqlx::query("SELECT id, name, description, version FROM user_groups WHERE id = $1").bind(id.text());
    let Some(row) = query.fetch_optional(reads.connection()).await? else { return Ok(None) };
    let mut group = of_row(&row)?;
    group.members = members(reads, id).await?;
    Ok(Some(group))
}

/// Whether somebody is in a group.
///
/// # Errors
/// [`StoreError`].
pub async fn has_member(reads: &mut impl Reads, group: Id, user: Id) -> Result<bool, StoreError> {
    let query = sqlx::query("SELECT 1 FROM group_members WHERE group_id = $1 AND user_id = $2");
    let query = query.bind(group.text()).bind(user.text());
    Ok(query.fetch_optional(reads.connection()).await?.is_some())
}

/// A page of groups with their members, in the order of their names, and one more if there is one;
/// only those that `member` is in if one is given.
///
/// # Errors
/// [`StoreError`].
pub async fn list(reads: &mut impl Reads, member: Option<Id>, page: &PageRequest) -> Result<Vec<Group>, StoreError> {
    let query = sqlx::query(
        "SELECT id, name, description, version FROM user_groups WHERE name > $1 AND ($2 = '' OR EXISTS (SELECT 1 \
         FROM group_members WHERE group_members.group_id = user_groups.id AND group_members.user_id = $2)) \
         ORDER BY name LIMIT $3",
    );
    let query = query
        .bind(page.after.clone().unwrap_or_default())
        .bind(member.map(Id::text).unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    let rows = query.fetch_all(reads.connection()).await?;
    let mut groups = rows.iter().map(of_row).collect::<Result<Vec<_>, _>>()?;
    for group in &mut groups {
        group.members = members(reads, group.id).await?;
    }
    Ok(groups)
}

async fn members(reads: &mut impl Reads, group: Id) -> Result<Vec<Id>, StoreError> {
    let query = sqlx::query("SELECT user_id FROM group_members WHERE group_id = $1 ORDER BY user_id");
    let rows = query.bind(group.text()).fetch_all(reads.connection()).await?;
    rows.iter().map(|row| row::id(row, "user_id")).collect()
}

async fn delete_members(writing: &mut Writing, group: Id) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM group_members WHERE group_id = $1").bind(group.text());
    query.execute(writing.connection()).await?;
    Ok(())
}

fn of_row(row: &AnyRow) -> Result<Group, StoreError> {
    Ok(Group {
        id: row::id(row, "id")?,
        name: row::text(row, "name")?,
        description: row::text(row, "description")?,
        members: Vec::new(),
        version: row::number(row, "version")?,
    })
}
