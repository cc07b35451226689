//! Letting in a device without a browser (RFC 8628): it shows a code, its person enters that where
//! they are logged in, and the device gets an API token of theirs, once.
//!
//! ```text
//! device                       portal                        person
//!   start ───────────────────▶ waiting
//!   ◀── device code, user code
//!   shows the user code ─────────────────────────────────────▶ show, approve or deny
//!   poll ────────────────────▶ "pending" … approved, or denied
//!   ◀── token                  (the row is gone)
//! ```
//!
//! Who has only the user code can let the device in as themselves and no more: the token goes to
//! whoever has the device code. So a person is shown what asks, and from where, before they decide.

use culvert_portal_model::devices::{DeviceCode, DeviceRequest};
use culvert_portal_model::people::{AccountState, NewToken};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::scope::Scope;
use culvert_portal_seams::randomness::{Randomness, bytes};
use culvert_portal_store::devices::{self, DeviceRow, GrantState};
use culvert_portal_store::{Writing, users};
use jiff::{SignedDuration, Timestamp};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{DEVICE_CODES_OF_ACCOUNT, LINKS_OF_ADDRESS, one_client};
use crate::people::tokens;
use crate::people::tokens::TokenWish;
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::trail::Change;

/// How long a device waits at most.
const GOOD_FOR_SECONDS: u32 = 600;
/// How often it may ask.
const POLL_SECONDS: u32 = 5;
/// How much longer it has to wait each time that it asks too often (RFC 8628, section 3.5).
const SLOWER_SECONDS: u32 = 5;
/// The longest that it has to wait.
const POLL_SECONDS_MAX: u32 = 60;
/// For how many days a device's token is good if nobody says.
pub const DAYS_DEFAULT: u32 = 90;
/// Consonants without those that look alike: no code is a word (RFC 8628, section 6.1).
const LETTERS: &[u8; 20] = b"BCDFGHJKLMNPQRSTVWXZ";
/// Letters of a user code: 34 bits, of which one account may try two a minute.
const CODE_LETTERS: usize = 8;

/// How a person lets a device in.
#[derive(Debug, Clone, Default)]
pub struct Approval {
    /// What it may do: all that it asked for, if `None`, or a part.
    pub scopes: Option<Vec<Scope>>,
    /// For how many days; if `None`, as many as the device asked for, or else [`DAYS_DEFAULT`], or
    /// fewer where the settings say so.
    pub days: Option<u32>,
}

/// Begins: makes the codes for a device.
///
/// # Errors
/// [`Problem::TooMany`] from this address; [`Problem::InvalidValue`].
pub async fn start(
    portal: &Portal,
    actor: &Actor,
    client: &str,
    scopes: &[Scope],
    days: Option<u32>,
) -> Result<DeviceCode, Fault> {
    let address = actor.address.clone().unwrap_or_default();
    portal.take_now(LINKS_OF_ADDRESS, &one_client(&address)).await?;
    let client = input::line("client", client, 1, 100)?;
    let scopes = wanted(scopes)?;
    if let Some(days) = days {
        permitted(days, portal.current_settings().await?.token_days_max)?;
    }
    let secret = make(Kind::Device, &*portal.seams.randomness);
    let now = portal.now();
    let device = DeviceRow {
        id: portal.new_id(),
        device_hash: hash(Kind::Device, &secret).unwrap_or_default(),
        user_code: new_user_code(&*portal.seams.randomness),
        client,
        scopes,
        state: GrantState::Waiting,
        user: None,
        days: days.unwrap_or(0),
        address,
        created_at: now,
        expires_at: now + SignedDuration::from_secs(i64::from(GOOD_FOR_SECONDS)),
        polled_at: Timestamp::UNIX_EPOCH,
        poll_seconds: POLL_SECONDS,
    };
    let mut writing = portal.database.write().await?;
    devices::insert(&mut writing, &device).await?;
    writing.commit().await?;
    let user_code = shown_code(&device.user_code);
    let page = format!("{}/device", portal.options.public_url);
    Ok(DeviceCode {
        device_code: secret,
        verification_uri_complete: format!("{page}?code={user_code}"),
        verification_uri: page,
        user_code,
        expires_in: GOOD_FOR_SECONDS,
        interval: POLL_SECONDS,
    })
}

