//! Passkeys: registered, listed, removed; to log in with, and to prove who one is.
//!
//! The authenticator verifies its person each time, so a passkey is enough alone. An account that
//! has one is not entered by its password alone any more: a second factor is set up. Each challenge
//! is good once, for five minutes, and is remembered only as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use culvert_portal_model::id::Id;
use culvert_portal_model::passkeys::Passkey;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_store::ceremonies::{self, Ceremony};
use culvert_portal_store::passkeys::{self, PasskeyRow};
use culvert_portal_store::users::UserRow;
use culvert_portal_store::{StoreError, Writing, recovery_codes, sessions, users};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use url::Url;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{LOGIN_OF_ADDRESS, one_client};
use crate::people::login::{self, LoggedIn};
use crate::people::second_factor;
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::trail::Change;
use crate::webauthn::checks::{self, Assertion, Known, Refused, Site};
use crate::webauthn::client_data::ClientData;

const REGISTER: &str = "passkey registration";
const SHOW: &str = "passkey";
/// How long somebody may take.
const GOOD_FOR: SignedDuration = SignedDuration::from_mins(5);
/// Passkeys that one person may have.
const PASSKEYS_MAX: usize = 20;

/// What a browser needs to make a passkey.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The challenge, in base64url.
    pub challenge: String,
    /// The site's name.
    pub site: String,
    /// Who somebody is, for the authenticator, in base64url.
    pub user_handle: String,
    /// What they log in with.
    pub user_name: String,
    /// What others see.
    pub display_name: String,
    /// Those that they have, in base64url.
    pub present: Vec<String>,
}

/// What a browser needs to show a passkey.
#[derive(Debug, Clone)]
pub struct Question {
    /// The challenge, in base64url.
    pub challenge: String,
    /// The site's name.
    pub site: String,
}

/// What a browser gives of a passkey that it shows; all in base64url.
#[derive(Debug, Clone)]
pub struct Shown<'a> {
    /// What its authenticator calls it.
    pub credential_id: &'a str,
    /// What the browser says.
    pub client_data: &'a str,
    /// What the authenticator says.
    pub authenticator_data: &'a str,
    /// The signature over both.
    pub signature: &'a str,
}

/// A new passkey.
#[derive(Debug, Clone)]
pub struct Registered {
    /// The passkey.
    pub passkey: Passkey,
    /// Codes for when it is lost, if there were none: shown this once.
    pub recovery_codes: Option<Vec<String>>,
}

/// What is remembered of a challenge.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    user: Option<Id>,
}

/// The passkeys of the person who asks.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor) -> Result<Vec<Passkey>, Fault> {
    portal.permit(actor, Action::SelfShow).await?;
    let rows = passkeys::of_user(&mut portal.database.read().await?, actor.oneself()?).await?;
    Ok(rows.into_iter().map(|row| row.passkey).collect())
}

/// Begins to register a passkey.
///
/// # Errors
/// [`Problem::Conflict`] if there are too many.
pub async fn begin(portal: &Portal, actor: &Actor) -> Result<Offer, Fault> {
    portal.permit(actor, Action::SecondFactorChange).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    let present = passkeys::of_user(&mut writing, user).await?;
    if present.len() >= PASSKEYS_MAX {
        let detail = format!("you have {PASSKEYS_MAX} passkeys, the most that one person may have: remove some");
        return Err(Fault::new(Problem::Conflict, detail));
    }
    let challenge = ask(portal, &mut writing, REGISTER, Some(user)).await?;
    portal.commit(writing).await?;
    Ok(Offer {
        challenge,
        site: site(portal)?.name,
        user_handle: URL_SAFE_NO_PAD.encode(user.text()),
        user_name: row.name,
        display_name: row.display_name,
        present: present.into_iter().map(|row| row.credential_id).collect(),
    })
}

