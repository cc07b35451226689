//! Accounts: made, changed, approved, deactivated by administrators.

use culvert_portal_model::event_kind::EventKind;
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::people::{AccountState, User};
use culvert_portal_model::permission::{Access, Action, access};
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_store::users::{self, BY_HAND, Given, UserRow};
use culvert_portal_store::{
    Reads, Writing, ceremonies, deliveries, devices, invitations, links, passkeys, sessions, tokens, webhooks,
};

use jiff::Timestamp;
use serde_json::json;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::people::password_rules;
use crate::portal::Portal;
use crate::trail::Change;

/// A new account.
#[derive(Debug, Clone, Default)]
pub struct NewUser {
    /// What the person logs in with.
    pub name: String,
    /// What others see; the name if empty.
    pub display_name: String,
    /// Where mail goes.
    pub email: Option<String>,
    /// What the person may do.
    pub roles: Vec<Role>,
    /// A first password; without one the person gets in by a link or an identity provider.
    pub password: Option<String>,
}

/// Which accounts somebody asks for.
#[derive(Debug, Clone, Default)]
pub struct UserFilter {
    /// Those in this state.
    pub state: Option<AccountState>,
    /// Those whose name begins with this.
    pub name: Option<String>,
}

/// What is changed of an account. What is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct UserEdit {
    /// What others see.
    pub display_name: Option<String>,
    /// Where mail goes; `Some(None)` removes the address.
    pub email: Option<Option<String>>,
    /// Whether it can be used.
    pub state: Option<AccountState>,
}

/// A page of accounts, in the order of their names.
///
/// # Errors
/// [`Fault`] of the field `name`.
pub async fn list(
    portal: &Portal,
    actor: &Actor,
    filter: &UserFilter,
    page: &PageRequest,
) -> Result<Page<User>, Fault> {
    portal.permit(actor, Action::UserList).await?;
    let beginning = filter.name.as_deref().map(|name| input::login_name("name", name)).transpose()?;
    let mut reading = portal.database.read().await?;
    let found = users::list(&mut reading, filter.state, &beginning.unwrap_or_default(), page).await?;
    let users = found.into_iter().map(|(row, given)| with_given(row, &given)).collect();
    Ok(Page::of(users, page.rows, |user: &User| user.name.clone()))
}

/// One account.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor, id: Id) -> Result<User, Fault> {
    portal.permit(actor, Action::UserShow).await?.covers(id, "person")?;
    find_shown(&mut portal.database.read().await?, id).await
}

/// Makes an account.
///
/// # Errors
/// [`Fault`].
pub async fn create(portal: &Portal, actor: &Actor, new: &NewUser) -> Result<User, Fault> {
    portal.permit(actor, Action::UserCreate).await?;
    input::at_most("roles", &new.roles, Role::ALL.len())?;
    let row = new_row(portal, new, AccountState::Active).await?;
    let mut writing = portal.database.write().await?;
    let user = insert(portal, &mut writing, actor, Action::UserCreate, row, &new.roles).await?;
    portal.commit(writing).await?;
    Ok(user)
}

/// Changes an account of a version.
///
/// # Errors
/// [`Fault`].
pub async fn edit(portal: &Portal, actor: &Actor, id: Id, edit: &UserEdit, version: i64) -> Result<User, Fault> {
    portal.permit(actor, Action::UserEdit).await?.covers(id, "person")?;
    let mut writing = portal.database.write().await?;
    let admins = hold_admins(&mut writing).await?;
    let mut row = users::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("person"))?;
    let before = shown(&mut writing, row.clone()).await?;
    if let Some(name) = &edit.display_name {
        row.display_name = input::line("display_name", name, 1, 128)?;
    }
    if let Some(address) = &edit.email {
        row.email = address.as_deref().map(|address| input::email("email", address)).transpose()?;
    }
    if let Some(state) = edit.state {
        change_state(&mut row, state)?;
    }
    replace(&mut writing, &row, version).await?;
    if edit.state == Some(AccountState::Deactivated) {
        end_credentials(&mut writing, id, portal.now()).await?;
    }
    admins.keep_one(&mut writing).await?;
    let after = read_back(&mut writing, id).await?;
    let change = Change::of("user", id).from(&before).to(&after);
    portal.record(&mut writing, actor, Action::UserEdit, change).await?;
    announce_change(portal, &mut writing, id).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(after)
}