/// Shows what waits under a code.
///
/// # Errors
/// [`Problem::NotFound`] if nothing does.
pub async fn show(portal: &Portal, actor: &Actor, user_code: &str) -> Result<DeviceRequest, Fault> {
    portal.permit(actor, Action::DeviceShow).await?;
    let user = actor.oneself()?;
    portal.take_now(DEVICE_CODES_OF_ACCOUNT, &user.text()).await?;
    let device = devices::by_user_code(&mut portal.database.read().await?, &bare_code(user_code)).await?;
    let device = waiting(device, portal.now())?;
    Ok(DeviceRequest {
        user_code: shown_code(&device.user_code),
        client: device.client,
        address: device.address,
        scopes: device.scopes,
        days: Some(device.days).filter(|days| *days > 0),
        created_at: device.created_at,
        expires_at: device.expires_at,
    })
}

/// Lets a device in as the person who asks.
///
/// # Errors
/// [`Problem::NotFound`] if none waits under this code; [`Problem::InvalidValue`].
pub async fn approve(portal: &Portal, actor: &Actor, user_code: &str, approval: &Approval) -> Result<(), Fault> {
    portal.permit(actor, Action::DeviceApprove).await?;
    let most = portal.current_settings().await?.token_days_max;
    if let Some(days) = approval.days {
        permitted(days, most)?;
    }
    // Told to the person rather than to the device, which can do nothing about it.
    tokens::check_room(&mut portal.database.read().await?, actor.oneself()?).await?;
    decide(portal, actor, user_code, |device| {
        if let Some(scopes) = &approval.scopes {
            let scopes = wanted(scopes)?;
            if let Some(more) = scopes.iter().find(|scope| !device.scopes.contains(scope)) {
                return Err(Fault::of_field("scopes", format!("the device has not asked for {more}")));
            }
            device.scopes = scopes;
        }
        let asked_for = if device.days == 0 { DAYS_DEFAULT } else { device.days };
        device.days = approval.days.unwrap_or(asked_for.min(most));
        device.state = GrantState::Approved;
        Ok(())
    })
    .await
}

/// Sends a device away.
///
/// # Errors
/// [`Problem::NotFound`] if none waits under this code.
pub async fn deny(portal: &Portal, actor: &Actor, user_code: &str) -> Result<(), Fault> {
    portal.permit(actor, Action::DeviceApprove).await?;
    decide(portal, actor, user_code, |device| {
        device.state = GrantState::Denied;
        Ok(())
    })
    .await
}

/// Answers a device that asks whether it was let in. It gets its token once.
///
/// # Errors
/// [`Problem::AuthorizationPending`], [`Problem::SlowDown`], [`Problem::AccessDenied`], or
/// [`Problem::ExpiredToken`], which is also said of a code that nobody was given.
pub async fn poll(portal: &Portal, actor: &Actor, device_code: &str) -> Result<NewToken, Fault> {
    let expired = || Fault::new(Problem::ExpiredToken, "the device code was used or has expired: begin again");
    let device_hash = hash(Kind::Device, device_code).ok_or_else(expired)?;
    devices::by_secret(&mut portal.database.read().await?, &device_hash).await?.ok_or_else(expired)?;
    let mut writing = portal.database.write().await?;
    let device = devices::by_secret(&mut writing, &device_hash).await?.ok_or_else(expired)?;
    let now = portal.now();
    if device.expires_at <= now {
        return Err(expired());
    }
    let answer = match device.state {
        GrantState::Waiting => wait(&mut writing, &device, now).await?,
        GrantState::Denied => {
            devices::spend(&mut writing, device.id).await?;
            Err(Fault::new(Problem::AccessDenied, "the device was not let in"))
        }
        GrantState::Approved if devices::spend(&mut writing, device.id).await? => {
            Ok(hand_out(portal, &mut writing, actor, &device).await?)
        }
        GrantState::Approved => Err(expired()),
    };
    portal.commit(writing).await?;
    answer
}

/// What a device hears while nobody has decided.
async fn wait(writing: &mut Writing, device: &DeviceRow, now: Timestamp) -> Result<Result<NewToken, Fault>, Fault> {
    let waited = now.as_second().saturating_sub(device.polled_at.as_second());
    let too_soon = waited < i64::from(device.poll_seconds);
    let seconds =
        if too_soon { (device.poll_seconds + SLOWER_SECONDS).min(POLL_SECONDS_MAX) } else { device.poll_seconds };
    devices::polled(writing, device.id, now, seconds).await?;
    let fault = if too_soon {
        Fault::new(Problem::SlowDown, format!("the device asks too often: it has to wait {seconds} s from now on"))
    } else {
        Fault::new(Problem::AuthorizationPending, "nobody has let the device in yet: ask again")
    };
    Ok(Err(Fault { retry_after_seconds: Some(seconds), ..fault }))
}

