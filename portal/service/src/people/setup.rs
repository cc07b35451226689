//! The first administrator, by a link that the portal prints as long as nobody administers it.

use culvert_portal_model::people::{AccountState, SecretLink, User};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_store::links::{self, LinkRow};
use culvert_portal_store::{Reads, users};
use jiff::SignedDuration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::limits::{LINKS_OF_ADDRESS, one_client};
use crate::people::accounts;
use crate::people::accounts::NewUser;
use crate::portal::Portal;
use crate::secret::{Kind, copied, hash, make};

const KIND: &str = "setup";
/// How long the link is good. A portal that is started again prints another.
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(24);

/// A link for the first administrator; `None` if there is an active one. An earlier link is no
/// longer good.
///
/// # Errors
/// [`Fault`].
pub async fn link(portal: &Portal) -> Result<Option<SecretLink>, Fault> {
    let mut writing = portal.database.write().await?;
    if is_over(&mut writing).await? {
        return Ok(None);
    }
    let secret = make(Kind::Link, &*portal.seams.randomness);
    let now = portal.now();
    let link = LinkRow {
        id: portal.new_id(),
        kind: KIND.to_owned(),
        secret_hash: hash(Kind::Link, &secret).unwrap_or_default(),
        user: None,
        detail: None,
        created_at: now,
        expires_at: now + GOOD_FOR,
    };
    links::delete_kind(&mut writing, KIND).await?;
    links::insert(&mut writing, &link).await?;
    writing.commit().await?;
    let url = format!("{}/setup#{secret}", portal.options.public_url);
    Ok(Some(SecretLink { url, secret, expires_at: link.expires_at }))
}

/// Makes the first administrator. Of two browsers that race, one does.
///
/// # Errors
/// [`Problem::Spent`] if the link is not good any more; [`Problem::InvalidValue`] if it is none.
pub async fn set_up(portal: &Portal, actor: &Actor, secret: &str, new: &NewUser) -> Result<User, Fault> {
    let address = actor.address.clone().unwrap_or_default();
    portal.take_now(LINKS_OF_ADDRESS, &one_client(&address)).await?;
    if is_over(&mut portal.database.read().await?).await? {
        return Err(over());
    }
    let spent =
        || Fault::new(Problem::Spent, "the setup link is no longer good: the portal prints a new one when it starts");
    if new.password.is_none() {
        return Err(Fault::of_field("password", "the first administrator needs a password"));
    }
    let hash = copied(Kind::Link, secret)?;
    // Looked at before the password is hashed, so that only who has the link costs that.
    links::find(&mut portal.database.read().await?, KIND, &hash).await?.ok_or_else(spent)?;
    let row = accounts::new_row(portal, new, AccountState::Active).await?;
    let mut writing = portal.database.write().await?;
    users::lock_admins(&mut writing).await?;
    let link = links::find(&mut writing, KIND, &hash).await?.ok_or_else(spent)?;
    if link.expires_at <= portal.now() || !links::spend(&mut writing, link.id).await? {
        return Err(spent());
    }
    // Another browser may have been first, or a command on the host.
    if is_over(&mut writing).await? {
        return Err(over());
    }
    let user = accounts::insert(portal, &mut writing, actor, Action::UserCreate, row, &[Role::Admin]).await?;
    portal.commit(writing).await?;
    Ok(user)
}

/// Whether somebody administers the portal. People without that, such as ones whom a command has
/// made, do not close the way in.
async fn is_over(reads: &mut impl Reads) -> Result<bool, Fault> {
    Ok(users::count_active_with(reads, Role::Admin).await? > 0)
}

fn over() -> Fault {
    let detail = "an administrator exists: log in, or run 'culvert-portal users create NAME --role admin' on the host";
    Fault::new(Problem::Spent, detail)
}
