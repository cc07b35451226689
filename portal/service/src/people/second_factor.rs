//! The second factor: codes of an authenticator (TOTP, RFC 6238), and recovery codes.
//!
//! A code is good once: the account remembers the highest step whose code was used, also the one by
//! which the factor was set up, and moves it in the transaction that believes the code.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use culvert_portal_model::id::Id;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::users::{self, UserRow};
use culvert_portal_store::{Reads, Writing, ceremonies, devices, passkeys, recovery_codes, sessions};
use totp_rs::{Algorithm, Builder, Totp};

use crate::actor::Actor;
use crate::fault::Fault;
use crate::limits::CODES_OF_ACCOUNT;
use crate::people::accounts;
use crate::portal::Portal;
use crate::secret::hex;
use crate::trail::Change;

/// The kind under which secrets of codes are sealed.
const KIND: &str = "second factor";
/// Bytes of a secret: as many as the hash has (RFC 4226, section 4).
const SECRET_BYTES: usize = 20;
/// Seconds of a step.
const STEP_SECONDS: u64 = 30;
/// Steps by which a phone's clock may be wrong.
const SKEW_STEPS: u16 = 1;
/// How many recovery codes somebody gets.
const RECOVERY_CODES: usize = 10;

/// What an authenticator needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enrolment {
    /// The secret, as a person types it (base32).
    pub secret: String,
    /// The same as a URL for a QR code.
    pub url: String,
}

/// Begins to set up a second factor. It counts after [`confirm`].
///
/// # Errors
/// [`Problem::Conflict`] if there is one.
pub async fn begin(portal: &Portal, actor: &Actor) -> Result<Enrolment, Fault> {
    portal.permit(actor, Action::SecondFactorChange).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    if row.totp_secret.is_some() {
        return Err(Fault::new(Problem::Conflict, "there is a second factor: remove it first"));
    }
    let secret: [u8; SECRET_BYTES] = bytes(&*portal.seams.randomness);
    row.totp_pending = Some(portal.sealer.seal(KIND, &user.text(), &secret, &*portal.seams.randomness));
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    portal.commit(writing).await?;
    let text = base32(&secret);
    let issuer = "Culvert";
    let url = format!(
        "otpauth://totp/{issuer}:{}?secret={text}&issuer={issuer}&algorithm=SHA1&digits=6&period={STEP_SECONDS}",
        row.name
    );
    Ok(Enrolment { secret: text, url })
}

/// Makes a second factor count, by a code of it. Gives the recovery codes, this once.
///
/// # Errors
/// [`Problem::WrongCredentials`].
pub async fn confirm(portal: &Portal, actor: &Actor, code: &str) -> Result<Vec<String>, Fault> {
    portal.permit(actor, Action::SecondFactorChange).await?;
    let user = actor.oneself()?;
    portal.take_now(CODES_OF_ACCOUNT, &user.text()).await?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    let Some(pending) = row.totp_pending.take() else {
        return Err(Fault::new(Problem::Conflict, "begin to set up the second factor first"));
    };
    let step = step_of(portal, &row, &pending, code)?;
    let Some(step) = step.filter(|step| *step > row.totp_step) else {
        return Err(Fault::new(Problem::WrongCredentials, "the code is wrong: check the phone's clock"));
    };
    row.totp_step = step;
    row.totp_secret = Some(pending);
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    let codes = new_recovery_codes(portal, &mut writing, &row).await?;
    let change = Change::of("user", user).to(&"second factor set up");
    portal.record(&mut writing, actor, Action::SecondFactorChange, change).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(codes)
}

