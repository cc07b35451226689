//! Groups and who is in them.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::PageRequest;
use culvert_portal_model::people::Group;
use sqlx::any::AnyRow;

use crate::database::{Reads, Writing};
use crate::error::StoreError;
use crate::{many, row};

/// Groups with a row for each of their members.
macro_rules! select {
    ($which:literal) => {
        concat!(
            "SELECT id, name, description, version, user_id FROM (SELECT * FROM user_groups ",
            $which,
            ") AS shown LEFT JOIN group_members ON group_members.group_id = shown.id ORDER BY name, user_id"
        )
    };
}

/// Adds a group with its members.
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
    insert_members(writing, group).await
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
    insert_members(writing, group).await?;
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
    let query = sqlx::query(select!("WHERE id = $1")).bind(id.text());
    Ok(with_members(&query.fetch_all(reads.connection()).await?)?.pop())
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
    let query = sqlx::query(select!(
        "WHERE name > $1 AND ($2 = '' OR EXISTS (SELECT 1 FROM group_members WHERE \
         group_members.group_id = user_groups.id AND group_members.user_id = $2)) ORDER BY name LIMIT $3"
    ));
    let query = query
        .bind(page.after.clone().unwrap_or_default())
        .bind(member.map(Id::text).unwrap_or_default())
        .bind(i64::from(page.rows) + 1);
    with_members(&query.fetch_all(reads.connection()).await?)
}

async fn insert_members(writing: &mut Writing, group: &Group) -> Result<(), StoreError> {
    for part in many::parts(&group.members) {
        let text = format!("INSERT INTO group_members (group_id, user_id) VALUES {}", many::places(part.len(), 2));
        let query = sqlx::query(sqlx::AssertSqlSafe(text));
        let query = part.iter().fold(query, |query, member| query.bind(group.id.text()).bind(member.text()));
        query.execute(writing.connection()).await?;
    }
    Ok(())
}

async fn delete_members(writing: &mut Writing, group: Id) -> Result<(), StoreError> {
    let query = sqlx::query("DELETE FROM group_members WHERE group_id = $1").bind(group.text());
    query.execute(writing.connection()).await?;
    Ok(())
}

/// Groups of rows that have one for each member.
fn with_members(rows: &[AnyRow]) -> Result<Vec<Group>, StoreError> {
    let mut groups: Vec<Group> = Vec::new();
    for row in rows {
        let id = row::id(row, "id")?;
        if groups.last().is_none_or(|group| group.id != id) {
            groups.push(of_row(row)?);
        }
        if let (Some(group), Some(member)) = (groups.last_mut(), row::id_or_none(row, "user_id")?) {
            group.members.push(member);
        }
    }
    Ok(groups)
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
