//! One's own account: what others see, and the password.

use culvert_portal_model::people::User;
use culvert_portal_model::permission::Action;
use culvert_portal_store::{devices, links, sessions, users};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::people::accounts;
use crate::people::accounts::{UserEdit, shown};
use crate::portal::Portal;
use crate::trail::Change;

/// The account of the person who asks.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor) -> Result<User, Fault> {
    portal.permit(actor, Action::SelfShow).await?;
    let user = actor.oneself()?;
    accounts::find_shown(&mut portal.database.read().await?, user).await
}

/// Changes one's own name and address.
///
/// # Errors
/// [`Fault`].
pub async fn edit(portal: &Portal, actor: &Actor, edit: &UserEdit, version: i64) -> Result<User, Fault> {
    portal.permit(actor, Action::SelfEdit).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    let before = shown(&mut writing, row.clone()).await?;
    if let Some(name) = &edit.display_name {
        row.display_name = input::line("display_name", name, 1, 128)?;
    }
    if let Some(address) = &edit.email {
        row.email = address.as_deref().map(|address| input::email("email", address)).transpose()?;
    }
    accounts::replace(&mut writing, &row, version).await?;
    let after = accounts::read_back(&mut writing, user).await?;
    let change = Change::of("user", user).from(&before).to(&after);
    portal.record(&mut writing, actor, Action::SelfEdit, change).await?;
    accounts::announce_change(portal, &mut writing, user).await?;
    portal.commit(writing).await?;
    Ok(after)
}

/// Changes one's own password. All other sessions end, and links for a new password with them.
///
/// # Errors
/// [`Fault`].
pub async fn change_password(portal: &Portal, actor: &Actor, new: &str) -> Result<(), Fault> {
    portal.permit(actor, Action::PasswordChange).await?;
    let user = actor.oneself()?;
    let row = users::by_id(&mut portal.database.read().await?, user).await?;
    let row = row.ok_or_else(|| Fault::not_found("person"))?;
    accounts::check_password(portal, new, &[&row.name, &row.display_name, row.email.as_deref().unwrap_or_default()])?;
    let hash = portal.passwords.hash(new, &*portal.seams.randomness).await?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    row.password_hash = Some(hash);
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    sessions::end_of(&mut writing, user, actor.session(), portal.now()).await?;
    links::delete_of(&mut writing, user, None).await?;
    devices::delete_of(&mut writing, user).await?;
    portal.record(&mut writing, actor, Action::PasswordChange, Change::of("user", user)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}
