//! Accounts that people make for themselves, where that is open. An administrator approves each.

use culvert_portal_model::people::{AccountState, User};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::settings::Registration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::limits::{LINKS_OF_ADDRESS, one_client};
use crate::people::accounts;
use crate::people::accounts::NewUser;
use crate::portal::Portal;

/// Makes an account that waits for approval.
///
/// # Errors
/// [`Problem::Forbidden`] where registration is not open.
pub async fn register(portal: &Portal, actor: &Actor, new: &NewUser) -> Result<User, Fault> {
    portal.take_now(LINKS_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    if portal.current_settings().await?.registration != Registration::Approval {
        let detail = "registration is not open here: ask an administrator for an account";
        return Err(Fault::new(Problem::Forbidden, detail));
    }
    if new.password.is_none() {
        return Err(Fault::of_field("password", "the account needs a password"));
    }
    let row = accounts::new_row(portal, new, AccountState::Pending).await?;
    let mut writing = portal.database.write().await?;
    let user = accounts::insert(portal, &mut writing, actor, Action::UserCreate, row, &[Role::User]).await?;
    portal.commit(writing).await?;
    Ok(user)
}