/// Replaces the roles that were given by hand. The person's sessions end: what they may do from
/// now on, they do after they have logged in again.
///
/// # Errors
/// [`Fault`].
pub async fn set_roles(portal: &Portal, actor: &Actor, id: Id, roles: &[Role], version: i64) -> Result<User, Fault> {
    portal.permit(actor, Action::UserRoles).await?.covers(id, "person")?;
    input::at_most("roles", roles, Role::ALL.len())?;
    let mut writing = portal.database.write().await?;
    let admins = hold_admins(&mut writing).await?;
    let row = users::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("person"))?;
    let before = shown(&mut writing, row.clone()).await?;
    replace(&mut writing, &row, version).await?;
    users::set_roles(&mut writing, id, BY_HAND, &unique(roles)).await?;
    sessions::end_of(&mut writing, id, None, portal.now()).await?;
    admins.keep_one(&mut writing).await?;
    let after = read_back(&mut writing, id).await?;
    withdraw_invitations(&mut writing, id, &after.roles).await?;
    let change = Change::of("user", id).from(&before.roles).to(&after.roles);
    portal.record(&mut writing, actor, Action::UserRoles, change).await?;
    announce_change(portal, &mut writing, id).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(after)
}

/// Checks a new account and hashes its password.
pub(crate) async fn new_row(portal: &Portal, new: &NewUser, state: AccountState) -> Result<UserRow, Fault> {
    let name = input::login_name("name", &new.name)?;
    let display_name = if new.display_name.trim().is_empty() { &name } else { &new.display_name };
    let display_name = input::line("display_name", display_name, 1, 128)?;
    let email = new.email.as_deref().map(|address| input::email("email", address)).transpose()?;
    let password_hash = match &new.password {
        Some(password) => {
            check_password(portal, password, &[&name, &display_name, email.as_deref().unwrap_or_default()])?;
            Some(portal.passwords.hash(password, &*portal.seams.randomness).await?)
        }
        None => None,
    };
    Ok(UserRow {
        id: portal.new_id(),
        name,
        display_name,
        email,
        state,
        password_hash,
        totp_secret: None,
        totp_pending: None,
        totp_step: 0,
        created_at: portal.now(),
        last_login_at: None,
        version: 1,
    })
}

/// Adds an account and says so.
pub(crate) async fn insert(
    portal: &Portal,
    writing: &mut Writing,
    actor: &Actor,
    action: Action,
    row: UserRow,
    roles: &[Role],
) -> Result<User, Fault> {
    let taken = |fault: Fault| match fault.problem {
        Problem::Conflict => {
            Fault { field: Some("name"), ..Fault::new(Problem::Conflict, format!("the name '{}' is taken", row.name)) }
        }
        _ => fault,
    };
    users::insert(writing, &row).await.map_err(|error| taken(error.into()))?;
    users::set_roles(writing, row.id, BY_HAND, &unique(roles)).await?;
    let user = shown(writing, row).await?;
    portal.record(writing, actor, action, Change::of("user", user.id).to(&user)).await?;
    portal.announce(writing, EventKind::UserCreated, Some(user.id), &json!({ "id": user.id })).await?;
    Ok(user)
}

/// Says that an account has changed, to those who follow and to the person.
pub(crate) async fn announce_change(portal: &Portal, writing: &mut Writing, user: Id) -> Result<(), Fault> {
    portal.announce(writing, EventKind::UserChanged, Some(user), &json!({ "id": user })).await
}

/// Writes an account of a version.
pub(crate) async fn replace(writing: &mut Writing, row: &UserRow, version: i64) -> Result<(), Fault> {
    if users::replace(writing, row, version).await? { Ok(()) } else { Err(Fault::changed("account")) }
}

/// An account as it is in a transaction.
pub(crate) async fn read_back(writing: &mut Writing, id: Id) -> Result<User, Fault> {
    find_shown(writing, id).await
}

/// An account as the API shows it.
pub(crate) async fn find_shown(reads: &mut impl Reads, id: Id) -> Result<User, Fault> {
    let (row, given) = users::shown(reads, id).await?.ok_or_else(|| Fault::not_found("person"))?;
    Ok(with_given(row, &given))
}