/// Removes the second factor.
///
/// # Errors
/// [`Fault`].
pub async fn remove(portal: &Portal, actor: &Actor) -> Result<(), Fault> {
    portal.permit(actor, Action::SecondFactorRemove).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    (row.totp_secret, row.totp_pending) = (None, None);
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    // They also stand in for a lost passkey.
    if !is_set_up(&mut writing, &row).await? {
        recovery_codes::replace(&mut writing, user, &[]).await?;
    }
    let change = Change::of("user", user).to(&"second factor removed");
    portal.record(&mut writing, actor, Action::SecondFactorRemove, change).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Removes the second factor of somebody who has lost it: codes, passkeys and recovery codes, since
/// each of them would be asked for still. Their sessions end, and logins that are under way: they
/// may be those of whoever has found it.
///
/// # Errors
/// [`Problem::Conflict`] if they have none.
pub async fn remove_of(portal: &Portal, actor: &Actor, user: Id) -> Result<(), Fault> {
    portal.permit(actor, Action::UserSecondFactor).await?.covers(user, "person")?;
    let mut writing = portal.database.write().await?;
    let mut row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    if !is_set_up(&mut writing, &row).await? {
        let detail = format!("{} has no second factor: nothing is to be removed", row.name);
        return Err(Fault::new(Problem::Conflict, detail));
    }
    let before = accounts::shown(&mut writing, row.clone()).await?;
    (row.totp_secret, row.totp_pending) = (None, None);
    let version = row.version;
    accounts::replace(&mut writing, &row, version).await?;
    passkeys::delete_of(&mut writing, user).await?;
    recovery_codes::replace(&mut writing, user, &[]).await?;
    sessions::end_of(&mut writing, user, None, portal.now()).await?;
    devices::delete_of(&mut writing, user).await?;
    ceremonies::delete_of(&mut writing, user).await?;
    let after = accounts::read_back(&mut writing, user).await?;
    let change = Change::of("user", user).from(&before).to(&after);
    portal.record(&mut writing, actor, Action::UserSecondFactor, change).await?;
    accounts::announce_change(portal, &mut writing, user).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Replaces the recovery codes.
///
/// # Errors
/// [`Problem::Conflict`] if there is no second factor.
pub async fn renew_recovery_codes(portal: &Portal, actor: &Actor) -> Result<Vec<String>, Fault> {
    portal.permit(actor, Action::SecondFactorRemove).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    if !is_set_up(&mut writing, &row).await? {
        return Err(Fault::new(Problem::Conflict, "set up a second factor first"));
    }
    let codes = new_recovery_codes(portal, &mut writing, &row).await?;
    let change = Change::of("user", user).to(&"recovery codes replaced");
    portal.record(&mut writing, actor, Action::SecondFactorRemove, change).await?;
    portal.commit(writing).await?;
    Ok(codes)
}

/// Whether somebody has a second factor.
pub(crate) async fn is_set_up(reads: &mut impl Reads, row: &UserRow) -> Result<bool, Fault> {
    Ok(row.totp_secret.is_some() || passkeys::count_of(reads, row.id).await? > 0)
}

/// Whether a code is good, also of somebody whose second factor is a passkey: they have codes for
/// recovery. It is spent with that.
pub(crate) async fn spend_any_code(
    portal: &Portal,
    writing: &mut Writing,
    row: &UserRow,
    code: &str,
) -> Result<bool, Fault> {
    match &row.totp_secret {
        Some(sealed) => spend_code(portal, writing, row, sealed, code).await,
        None => Ok(recovery_codes::spend(writing, row.id, &recovery_hash(row, &bare(code))).await?),
    }
}

/// Whether a code is good, of the authenticator or for recovery. It is spent with that.
pub(crate) async fn spend_code(
    portal: &Portal,
    writing: &mut Writing,
    row: &UserRow,
    sealed: &[u8],
    code: &str,
) -> Result<bool, Fault> {
    let code = bare(code);
    if code.len() == 6 && code.bytes().all(|byte| byte.is_ascii_digit()) {
        return match step_of(portal, row, sealed, &code)? {
            Some(step) => Ok(users::use_totp_step(writing, row.id, step).await?),
            None => Ok(false),
        };
    }
    let hash = recovery_hash(row, &code);
    Ok(recovery_codes::spend(writing, row.id, &hash).await?)
}

/// Makes new recovery codes, in place of those that there were.
pub(crate) async fn new_recovery_codes(
    portal: &Portal,
    writing: &mut Writing,
    row: &UserRow,
) -> Result<Vec<String>, Fault> {
    let codes: Vec<String> =
        (0..RECOVERY_CODES).map(|_| URL_SAFE_NO_PAD.encode(bytes::<16>(&*portal.seams.randomness))).collect();
    let hashes: Vec<String> = codes.iter().map(|code| recovery_hash(row, code)).collect();
    recovery_codes::replace(writing, row.id, &hashes).await?;
    Ok(codes)
}

fn bare(code: &str) -> String {
    code.chars().filter(|character| !character.is_whitespace()).take(64).collect()
}

/// The step whose code it is, if it is one of these minutes.
fn step_of(portal: &Portal, row: &UserRow, sealed: &[u8], code: &str) -> Result<Option<i64>, Fault> {
    let secret = portal
        .sealer
        .open(KIND, &row.id.text(), sealed)
        .map_err(|error| Fault::internal(format!("the second factor of {} cannot be opened: {error}", row.name)))?;
    let now = u64::try_from(portal.now().as_second()).unwrap_or(0);
    let step = totp(&secret).check(code, now);
    Ok(step.and_then(|step| i64::try_from(step).ok()))
}

fn totp(secret: &[u8]) -> Totp {
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_skew(SKEW_STEPS)
        .with_step_duration(STEP_SECONDS)
        .with_secret(secret.to_vec())
        .build_noncompliant()
}

/// 128 random bits need no slow hash; the account is in it, so that no code is good for another.
fn recovery_hash(row: &UserRow, code: &str) -> String {
    let text = format!("culvert recovery code\n{}\n{code}", row.id);
    hex(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes()).as_ref())
}

/// Base32 without padding (RFC 4648, section 6).
fn base32(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let bit = |at: usize| bytes.get(at / 8).map_or(0, |byte| usize::from(byte >> (7 - at % 8) & 1));
    let letters = (bytes.len() * 8).div_ceil(5);
    (0..letters)
        .map(|letter| char::from(LETTERS[(0..5).fold(0, |value, at| value << 1 | bit(letter * 5 + at))]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 4648, section 10, without its padding.
    #[test]
    fn base32_is_that_of_the_rfc() {
        for (bytes, text) in
            [("f", "MY"), ("fo", "MZXQ"), ("foo", "MZXW6"), ("foob", "MZXW6YQ"), ("foobar", "MZXW6YTBOI")]
        {
            assert_eq!(base32(bytes.as_bytes()), text);
        }
    }

    /// RFC 6238, appendix B: the last six digits of its eight.
    #[test]
    fn codes_are_those_of_the_rfc() {
        let totp = totp(b"12345678901234567890");
        for (time, code) in [(59, "287082"), (1_111_111_109, "081804"), (2_000_000_000, "279037")] {
            assert_eq!(totp.check(code, time), Some(time / 30), "{time}");
            assert_eq!(totp.check(code, time + 90), None, "{time}");
        }
    }
}
