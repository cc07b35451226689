//! Logging in with a name, a password, and a code.
//!
//! Every attempt counts against the address that it comes from, and against the pair of account and
//! network; what comes from networks that the account was never used from counts against the
//! account as well. So nobody guesses fast, and nobody locks another person out: from where they
//! usually are, only their own mistakes count.

use culvert_portal_model::audit::{Outcome, Who};
use culvert_portal_model::people::{AccountState, Session, User};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::Writing;
use culvert_portal_store::sessions::{self, SessionRow};
use culvert_portal_store::users::{self, UserRow};
use jiff::SignedDuration;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{
    CODES_OF_ACCOUNT, LOGIN_OF_ACCOUNT, LOGIN_OF_ADDRESS, LOGIN_OF_NETWORK, LOGIN_OF_PAIR, network, one_client,
};
use crate::people::accounts;
use crate::people::passwords::Place;
use crate::people::second_factor;
use crate::people::sessions::shown;
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::tally::Counted;
use crate::trail::Change;

/// The word of the audit trail.
pub const LOGIN: &str = "session.login";

/// What somebody logs in with.
#[derive(Debug, Clone)]
pub struct Attempt<'a> {
    /// The account's name.
    pub name: &'a str,
    /// The password.
    pub password: &'a str,
    /// A code of the second factor, or a recovery code.
    pub code: Option<&'a str>,
    /// The address that it comes from.
    pub address: &'a str,
    /// What the browser calls itself.
    pub agent: &'a str,
    /// The request's number in the log.
    pub request: Option<String>,
}

/// Somebody who has logged in.
#[derive(Debug, Clone)]
pub struct LoggedIn {
    /// Who.
    pub user: User,
    /// The session.
    pub session: Session,
    /// What the cookie holds.
    pub secret: String,
}

/// Logs somebody in.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::SecondFactorNeeded`], [`Problem::TooMany`]; with the
/// right password, [`Problem::AccountInactive`].
pub async fn log_in(portal: &Portal, attempt: &Attempt<'_>) -> Result<LoggedIn, Fault> {
    let result = try_to_log_in(portal, attempt).await;
    // Those that succeed are counted where sessions begin, those that are refused where that is
    // written down: in whatever way somebody logs in.
    if result.as_ref().is_err_and(|fault| fault.problem == Problem::TooMany) {
        portal.tally.count(Counted::LoginLimited);
    }
    result
}

/// Begins a session for an account that has proved who it is.
pub(crate) async fn begin_session(
    portal: &Portal,
    writing: &mut Writing,
    row: &UserRow,
    address: &str,
    agent: &str,
    request: Option<String>,
) -> Result<LoggedIn, Fault> {
    let now = portal.now();
    let lifetime = SignedDuration::from_secs(i64::from(portal.current_settings().await?.session_absolute_seconds));
    let secret = make(Kind::Session, &*portal.seams.randomness);
    let session = SessionRow {
        id: portal.new_id(),
        user: row.id,
        secret_hash: hash(Kind::Session, &secret).unwrap_or_default(),
        created_at: now,
        last_seen_at: now,
        expires_at: now + lifetime,
        proved_at: now,
        address: address.to_owned(),
        agent: agent.chars().filter(|character| !character.is_control()).take(200).collect(),
    };
    sessions::insert(writing, &session).await?;
    users::logged_in(writing, row.id, now).await?;
    let who = Who::Session { user: row.id, session: session.id };
    let actor = Actor { who, address: Some(address.to_owned()), request, ..Actor::portal() };
    portal.record_as(writing, &actor, LOGIN, Outcome::Done, Change::of("session", session.id)).await?;
    let user = accounts::read_back(writing, row.id).await?;
    portal.tally.count(Counted::LoginDone);
    Ok(LoggedIn { user, session: shown(session, true), secret })
}

