//! A forgotten password: by a link that is mailed to the account's own address, or that an
//! administrator makes and hands over.

use culvert_portal_model::id::Id;
use culvert_portal_model::people::{AccountState, SecretLink};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_seams::mail::Mail;
use culvert_portal_store::links::{self, LinkRow};
use culvert_portal_store::users::{self, UserRow};
use culvert_portal_store::{Writing, devices, sessions};
use jiff::SignedDuration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{LINKS_OF_ADDRESS, MAILS_OF_ACCOUNT, one_client};
use crate::people::accounts;
use crate::portal::Portal;
use crate::secret::{Kind, copied, hash, make};
use crate::trail::Change;

const KIND: &str = "reset";
const GOOD_FOR: SignedDuration = SignedDuration::from_hours(1);

/// Whether a link can be asked for at all: what is the same for every name.
///
/// # Errors
/// [`Problem::TooMany`] from this address; [`Problem::Unavailable`] without a mail server.
pub(crate) async fn check(portal: &Portal, actor: &Actor) -> Result<(), Fault> {
    portal.take_now(LINKS_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    if portal.seams.mailer.is_configured() {
        return Ok(());
    }
    let detail = "this portal sends no mail: ask an administrator for a link";
    Err(Fault::new(Problem::Unavailable, detail))
}

/// Makes mails with a link for whoever has this name or address, if anybody has. Whoever asked
/// has had the same answer by then, in the same time.
pub(crate) async fn make_mails(portal: &Portal, actor: &Actor, who: &str) -> Result<Vec<Mail>, Fault> {
    let mut reading = portal.database.read().await?;
    let found = if who.contains('@') {
        let Ok(address) = input::email("who", who) else { return Ok(Vec::new()) };
        users::by_email(&mut reading, &address).await?
    } else {
        users::by_name(&mut reading, &who.to_ascii_lowercase()).await?.into_iter().collect()
    };
    drop(reading);
    let mut mails = Vec::new();
    for row in found.into_iter().filter(|row| row.state == AccountState::Active) {
        let Some(to) = row.email.clone() else { continue };
        if portal.take_now(MAILS_OF_ACCOUNT, &row.id.text()).await.is_err() {
            continue;
        }
        let link = link_for(portal, actor, &row, Former::Stay).await?;
        mails.push(Mail { to, subject: "A new password for Culvert".to_owned(), body: body(&row, &link) });
    }
    Ok(mails)
}

/// Makes a link for an administrator to hand over.
///
/// # Errors
/// [`Fault`].
pub async fn make_link(portal: &Portal, actor: &Actor, user: Id) -> Result<SecretLink, Fault> {
    portal.permit(actor, Action::UserResetLink).await?.covers(user, "person")?;
    let row = users::by_id(&mut portal.database.read().await?, user).await?;
    let row = row.ok_or_else(|| Fault::not_found("person"))?;
    if row.state != AccountState::Active {
        return Err(Fault::new(Problem::Conflict, "the account is not active"));
    }
    link_for(portal, actor, &row, Former::End).await
}

/// Sets a new password by a link, which is spent. All sessions end. A second factor stays: the
/// link proves only who reads the account's mail.
///
/// # Errors
/// [`Problem::Spent`] if the link is no longer good; [`Problem::InvalidValue`] if it is none.
pub async fn reset_password(portal: &Portal, actor: &Actor, secret: &str, new: &str) -> Result<(), Fault> {
    portal.take_now(LINKS_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    let spent = || Fault::new(Problem::Spent, "the link is no longer good: ask for a new one");
    let secret_hash = copied(Kind::Link, secret)?;
    let mut reading = portal.database.read().await?;
    let link = links::find(&mut reading, KIND, &secret_hash).await?.ok_or_else(spent)?;
    let row = users::by_id(&mut reading, link.user.ok_or_else(spent)?).await?.ok_or_else(spent)?;
    drop(reading);
    accounts::check_password(portal, new, &[&row.name, &row.display_name, row.email.as_deref().unwrap_or_default()])?;
    let password_hash = portal.passwords.hash(new, &*portal.seams.randomness).await?;
    let mut writing = portal.database.write().await?;
    let link = links::find(&mut writing, KIND, &secret_hash).await?.ok_or_else(spent)?;
    let row = users::by_id(&mut writing, row.id).await?.filter(|row| row.state == AccountState::Active);
    let mut row = row.ok_or_else(spent)?;
    if link.expires_at <= portal.now() || !links::spend(&mut writing, link.id).await? {
        return Err(spent());
    }
    row.password_hash = Some(password_hash);
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    sessions::end_of(&mut writing, row.id, None, portal.now()).await?;
    links::delete_of(&mut writing, row.id, None).await?;
    devices::delete_of(&mut writing, row.id).await?;
    portal.record(&mut writing, actor, Action::PasswordChange, Change::of("user", row.id)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// What becomes of links that were made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Former {
    /// They stay: anybody can ask for a mail, and must not end what an administrator has handed
    /// over by that. How many there are is bounded by the limit of mails.
    Stay,
    /// Only the newest is good.
    End,
}

async fn link_for(portal: &Portal, actor: &Actor, row: &UserRow, former: Former) -> Result<SecretLink, Fault> {
    let secret = make(Kind::Link, &*portal.seams.randomness);
    let now = portal.now();
    let link = LinkRow {
        id: portal.new_id(),
        kind: KIND.to_owned(),
        secret_hash: hash(Kind::Link, &secret).unwrap_or_default(),
        user: Some(row.id),
        detail: None,
        created_at: now,
        expires_at: now + GOOD_FOR,
    };
    let mut writing: Writing = portal.database.write().await?;
    if former == Former::End {
        links::delete_of(&mut writing, row.id, Some(KIND)).await?;
    }
    links::insert(&mut writing, &link).await?;
    portal.record(&mut writing, actor, Action::UserResetLink, Change::of("user", row.id)).await?;
    portal.commit(writing).await?;
    let url = format!("{}/reset#{secret}", portal.options.public_url);
    Ok(SecretLink { url, secret, expires_at: link.expires_at })
}

fn body(row: &UserRow, link: &SecretLink) -> String {
    format!(
        "Hello {},\n\nsomebody asked for a new password for the account '{}'. To set one, open\n\n{}\n\nwithin an hour. \
         If it was not you, do nothing: the password stays as it is.\n",
        row.display_name, row.name, link.url
    )
}
