//! One's own account: what others see, and the password.

use culvert_portal_model::audit::Outcome;
use culvert_portal_model::people::User;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::{devices, links, sessions, users};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::PASSWORDS_OF_ACCOUNT;
use crate::people::accounts;
use crate::people::accounts::{UserEdit, shown};
use crate::people::passwords::Place;
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
        // Links for a new password go there.
        actor.check_own_proof()?;
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

/// Changes one's own password, for whoever knows the one that there is: a session that was stolen
/// is not enough. All other sessions end, and links for a new password with them.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::TooMany`].
pub async fn change_password(portal: &Portal, actor: &Actor, current: Option<&str>, new: &str) -> Result<(), Fault> {
    portal.permit(actor, Action::PasswordChange).await?;
    let user = actor.oneself()?;
    portal.take_now(PASSWORDS_OF_ACCOUNT, &user.text()).await?;
    let row = users::by_id(&mut portal.database.read().await?, user).await?;
    let row = row.ok_or_else(|| Fault::not_found("person"))?;
    accounts::check_password(portal, new, &[&row.name, &row.display_name, row.email.as_deref().unwrap_or_default()])?;
    if let Some(stored) = row.password_hash.as_deref() {
        let current = current.ok_or_else(|| Fault::of_field("current", "give the password that you have now"))?;
        if !portal.passwords.is_right(current, Some(stored), Place::Known).await? {
            let mut writing = portal.database.write().await?;
            let change = Change::of("user", user).to(&"the password that was given as the current one is wrong");
            let action = Action::PasswordChange.word();
            portal.record_as(&mut writing, actor, action, Outcome::Refused, change).await?;
            portal.commit(writing).await?;
            let fault = Fault::new(Problem::WrongCredentials, "the password that you gave as the current one is wrong");
            return Err(Fault { field: Some("current"), ..fault });
        }
    } else {
        actor.check_own_proof()?;
    }
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