pub(crate) fn check_password(portal: &Portal, password: &str, names: &[&str]) -> Result<(), Fault> {
    password_rules::check(password, names, portal.options.password_list.as_deref())
}

/// A row as the API shows it.
pub(crate) async fn shown(reads: &mut impl Reads, row: UserRow) -> Result<User, Fault> {
    let roles = users::roles(reads, row.id).await?;
    let passkeys = passkeys::count_of(reads, row.id).await?;
    Ok(with_given(row, &Given { roles, passkeys }))
}

/// Ends everything by which somebody could get in without a new beginning: sessions, tokens, links,
/// devices that wait, logins that are under way, passkeys, and invitations that they could accept
/// themselves. It stays ended when the account is activated again. What they know or are elsewhere
/// (password, codes, identities) remains: it lets nobody in while the account is not active.
pub(crate) async fn end_credentials(writing: &mut Writing, user: Id, now: Timestamp) -> Result<(), Fault> {
    sessions::end_of(writing, user, None, now).await?;
    tokens::delete_of(writing, user).await?;
    links::delete_of(writing, user, None).await?;
    devices::delete_of(writing, user).await?;
    ceremonies::delete_of(writing, user).await?;
    passkeys::delete_of(writing, user).await?;
    // What others are sent on the person's behalf ends as well.
    webhooks::disable_of(writing, user).await?;
    deliveries::give_up_of_disabled(writing, "the webhook's owner was deactivated").await?;
    withdraw_invitations(writing, user, &[]).await
}

/// Withdraws the unused invitations of somebody who, with these roles, could make none: they may
/// have kept the links for themselves.
pub(crate) async fn withdraw_invitations(writing: &mut Writing, user: Id, roles: &[Role]) -> Result<(), Fault> {
    if access(roles, Action::InvitationCreate) == Access::None {
        invitations::delete_unused_of(writing, user).await?;
    }
    Ok(())
}

/// Takes hold of the administrators until the transaction ends, before it changes anything.
pub(crate) async fn hold_admins(writing: &mut Writing) -> Result<Admins, Fault> {
    users::lock_admins(writing).await?;
    Ok(Admins { there_are: users::count_active_with(writing, Role::Admin).await? > 0 })
}

/// The administrators as they were before a change.
#[must_use]
pub(crate) struct Admins {
    there_are: bool,
}

fn with_given(row: UserRow, given: &Given) -> User {
    let all: Vec<Role> = given.roles.iter().map(|(role, _)| *role).collect();
    let of_hand = given.roles.iter().filter(|(_, origin)| origin == BY_HAND);
    let by_hand: Vec<Role> = of_hand.map(|(role, _)| *role).collect();
    User {
        id: row.id,
        name: row.name,
        display_name: row.display_name,
        email: row.email,
        state: row.state,
        roles: unique(&all),
        roles_by_hand: unique(&by_hand),
        second_factor: row.totp_secret.is_some() || given.passkeys > 0,
        created_at: row.created_at,
        last_login_at: row.last_login_at,
        version: row.version,
    }
}

impl Admins {
    /// Refuses a change that has taken the last of them: a portal that nobody administers any more
    /// could be repaired only on its host. There, accounts may also be made before there is any.
    pub(crate) async fn keep_one(self, writing: &mut Writing) -> Result<(), Fault> {
        if !self.there_are || users::count_active_with(writing, Role::Admin).await? > 0 {
            return Ok(());
        }
        Err(Fault::new(Problem::Conflict, "this is the last active administrator: make another one first"))
    }
}

fn change_state(row: &mut UserRow, state: AccountState) -> Result<(), Fault> {
    use AccountState::{Active, Deactivated, Pending};
    match (row.state, state) {
        (Pending | Deactivated | Active, Active)
        | (Pending | Active | Deactivated, Deactivated)
        | (Pending, Pending) => {
            row.state = state;
            Ok(())
        }
        (Active | Deactivated, Pending) => {
            let detail = "only an account that registered itself is pending: deactivate this one";
            Err(Fault::new(Problem::Conflict, detail))
        }
    }
}

fn unique(roles: &[Role]) -> Vec<Role> {
    let mut roles = roles.to_vec();
    roles.sort_unstable();
    roles.dedup();
    roles
}
