//! Groups.

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::people::Group;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::{StoreError, Writing, groups, users};

use serde_json::json;

use crate::actor::{Actor, Reach};
use crate::fault::Fault;
use crate::input;
use crate::portal::Portal;
use crate::trail::Change;

/// Members that a group has at most.
const MEMBERS_MAX: usize = 1_000;

/// What a group is to be.
#[derive(Debug, Clone, Default)]
pub struct GroupWish {
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Who is in it.
    pub members: Vec<Id>,
}

/// A page of groups, in the order of their names.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, page: &PageRequest) -> Result<Page<Group>, Fault> {
    let reach = portal.permit(actor, Action::GroupList).await?;
    let rows = groups::list(&mut portal.database.read().await?, reach.owner(), page).await?;
    Ok(Page::of(rows, page.rows, |group| group.name.clone()))
}

/// One group.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor, id: Id) -> Result<Group, Fault> {
    let reach = portal.permit(actor, Action::GroupList).await?;
    let mut reading = portal.database.read().await?;
    // Looked at first, so that a group of others takes no longer than one that is not there.
    if let Reach::Own(user) = reach
        && !groups::has_member(&mut reading, id, user).await?
    {
        return Err(Fault::not_found("group"));
    }
    groups::by_id(&mut reading, id).await?.ok_or_else(|| Fault::not_found("group"))
}

/// Makes a group.
///
/// # Errors
/// [`Fault`].
pub async fn create(portal: &Portal, actor: &Actor, wish: &GroupWish) -> Result<Group, Fault> {
    portal.permit(actor, Action::GroupEdit).await?;
    let mut writing = portal.database.write().await?;
    let group = checked(&mut writing, portal.new_id(), wish).await?;
    groups::insert(&mut writing, &group).await.map_err(|error| taken(error, &group))?;
    portal.record(&mut writing, actor, Action::GroupEdit, Change::of("group", group.id).to(&group)).await?;
    announce(portal, &mut writing, EventKind::GroupCreated, group.id).await?;
    portal.commit(writing).await?;
    Ok(group)
}

/// Replaces a group of a version.
///
/// # Errors
/// [`Fault`].
pub async fn edit(portal: &Portal, actor: &Actor, id: Id, wish: &GroupWish, version: i64) -> Result<Group, Fault> {
    portal.permit(actor, Action::GroupEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = groups::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("group"))?;
    let after = Group { version: version + 1, ..checked(&mut writing, id, wish).await? };
    if !groups::replace(&mut writing, &after, version).await.map_err(|error| taken(error, &after))? {
        return Err(Fault::changed("group"));
    }
    let change = Change::of("group", id).from(&before).to(&after);
    portal.record(&mut writing, actor, Action::GroupEdit, change).await?;
    announce(portal, &mut writing, EventKind::GroupChanged, id).await?;
    portal.commit(writing).await?;
    Ok(after)
}

/// Deletes a group of a version.
///
/// # Errors
/// [`Fault`].
pub async fn delete(portal: &Portal, actor: &Actor, id: Id, version: i64) -> Result<(), Fault> {
    portal.permit(actor, Action::GroupEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = groups::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("group"))?;
    if !groups::delete(&mut writing, id, version).await? {
        return Err(Fault::changed("group"));
    }
    portal.record(&mut writing, actor, Action::GroupEdit, Change::of("group", id).from(&before)).await?;
    announce(portal, &mut writing, EventKind::GroupDeleted, id).await?;
    portal.commit(writing).await
}

/// Groups are nobody's own: who sees only their own things reads the list.
async fn announce(portal: &Portal, writing: &mut Writing, kind: EventKind, group: Id) -> Result<(), Fault> {
    portal.announce(writing, kind, None, &json!({ "id": group })).await
}

async fn checked(writing: &mut Writing, id: Id, wish: &GroupWish) -> Result<Group, Fault> {
    let name = input::login_name("name", &wish.name)?;
    let description = input::line("description", &wish.description, 0, 500)?;
    input::at_most("members", &wish.members, MEMBERS_MAX)?;
    let mut members = wish.members.clone();
    members.sort_unstable();
    members.dedup();
    if let Some(missing) = users::first_missing(writing, &members).await? {
        return Err(Fault::of_field("members", format!("there is no person {missing}")));
    }
    Ok(Group { id, name, description, members, version: 1 })
}

fn taken(error: StoreError, group: &Group) -> Fault {
    match error {
        StoreError::Taken => Fault::new(Problem::Conflict, format!("there is a group '{}' already", group.name)),
        other => other.into(),
    }
}