/// Registers a passkey.
///
/// # Errors
/// [`Problem::Spent`], [`Problem::WrongCredentials`], [`Problem::Conflict`].
pub async fn register(
    portal: &Portal,
    actor: &Actor,
    name: &str,
    client_data: &str,
    attestation: &str,
) -> Result<Registered, Fault> {
    portal.permit(actor, Action::SecondFactorChange).await?;
    let user = actor.oneself()?;
    let name = input::line("name", name, 1, 64)?;
    let (client_data, attestation) = (decoded(client_data)?, decoded(attestation)?);
    if answered(portal, REGISTER, &client_data).await?.user != Some(user) {
        return Err(spent());
    }
    let made = checks::registration(&site(portal)?, &client_data, &attestation).map_err(refused)?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    let is_first = !second_factor::is_set_up(&mut writing, &row).await?;
    let passkey = Passkey { id: portal.new_id(), user, name, created_at: portal.now(), last_used_at: None };
    let row_of_key = PasskeyRow {
        passkey: passkey.clone(),
        credential_id: URL_SAFE_NO_PAD.encode(&made.id),
        public_key: made.key,
        counter: made.counter,
    };
    passkeys::insert(&mut writing, &row_of_key).await.map_err(|error| match error {
        StoreError::Taken => Fault::new(Problem::Conflict, "this passkey is registered already"),
        other => other.into(),
    })?;
    let recovery_codes =
        if is_first { Some(second_factor::new_recovery_codes(portal, &mut writing, &row).await?) } else { None };
    let change = Change::of("passkey", passkey.id).to(&passkey);
    portal.record(&mut writing, actor, Action::SecondFactorChange, change).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(Registered { passkey, recovery_codes })
}