/// Makes the token of a device that was let in, if its person may still get in themselves.
async fn hand_out(
    portal: &Portal,
    writing: &mut Writing,
    actor: &Actor,
    device: &DeviceRow,
) -> Result<NewToken, Fault> {
    let denied = || Fault::new(Problem::AccessDenied, "the account that let the device in is no longer active");
    let user = device.user.ok_or_else(denied)?;
    let row = users::by_id(writing, user).await?.ok_or_else(denied)?;
    if row.state != AccountState::Active {
        return Err(denied());
    }
    let wish = TokenWish { name: device.client.clone(), scopes: device.scopes.clone(), days: device.days };
    let made = tokens::insert(portal, writing, user, &wish).await?;
    let change = Change::of("token", made.token.id).to(&made.token);
    portal.record(writing, actor, Action::TokenCreate, change).await?;
    Ok(made)
}

/// Decides about a device that waits under a code.
async fn decide(
    portal: &Portal,
    actor: &Actor,
    user_code: &str,
    decision: impl FnOnce(&mut DeviceRow) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let user = actor.oneself()?;
    portal.take_now(DEVICE_CODES_OF_ACCOUNT, &user.text()).await?;
    let mut writing = portal.database.write().await?;
    let found = devices::by_user_code(&mut writing, &bare_code(user_code)).await?;
    let mut device = waiting(found, portal.now())?;
    decision(&mut device)?;
    device.user = Some(user);
    if !devices::decide(&mut writing, &device).await? {
        return Err(none_waits());
    }
    let after = serde_json::json!({
        "decision": if device.state == GrantState::Approved { "approved" } else { "denied" },
        "client": device.client, "address": device.address, "scopes": device.scopes, "days": device.days,
    });
    portal.record(&mut writing, actor, Action::DeviceApprove, Change::of("device", device.id).to(&after)).await?;
    portal.commit(writing).await
}

fn permitted(days: u32, most: u32) -> Result<(), Fault> {
    if (1..=most).contains(&days) {
        return Ok(());
    }
    Err(Fault::of_field("days", format!("a token is good for 1 to {most} days, not {days}")))
}

fn waiting(device: Option<DeviceRow>, now: Timestamp) -> Result<DeviceRow, Fault> {
    let waits = |device: &DeviceRow| device.state == GrantState::Waiting && device.expires_at > now;
    device.filter(waits).ok_or_else(none_waits)
}

fn none_waits() -> Fault {
    Fault::new(Problem::NotFound, "no device waits under this code: check it, or begin again on the device")
}

fn wanted(scopes: &[Scope]) -> Result<Vec<Scope>, Fault> {
    input::at_most("scopes", scopes, Scope::ALL.len())?;
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    if scopes.is_empty() { Err(Fault::of_field("scopes", "a token needs at least one scope")) } else { Ok(scopes) }
}

/// Letters with the same chance each: bytes that would favor some are thrown away.
fn new_user_code(randomness: &dyn Randomness) -> String {
    let fair = u8::try_from(256 / LETTERS.len() * LETTERS.len()).unwrap_or(u8::MAX);
    let letters = std::iter::repeat_with(|| bytes::<1>(randomness)[0]).filter(|byte| *byte < fair);
    letters.take(CODE_LETTERS).map(|byte| char::from(LETTERS[usize::from(byte) % LETTERS.len()])).collect()
}

fn shown_code(code: &str) -> String {
    let (first, second) = code.split_at_checked(CODE_LETTERS / 2).unwrap_or((code, ""));
    format!("{first}-{second}")
}

/// A code as people type it: in any case, with or without what stands between the letters.
fn bare_code(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphabetic).take(2 * CODE_LETTERS).collect::<String>().to_ascii_uppercase()
}

#[cfg(test)]
mod tests {
    use culvert_portal_seams::randomness::SystemRandomness;

    use super::*;

    #[test]
    fn codes_are_typed_in_many_ways_and_are_one() {
        assert_eq!(shown_code("BCDFGHJK"), "BCDF-GHJK");
        for typed in ["BCDF-GHJK", "bcdfghjk", " bcdf ghjk ", "BCDF–GHJK"] {
            assert_eq!(bare_code(typed), "BCDFGHJK", "{typed}");
        }
        assert_eq!(bare_code(&"B".repeat(1_000)).len(), 16);
    }

    #[test]
    fn each_letter_comes() {
        let text: String = (0..200).map(|_| new_user_code(&SystemRandomness)).collect();
        assert_eq!(text.len(), 1_600);
        assert!(LETTERS.iter().all(|letter| text.contains(char::from(*letter))));
    }
}
