//! Sessions: listed, ended, and proved anew.

use culvert_portal_model::audit::{Outcome, Who};
use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest};
use culvert_portal_model::people::{AccountState, Session};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::sessions::{self, SessionRow};
use culvert_portal_store::users;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::limits::CODES_OF_ACCOUNT;
use crate::people::passwords::Place;
use crate::people::second_factor;
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::trail::Change;

/// A page of sessions that have not ended, newest first.
///
/// # Errors
/// [`Fault`].
pub async fn list(
    portal: &Portal,
    actor: &Actor,
    user: Option<Id>,
    page: &PageRequest,
) -> Result<Page<Session>, Fault> {
    let reach = portal.permit(actor, Action::SessionList).await?;
    let of = reach.owner().or(user);
    let rows = sessions::list(&mut portal.database.read().await?, of, portal.now(), page).await?;
    let current = |row: &SessionRow| matches!(actor.who, Who::Session { session, .. } if session == row.id);
    let shown = rows.into_iter().map(|row| (current(&row), row)).map(|(is_current, row)| shown(row, is_current));
    Ok(Page::of(shown.collect(), page.rows, |session| session.id.text()))
}

/// Ends a session.
///
/// # Errors
/// [`Fault`].
pub async fn revoke(portal: &Portal, actor: &Actor, id: Id) -> Result<(), Fault> {
    let reach = portal.permit(actor, Action::SessionRevoke).await?;
    let mut writing = portal.database.write().await?;
    let row = sessions::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("session"))?;
    reach.covers(row.user, "session")?;
    if !sessions::end(&mut writing, id, portal.now()).await? {
        return Err(Fault::not_found("session"));
    }
    portal.record(&mut writing, actor, Action::SessionRevoke, Change::of("session", id)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Ends all sessions of the person who asks, except the one that asks; says how many.
///
/// # Errors
/// [`Fault`].
pub async fn revoke_others(portal: &Portal, actor: &Actor) -> Result<u64, Fault> {
    portal.permit(actor, Action::SessionRevoke).await?;
    let user = actor.oneself()?;
    let Who::Session { session, .. } = actor.who else {
        return Err(Fault::new(Problem::Forbidden, "this is for people who have logged in, not for tokens"));
    };
    let mut writing = portal.database.write().await?;
    let count = sessions::end_of(&mut writing, user, Some(session), portal.now()).await?;
    portal.record(&mut writing, actor, Action::SessionRevoke, Change::of("user", user)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(count)
}

/// Proves again who somebody is, by their password or by a code if they have a second factor.
/// Gives the session another secret: the old one is no longer good.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::SecondFactorNeeded`], [`Problem::TooMany`].
pub async fn step_up(
    portal: &Portal,
    actor: &Actor,
    secret: &str,
    password: Option<&str>,
    code: Option<&str>,
) -> Result<String, Fault> {
    portal.permit(actor, Action::StepUp).await?;
    let user = actor.oneself()?;
    portal.take_now(CODES_OF_ACCOUNT, &user.text()).await?;
    let wrong = || Fault::new(Problem::WrongCredentials, "the password or code is wrong");
    let row = users::by_id(&mut portal.database.read().await?, user).await?.ok_or_else(wrong)?;
    let needs_code = second_factor::is_set_up(&mut portal.database.read().await?, &row).await?;
    if needs_code && code.is_none() {
        return Err(Fault::new(Problem::SecondFactorNeeded, "give a code of your second factor"));
    }
    if !needs_code {
        let stored = row.password_hash.as_deref();
        if !portal.passwords.is_right(password.unwrap_or_default(), stored, Place::Known).await? {
            note_refused(portal, actor, user).await?;
            return Err(wrong());
        }
    }
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.filter(|row| row.state == AccountState::Active);
    let row = row.ok_or_else(wrong)?;
    if (needs_code || row.totp_secret.is_some())
        && !second_factor::spend_any_code(portal, &mut writing, &row, code.unwrap_or_default()).await?
    {
        drop(writing);
        note_refused(portal, actor, user).await?;
        return Err(wrong());
    }
    let new = make(Kind::Session, &*portal.seams.randomness);
    let (old_hash, new_hash) = (hash(Kind::Session, secret), hash(Kind::Session, &new));
    let (old_hash, new_hash) = (old_hash.unwrap_or_default(), new_hash.unwrap_or_default());
    if !sessions::rotate(&mut writing, &old_hash, &new_hash, portal.now()).await? {
        return Err(Fault::new(Problem::NotLoggedIn, "the session has ended: log in again"));
    }
    portal.forget_limit(&mut writing, CODES_OF_ACCOUNT, &user.text()).await?;
    portal.record(&mut writing, actor, Action::StepUp, Change::of("user", user)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(new)
}

/// A session as the API shows it.
pub(crate) fn shown(row: SessionRow, current: bool) -> Session {
    Session {
        id: row.id,
        user: row.user,
        created_at: row.created_at,
        last_seen_at: row.last_seen_at,
        expires_at: row.expires_at,
        address: row.address,
        agent: row.agent,
        current,
    }
}

async fn note_refused(portal: &Portal, actor: &Actor, user: Id) -> Result<(), Fault> {
    let mut writing = portal.database.write().await?;
    let change = Change::of("user", user);
    portal.record_as(&mut writing, actor, Action::StepUp.word(), Outcome::Refused, change).await?;
    portal.commit(writing).await
}
