//! The one place where a cookie or a token becomes somebody: an account that is active, now.

use culvert_portal_model::audit::Who;
use culvert_portal_model::id::Id;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::role::Role;
use culvert_portal_store::{sessions, tokens, users};
use jiff::Timestamp;

use crate::actor::Actor;
use crate::credential_cache::Found;
use crate::fault::Fault;
use crate::people::second_factor;
use crate::portal::Portal;
use crate::secret::{Kind, hash};

/// Uses are written down when the last that was is so old.
const NOTED_EVERY_SECONDS: i64 = 60;

/// Who has a session's cookie; `None` if nobody has it any more.
///
/// # Errors
/// [`Fault`] if the database cannot be read.
pub async fn who_has_session(portal: &Portal, secret: &str, address: &str) -> Result<Option<Actor>, Fault> {
    let Some(hash) = hash(Kind::Session, secret) else { return Ok(None) };
    let now = portal.now();
    if let Some(found) = portal.credentials.get(&hash, now) {
        return Ok(Some(actor(found, address)));
    }
    let idle_seconds = i64::from(portal.current_settings().await?.session_idle_seconds);
    let mut reading = portal.database.read().await?;
    let Some(session) = sessions::by_secret(&mut reading, &hash).await? else { return Ok(None) };
    let idle = now.as_second() - session.last_seen_at.as_second();
    if session.expires_at <= now || idle > idle_seconds {
        return Ok(None);
    }
    let Some((roles, has_second_factor)) = active(&mut reading, session.user).await? else { return Ok(None) };
    drop(reading);
    if idle >= NOTED_EVERY_SECONDS {
        let mut writing = portal.database.write().await?;
        sessions::seen(&mut writing, session.id, now, address).await?;
        writing.commit().await?;
    }
    let who = Who::Session { user: session.user, session: session.id };
    let found = Found {
        who,
        roles,
        scopes: None,
        has_second_factor,
        proved_at: Some(session.proved_at),
        has_only_logged_in: session.proved_at <= session.created_at,
    };
    portal.credentials.keep(hash, found.clone(), now);
    Ok(Some(actor(found, address)))
}

/// Who has an API token; `None` if it is none, is revoked, or has expired.
///
/// # Errors
/// [`Fault`] if the database cannot be read.
pub async fn who_has_token(portal: &Portal, secret: &str, address: &str) -> Result<Option<Actor>, Fault> {
    let Some(hash) = hash(Kind::Token, secret) else { return Ok(None) };
    let now = portal.now();
    if let Some(found) = portal.credentials.get(&hash, now) {
        return Ok(Some(actor(found, address)));
    }
    let mut reading = portal.database.read().await?;
    let Some(token) = tokens::by_secret(&mut reading, &hash).await? else { return Ok(None) };
    if token.expires_at <= now {
        return Ok(None);
    }
    let Some((roles, has_second_factor)) = active(&mut reading, token.user).await? else { return Ok(None) };
    drop(reading);
    let last = token.last_used_at.map_or(i64::MIN, Timestamp::as_second);
    if now.as_second().saturating_sub(last) >= NOTED_EVERY_SECONDS {
        let mut writing = portal.database.write().await?;
        tokens::used(&mut writing, token.id, now, address).await?;
        writing.commit().await?;
    }
    let who = Who::Token { user: token.user, token: token.id };
    let scopes = Some(token.scopes);
    let found = Found { who, roles, scopes, has_second_factor, proved_at: None, has_only_logged_in: false };
    portal.credentials.keep(hash, found.clone(), now);
    Ok(Some(actor(found, address)))
}

fn actor(found: Found, address: &str) -> Actor {
    Actor {
        who: found.who,
        roles: found.roles,
        scopes: found.scopes,
        has_second_factor: found.has_second_factor,
        proved_at: found.proved_at,
        has_only_logged_in: found.has_only_logged_in,
        address: Some(address.to_owned()),
        ..Actor::portal()
    }
}

/// The roles of an account, and whether it has a second factor, if it is active.
async fn active(reads: &mut culvert_portal_store::Reading, user: Id) -> Result<Option<(Vec<Role>, bool)>, Fault> {
    let Some(user) = users::by_id(reads, user).await? else { return Ok(None) };
    if user.state != AccountState::Active {
        return Ok(None);
    }
    let mut roles: Vec<Role> = users::roles(reads, user.id).await?.into_iter().map(|(role, _)| role).collect();
    roles.dedup();
    Ok(Some((roles, second_factor::is_set_up(reads, &user).await?)))
}