/// Ends the session that asks.
///
/// # Errors
/// [`Fault`].
pub async fn log_out(portal: &Portal, actor: &Actor) -> Result<(), Fault> {
    portal.permit(actor, Action::LogOut).await?;
    let Who::Session { session, .. } = actor.who else {
        return Err(Fault::new(Problem::Forbidden, "this is for people who have logged in"));
    };
    let mut writing = portal.database.write().await?;
    if sessions::end(&mut writing, session, portal.now()).await? {
        let change = Change::of("session", session);
        portal.record(&mut writing, actor, Action::LogOut, change).await?;
    }
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// The account of somebody who has proved who they are is not active.
pub(crate) fn inactive(state: AccountState) -> Fault {
    let detail = match state {
        AccountState::Pending => "the account waits for an administrator to approve it",
        _ => "the account is deactivated: ask an administrator",
    };
    Fault::new(Problem::AccountInactive, detail)
}

/// Says that somebody was not let in, and counts it.
pub(crate) async fn note_refused(portal: &Portal, actor: &Actor, change: Change) -> Result<(), Fault> {
    portal.tally.count(Counted::LoginRefused);
    let mut writing = portal.database.write().await?;
    let nobody = Actor::nobody(actor.address.clone(), actor.request.clone());
    portal.record_as(&mut writing, &nobody, LOGIN, Outcome::Refused, change).await?;
    portal.commit(writing).await
}

async fn try_to_log_in(portal: &Portal, attempt: &Attempt<'_>) -> Result<LoggedIn, Fault> {
    // What cannot be a name is nobody's, and is looked for all the same.
    let name = input::login_name("name", attempt.name).unwrap_or_default();
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(attempt.address)).await?;
    let row = users::by_name(&mut portal.database.read().await?, &name).await?;
    let place = place_of(portal, row.as_ref(), attempt.address).await?;
    let pair = pair_key(&name, attempt.address);
    portal.take_now(LOGIN_OF_PAIR, &pair).await?;
    let shown: String = name.chars().take(64).collect();
    portal.take_now(LOGIN_OF_NETWORK, &format!("{shown} {}", network(attempt.address))).await?;
    if place == Place::Unknown {
        portal.take_now(LOGIN_OF_ACCOUNT, &name).await?;
    }
    let stored = row.as_ref().and_then(|row| row.password_hash.as_deref());
    let right = portal.passwords.is_right(attempt.password, stored, place).await?;
    let Some(row) = row.filter(|_| right) else {
        note_refusal(portal, attempt, &name).await?;
        return Err(wrong());
    };
    if row.state != AccountState::Active {
        // Only who has the password hears this, after the same work as everybody.
        note_refusal(portal, attempt, &name).await?;
        return Err(inactive(row.state));
    }
    finish(portal, attempt, row, &pair).await
}

async fn finish(portal: &Portal, attempt: &Attempt<'_>, row: UserRow, pair: &str) -> Result<LoggedIn, Fault> {
    let needs_code = second_factor::is_set_up(&mut portal.database.read().await?, &row).await?;
    if needs_code {
        if attempt.code.is_none() {
            // Who knows the password is one step from getting in: that is written down.
            let nobody = Actor::nobody(Some(attempt.address.to_owned()), attempt.request.clone());
            let change = Change::of("session", row.id).to(&"the password was right; a code was not given");
            note_refused(portal, &nobody, change).await?;
            let detail = "give a code of your second factor, or a recovery code";
            return Err(Fault::new(Problem::SecondFactorNeeded, detail));
        }
        portal.take_now(CODES_OF_ACCOUNT, &row.id.text()).await?;
    }
    let mut writing = portal.database.write().await?;
    // Read again where nobody changes it: it may have been deactivated since.
    let row = users::by_id(&mut writing, row.id).await?.ok_or_else(wrong)?;
    if row.state != AccountState::Active {
        return Err(inactive(row.state));
    }
    if (needs_code || row.totp_secret.is_some())
        && !second_factor::spend_any_code(portal, &mut writing, &row, attempt.code.unwrap_or_default()).await?
    {
        drop(writing);
        note_refusal(portal, attempt, &row.name).await?;
        return Err(wrong());
    }
    portal.forget_limit(&mut writing, LOGIN_OF_PAIR, pair).await?;
    portal.forget_limit(&mut writing, CODES_OF_ACCOUNT, &row.id.text()).await?;
    let logged_in =
        begin_session(portal, &mut writing, &row, attempt.address, attempt.agent, attempt.request.clone()).await?;
    portal.commit(writing).await?;
    Ok(logged_in)
}

/// Whether an account was used from an address's network in the last weeks.
async fn place_of(portal: &Portal, row: Option<&UserRow>, address: &str) -> Result<Place, Fault> {
    let Some(row) = row else { return Ok(Place::Unknown) };
    let here = network(address);
    let known = sessions::addresses_of(&mut portal.database.read().await?, row.id).await?;
    let is_known = known.iter().any(|known| network(known) == here);
    Ok(if is_known { Place::Known } else { Place::Unknown })
}

async fn note_refusal(portal: &Portal, attempt: &Attempt<'_>, name: &str) -> Result<(), Fault> {
    let nobody = Actor::nobody(Some(attempt.address.to_owned()), attempt.request.clone());
    // What was typed as a name may be a password: only names of accounts are written down.
    let user = users::by_name(&mut portal.database.read().await?, name).await?;
    let change = user.map_or_else(|| Change::of_kind("session"), |user| Change::of("session", user.id));
    note_refused(portal, &nobody, change).await
}

fn wrong() -> Fault {
    Fault::new(Problem::WrongCredentials, "the name, password or code is wrong")
}

fn pair_key(name: &str, address: &str) -> String {
    format!("{} {}", name.chars().take(64).collect::<String>(), one_client(address))
}