/// Removes a passkey of the person who asks.
///
/// # Errors
/// [`Problem::Conflict`] if they could not get in any more.
pub async fn remove(portal: &Portal, actor: &Actor, id: Id) -> Result<(), Fault> {
    portal.permit(actor, Action::SecondFactorRemove).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.ok_or_else(|| Fault::not_found("person"))?;
    if !passkeys::delete(&mut writing, user, id).await? {
        return Err(Fault::not_found("passkey"));
    }
    if row.password_hash.is_none() && !has_another_way(&mut writing, user).await? {
        let detail = "this is the last way in to your account: set a password, or link an identity first";
        return Err(Fault::new(Problem::Conflict, detail));
    }
    if !second_factor::is_set_up(&mut writing, &row).await? {
        recovery_codes::replace(&mut writing, user, &[]).await?;
    }
    portal.record(&mut writing, actor, Action::SecondFactorRemove, Change::of("passkey", id)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Asks for a passkey, whosever it is.
///
/// # Errors
/// [`Problem::TooMany`] from this address.
pub async fn question(portal: &Portal, actor: &Actor) -> Result<Question, Fault> {
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    let mut writing = portal.database.write().await?;
    let challenge = ask(portal, &mut writing, SHOW, None).await?;
    portal.commit(writing).await?;
    Ok(Question { challenge, site: site(portal)?.name })
}

/// Logs in whoever shows a passkey.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::Spent`], [`Problem::TooMany`].
pub async fn log_in(portal: &Portal, actor: &Actor, shown: &Shown<'_>, agent: &str) -> Result<LoggedIn, Fault> {
    let address = actor.address.clone().unwrap_or_default();
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(&address)).await?;
    let (mut writing, row) = match holder(portal, shown).await {
        Ok(held) => held,
        Err(fault) => {
            login::note_refused(portal, actor, Change::of_kind("session")).await?;
            return Err(fault);
        }
    };
    let logged_in = login::begin_session(portal, &mut writing, &row, &address, agent, actor.request.clone()).await?;
    portal.commit(writing).await?;
    Ok(logged_in)
}

/// Proves by a passkey who somebody is. Gives the session another secret.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::Spent`], [`Problem::NotLoggedIn`].
pub async fn prove(portal: &Portal, actor: &Actor, secret: &str, shown: &Shown<'_>) -> Result<String, Fault> {
    portal.permit(actor, Action::StepUp).await?;
    let user = actor.oneself()?;
    let (mut writing, row) = holder(portal, shown).await?;
    if row.id != user {
        return Err(Fault::new(Problem::WrongCredentials, "this is not a passkey of your account"));
    }
    let new = make(Kind::Session, &*portal.seams.randomness);
    let (old_hash, new_hash) = (hash(Kind::Session, secret), hash(Kind::Session, &new));
    let (old_hash, new_hash) = (old_hash.unwrap_or_default(), new_hash.unwrap_or_default());
    if !sessions::rotate(&mut writing, &old_hash, &new_hash, portal.now()).await? {
        return Err(Fault::new(Problem::NotLoggedIn, "the session has ended: log in again"));
    }
    portal.record(&mut writing, actor, Action::StepUp, Change::of("user", user)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(new)
}

/// Whose passkey is shown, if it is and the account is active; with the transaction in which it was
/// used.
async fn holder(portal: &Portal, shown: &Shown<'_>) -> Result<(Writing, UserRow), Fault> {
    let unknown = || Fault::new(Problem::WrongCredentials, "the passkey is unknown here, or its account not active");
    let (client_data, data) = (decoded(shown.client_data)?, decoded(shown.authenticator_data)?);
    let signature = decoded(shown.signature)?;
    answered(portal, SHOW, &client_data).await?;
    let mut writing = portal.database.write().await?;
    let row = passkeys::by_credential(&mut writing, shown.credential_id).await?.ok_or_else(unknown)?;
    let known = Known { key: &row.public_key, counter: row.counter };
    let assertion = Assertion { client_data: &client_data, authenticator_data: &data, signature: &signature };
    let counter = checks::assertion(&site(portal)?, &known, &assertion).map_err(refused)?;
    if !passkeys::used(&mut writing, row.passkey.id, row.counter, counter, portal.now()).await? {
        return Err(refused(Refused::Copied));
    }
    let user = users::by_id(&mut writing, row.passkey.user).await?;
    let user = user.filter(|user| user.state == AccountState::Active).ok_or_else(unknown)?;
    Ok((writing, user))
}

/// Makes a challenge, and remembers its hash.
async fn ask(portal: &Portal, writing: &mut Writing, kind: &str, user: Option<Id>) -> Result<String, Fault> {
    let secret = make(Kind::Ceremony, &*portal.seams.randomness);
    let secret_hash = hash(Kind::Ceremony, &secret).unwrap_or_default();
    let ceremony = Ceremony { secret_hash: &secret_hash, kind, user, expires_at: portal.now() + GOOD_FOR };
    ceremonies::insert(writing, &ceremony, &Asked { user }).await?;
    Ok(URL_SAFE_NO_PAD.encode(secret))
}

/// What was remembered of the challenge that a browser answers. It is spent, whatever comes of it.
async fn answered(portal: &Portal, kind: &str, client_data: &[u8]) -> Result<Asked, Fault> {
    let challenge = ClientData::read(client_data).and_then(|client| client.challenge());
    let secret = challenge.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(spent)?;
    let secret_hash = hash(Kind::Ceremony, &secret).ok_or_else(spent)?;
    let mut writing = portal.database.write().await?;
    let asked = ceremonies::find(&mut writing, kind, &secret_hash, portal.now()).await?.ok_or_else(spent)?;
    if !ceremonies::spend(&mut writing, &secret_hash).await? {
        return Err(spent());
    }
    writing.commit().await?;
    Ok(asked)
}

async fn has_another_way(writing: &mut Writing, user: Id) -> Result<bool, Fault> {
    let none = Id::new(jiff::Timestamp::UNIX_EPOCH, &[0; 10]);
    Ok(passkeys::count_of(writing, user).await? > 0
        || culvert_portal_store::identities::count_usable(writing, user, none).await? > 0)
}

/// Where the portal's passkeys are used: on the pages of its public address.
fn site(portal: &Portal) -> Result<Site, Fault> {
    let url = Url::parse(&portal.options.public_url).map_err(Fault::internal)?;
    let name = url.domain().ok_or_else(|| {
        let detail = "passkeys need a name, not an address: start the portal with --public-url https://HOST";
        Fault::new(Problem::Conflict, detail)
    })?;
    Ok(Site { name: name.to_owned(), origin: url.origin().ascii_serialization() })
}

fn decoded(text: &str) -> Result<Vec<u8>, Fault> {
    let bad = |_| Fault::new(Problem::BadRequest, "what the browser sent of the passkey is not base64url");
    URL_SAFE_NO_PAD.decode(text).map_err(bad)
}

fn refused(refused: Refused) -> Fault {
    Fault::new(Problem::WrongCredentials, refused.to_string())
}

fn spent() -> Fault {
    Fault::new(Problem::Spent, "the passkey took too long, or was asked for elsewhere: begin again")
}
