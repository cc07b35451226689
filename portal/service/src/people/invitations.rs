//! Invitations: a link by which somebody makes an account that has its roles already.

use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::people::{AccountState, Invitation, SecretLink, User};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::role::Role;
use culvert_portal_model::settings::Registration;
use culvert_portal_seams::mail::Mail;
use culvert_portal_store::invitations;
use jiff::SignedDuration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{LINKS_OF_ADDRESS, one_client};
use crate::people::accounts;
use crate::people::accounts::NewUser;
use crate::portal::Portal;
use crate::secret::{Kind, copied, hash, make};
use crate::trail::Change;

/// How long an invitation is good at most.
const DAYS_MAX: u32 = 30;

/// An invitation that an administrator makes.
#[derive(Debug, Clone)]
pub struct InvitationWish {
    /// What the account may do.
    pub roles: Vec<Role>,
    /// Where to mail it; the link is shown as well.
    pub email: Option<String>,
    /// For how many days it is good.
    pub days: u32,
}

/// A new invitation.
#[derive(Debug, Clone)]
pub struct NewInvitation {
    /// The invitation.
    pub invitation: Invitation,
    /// Its link, shown this once.
    pub link: SecretLink,
    /// The mail to send, if it has an address.
    pub mail: Option<Mail>,
}

/// A page of invitations, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, page: &PageRequest) -> Result<Page<Invitation>, Fault> {
    portal.permit(actor, Action::InvitationList).await?;
    let rows = invitations::list(&mut portal.database.read().await?, page).await?;
    Ok(Page::of(rows, page.rows, |invitation| invitation.id.text()))
}

/// Makes an invitation.
///
/// # Errors
/// [`Fault`].
pub async fn invite(portal: &Portal, actor: &Actor, wish: &InvitationWish) -> Result<NewInvitation, Fault> {
    portal.permit(actor, Action::InvitationCreate).await?;
    if portal.current_settings().await?.registration == Registration::Closed {
        let detail = "registration is closed: set it to 'invitation', or make the account yourself";
        return Err(Fault::new(Problem::Conflict, detail));
    }
    if wish.days == 0 || wish.days > DAYS_MAX {
        let detail = format!("an invitation is good for 1 to {DAYS_MAX} days, not {}", wish.days);
        return Err(Fault::of_field("days", detail));
    }
    input::at_most("roles", &wish.roles, Role::ALL.len())?;
    let mut roles = wish.roles.clone();
    roles.sort_unstable();
    roles.dedup();
    let email = wish.email.as_deref().map(|address| input::email("email", address)).transpose()?;
    let created_by = actor.oneself()?;
    let secret = make(Kind::Invitation, &*portal.seams.randomness);
    let now = portal.now();
    let invitation = Invitation {
        id: portal.new_id(),
        roles,
        email,
        created_by,
        created_at: now,
        expires_at: now + SignedDuration::from_hours(24 * i64::from(wish.days)),
        used_at: None,
        used_by: None,
    };
    let mut writing = portal.database.write().await?;
    invitations::insert(&mut writing, &invitation, &hash(Kind::Invitation, &secret).unwrap_or_default()).await?;
    let change = Change::of("invitation", invitation.id).to(&invitation);
    portal.record(&mut writing, actor, Action::InvitationCreate, change).await?;
    portal.commit(writing).await?;
    let url = format!("{}/join#{secret}", portal.options.public_url);
    let link = SecretLink { url, secret, expires_at: invitation.expires_at };
    let mail = invitation.email.clone().map(|to| Mail {
        to,
        subject: "An invitation to Culvert".to_owned(),
        body: format!("Hello,\n\nto make your account, open\n\n{}\n\nuntil {}.\n", link.url, link.expires_at),
    });
    Ok(NewInvitation { invitation, link, mail })
}

/// Withdraws an invitation that is unused.
///
/// # Errors
/// [`Fault`].
pub async fn withdraw(portal: &Portal, actor: &Actor, id: Id) -> Result<(), Fault> {
    portal.permit(actor, Action::InvitationRevoke).await?;
    let mut writing = portal.database.write().await?;
    if !invitations::delete(&mut writing, id).await? {
        return Err(Fault::not_found("invitation that is unused"));
    }
    portal.record(&mut writing, actor, Action::InvitationRevoke, Change::of("invitation", id)).await?;
    portal.commit(writing).await
}

/// Makes an account with an invitation, which is spent. Of two browsers that race, one does.
///
/// # Errors
/// [`Problem::Spent`] if it is no longer good; [`Problem::InvalidValue`] if it is none.
pub async fn accept(portal: &Portal, actor: &Actor, secret: &str, new: &NewUser) -> Result<User, Fault> {
    portal.take_now(LINKS_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    let spent = || Fault::new(Problem::Spent, "the invitation is no longer good: ask for a new one");
    let secret_hash = copied(Kind::Invitation, secret)?;
    if new.password.is_none() {
        return Err(Fault::of_field("password", "the account needs a password"));
    }
    invitations::by_secret(&mut portal.database.read().await?, &secret_hash).await?.ok_or_else(spent)?;
    let row = accounts::new_row(portal, new, AccountState::Active).await?;
    let mut writing = portal.database.write().await?;
    let invitation = invitations::by_secret(&mut writing, &secret_hash).await?.ok_or_else(spent)?;
    if invitation.expires_at <= portal.now() || invitation.used_at.is_some() {
        return Err(spent());
    }
    let id = row.id;
    let user = accounts::insert(portal, &mut writing, actor, Action::UserCreate, row, &invitation.roles).await?;
    if !invitations::spend(&mut writing, invitation.id, id, portal.now()).await? {
        return Err(spent());
    }
    portal.commit(writing).await?;
    Ok(user)
}
