//! Logging in at an identity provider (OpenID Connect, code flow with PKCE): away, and back.
//!
//! ```text
//! begin ──▶ the provider's page          state, nonce, verifier and purpose are remembered under
//!                                        the state, for the browser that has a cookie
//! arrive ◀── code and state              the remembered is spent, whatever comes of it
//! ```
//!
//! The purpose is one of three: to log in, to link an identity to the account that one is logged in
//! to, or to prove again who one is. A second factor that an account has here is asked for here,
//! too: `finish` takes its code.

use culvert_portal_model::audit::Who;
use culvert_portal_model::id::Id;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::ceremonies::{self, Ceremony};
use culvert_portal_store::providers::{self, ProviderRow};
use culvert_portal_store::{identities, sessions, users};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::limits::{CODES_OF_ACCOUNT, LOGIN_OF_ADDRESS, one_client};
use crate::oidc::exchange::{self, Client};
use crate::oidc::groups::Groups;
use crate::oidc::id_token::{Claims, Expected};
use crate::people::identities as linked;
use crate::people::identities::Named;
use crate::people::login::{self, LoggedIn};
use crate::people::providers as known;
use crate::people::{provider_roles, second_factor};
use crate::portal::Portal;
use crate::secret::{Kind, hash, make};
use crate::trail::Change;

const KIND: &str = "provider login";
const SECOND_FACTOR: &str = "second factor";
/// How long somebody may take at the provider.
const GOOD_FOR: SignedDuration = SignedDuration::from_mins(10);

/// What somebody goes to a provider for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Purpose {
    /// To log in.
    LogIn,
    /// To link the identity to the account that they are logged in to.
    Link,
    /// To prove again who they are.
    Prove,
}

/// Where a browser goes, and what it must have when it comes back.
#[derive(Debug, Clone)]
pub struct Departure {
    /// The provider's page.
    pub url: String,
    /// What the browser's cookie holds.
    pub browser: String,
}

/// What a browser brings back.
#[derive(Debug, Clone, Default)]
pub struct Return<'a> {
    /// The state that it was sent with.
    pub state: &'a str,
    /// The code, if the provider agreed.
    pub code: Option<&'a str>,
    /// The error, if it did not.
    pub error: Option<&'a str>,
    /// What the provider calls itself, if it says so (RFC 9207).
    pub issuer: Option<&'a str>,
    /// What the browser's cookie holds.
    pub browser: Option<&'a str>,
    /// The secret of the session that it has, if any.
    pub session: Option<&'a str>,
    /// What the browser calls itself.
    pub agent: &'a str,
}

/// What came of it, and where the browser goes on.
#[derive(Debug)]
pub struct Arrival {
    /// A path of the portal.
    pub next: String,
    /// What came of it.
    pub result: Arrived,
}

/// What came of it.
#[derive(Debug)]
pub enum Arrived {
    /// Somebody has logged in.
    LoggedIn(Box<LoggedIn>),
    /// They have to give a code, too: the browser's cookie holds this now.
    SecondFactorNeeded(String),
    /// The identity is linked.
    Linked,
    /// It is proved: the session has this secret now.
    Proved(String),
}

/// What is remembered while somebody is away.
#[derive(Debug, Serialize, Deserialize)]
struct Begun {
    provider: Id,
    purpose: Purpose,
    user: Option<Id>,
    browser: String,
    nonce: String,
    verifier: String,
    next: String,
    at: i64,
}

/// What is remembered while somebody looks for a code.
#[derive(Debug, Serialize, Deserialize)]
struct Waiting {
    user: Id,
}

/// Sends a browser to a provider.
///
/// # Errors
/// [`Problem::NotFound`] without such a provider, [`Problem::BadGateway`] if it does not answer.
pub async fn begin(
    portal: &Portal,
    actor: &Actor,
    name: &str,
    purpose: Purpose,
    next: &str,
    browser: Option<&str>,
) -> Result<Departure, Fault> {
    let user = match purpose {
        Purpose::LogIn => None,
        Purpose::Link => portal.permit(actor, Action::IdentityLink).await.and_then(|_| actor.oneself().map(Some))?,
        Purpose::Prove => portal.permit(actor, Action::StepUp).await.and_then(|_| actor.oneself().map(Some))?,
    };
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    let next = input::path("next", next)?;
    let row = providers::by_name(&mut portal.database.read().await?, name).await?;
    let row = row.filter(|row| row.provider.enabled).ok_or_else(|| Fault::not_found("identity provider"))?;
    let metadata = exchange::metadata(portal, &row.provider).await?;
    // A browser that is sent away twice at once may come back twice.
    let kept = browser.filter(|secret| hash(Kind::Ceremony, secret).is_some()).map(str::to_owned);
    let browser = kept.unwrap_or_else(|| make(Kind::Ceremony, &*portal.seams.randomness));
    let state = make(Kind::Ceremony, &*portal.seams.randomness);
    let random = || URL_SAFE_NO_PAD.encode(bytes::<32>(&*portal.seams.randomness));
    let begun = Begun {
        provider: row.provider.id,
        purpose,
        user,
        browser: hash(Kind::Ceremony, &browser).unwrap_or_default(),
        nonce: random(),
        verifier: random(),
        next,
        at: portal.now().as_second(),
    };
    let secret_hash = hash(Kind::Ceremony, &state).unwrap_or_default();
    let ceremony = Ceremony { secret_hash: &secret_hash, kind: KIND, user, expires_at: portal.now() + GOOD_FOR };
    let mut writing = portal.database.write().await?;
    ceremonies::insert(&mut writing, &ceremony, &begun).await?;
    writing.commit().await?;
    let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, begun.verifier.as_bytes()));
    let mut parameters =
        vec![("state", state.as_str()), ("nonce", begun.nonce.as_str()), ("code_challenge", challenge.as_str())];
    if purpose == Purpose::Prove {
        parameters.extend([("prompt", "login"), ("max_age", "0")]);
    }
    let url = exchange::authorization_url(&client(portal, &row)?, &metadata, &parameters);
    Ok(Departure { url: url.into(), browser })
}

/// Receives a browser that comes back.
///
/// # Errors
/// [`Problem::Spent`] if it was not sent away, or too long ago; [`Problem::ProviderRefused`],
/// [`Problem::BadGateway`], [`Problem::NotLinked`], [`Problem::AccountInactive`],
/// [`Problem::Conflict`].
pub async fn arrive(portal: &Portal, actor: &Actor, back: &Return<'_>) -> Result<Arrival, Fault> {
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(actor.address.as_deref().unwrap_or_default())).await?;
    let begun = remembered(portal, back).await?;
    let row = providers::by_id(&mut portal.database.read().await?, begun.provider).await?;
    let row = row.filter(|row| row.provider.enabled).ok_or_else(|| Fault::not_found("identity provider"))?;
    let result = match identify(portal, &row, &begun, back).await {
        Ok((claims, groups)) => {
            let named = Named { provider: &row.provider, claims: &claims, groups: &groups };
            match begun.purpose {
                Purpose::LogIn => log_in(portal, actor, back, &named).await,
                Purpose::Link => link(portal, actor, &begun, &named).await,
                Purpose::Prove => prove(portal, actor, &begun, back, &named).await,
            }
        }
        Err(fault) => Err(fault),
    };
    if result.is_err() {
        login::note_refused(portal, actor, Change::of("provider", row.provider.id)).await?;
    }
    Ok(Arrival { next: begun.next, result: result? })
}

/// Logs in whoever came back from a provider and has to give a code, too.
///
/// # Errors
/// [`Problem::WrongCredentials`], [`Problem::Spent`], [`Problem::TooMany`].
pub async fn finish(
    portal: &Portal,
    actor: &Actor,
    browser: Option<&str>,
    code: &str,
    agent: &str,
) -> Result<LoggedIn, Fault> {
    let spent = || Fault::new(Problem::Spent, "log in with your identity provider again");
    let address = actor.address.clone().unwrap_or_default();
    portal.take_now(LOGIN_OF_ADDRESS, &one_client(&address)).await?;
    let secret_hash = browser.and_then(|secret| hash(Kind::Ceremony, secret)).ok_or_else(spent)?;
    let mut writing = portal.database.write().await?;
    let waiting: Option<Waiting> = ceremonies::find(&mut writing, SECOND_FACTOR, &secret_hash, portal.now()).await?;
    let user = waiting.ok_or_else(spent)?.user;
    drop(writing);
    portal.take_now(CODES_OF_ACCOUNT, &user.text()).await?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.filter(|row| row.state == AccountState::Active);
    let row = row.ok_or_else(spent)?;
    if !second_factor::spend_any_code(portal, &mut writing, &row, code).await? {
        drop(writing);
        login::note_refused(portal, actor, Change::of("session", user)).await?;
        return Err(Fault::new(Problem::WrongCredentials, "the code is wrong"));
    }
    if !ceremonies::spend(&mut writing, &secret_hash).await? {
        return Err(spent());
    }
    portal.forget_limit(&mut writing, CODES_OF_ACCOUNT, &user.text()).await?;
    let logged_in = login::begin_session(portal, &mut writing, &row, &address, agent, actor.request.clone()).await?;
    portal.commit(writing).await?;
    Ok(logged_in)
}

/// What was remembered of a browser when it was sent away. It is spent with that.
async fn remembered(portal: &Portal, back: &Return<'_>) -> Result<Begun, Fault> {
    let spent = || Fault::new(Problem::Spent, "this login was begun elsewhere, or too long ago: begin again");
    let state = hash(Kind::Ceremony, back.state).ok_or_else(spent)?;
    let browser = back.browser.and_then(|secret| hash(Kind::Ceremony, secret)).ok_or_else(spent)?;
    let mut writing = portal.database.write().await?;
    let begun: Option<Begun> = ceremonies::find(&mut writing, KIND, &state, portal.now()).await?;
    // Another browser that has the state does not spend it.
    let begun = begun.filter(|begun| begun.browser == browser).ok_or_else(spent)?;
    if !ceremonies::spend(&mut writing, &state).await? {
        return Err(spent());
    }
    writing.commit().await?;
    Ok(begun)
}

/// Who somebody is and in which groups, as their provider says it.
async fn identify(
    portal: &Portal,
    row: &ProviderRow,
    begun: &Begun,
    back: &Return<'_>,
) -> Result<(Claims, Groups), Fault> {
    let provider = &row.provider;
    if let Some(error) = back.error {
        let word: String = error.chars().filter(char::is_ascii_graphic).take(64).collect();
        let detail = format!("{} has not confirmed who you are ({word}): try again", provider.title);
        return Err(Fault::new(Problem::ProviderRefused, detail));
    }
    let metadata = exchange::metadata(portal, provider).await?;
    let is_named = back.issuer.map(|issuer| issuer == provider.issuer);
    if !is_named.unwrap_or(!metadata.authorization_response_iss_parameter_supported) {
        return Err(exchange::failed(provider, "the browser came back from another issuer, or from none"));
    }
    let code = back.code.ok_or_else(|| exchange::failed(provider, "the browser came back without a code"))?;
    let tokens = exchange::redeem(portal, &client(portal, row)?, &metadata, code, &begun.verifier).await?;
    let expected = Expected {
        issuer: &provider.issuer,
        client_id: &provider.client_id,
        nonce: &begun.nonce,
        now: portal.now().as_second(),
        proved_after: (begun.purpose == Purpose::Prove).then_some(begun.at),
    };
    let mut claims = exchange::identify(portal, provider, &metadata, &tokens, &expected).await?;
    let groups = |claims: &Claims| {
        provider.groups_claim.as_ref().map_or(Groups::Absent, |claim| Groups::read(&claims.all, claim))
    };
    let wants_more = (provider.groups_claim.is_some() && groups(&claims) == Groups::Absent)
        || !["preferred_username", "email"].iter().any(|claim| claims.all.contains_key(*claim));
    if wants_more && begun.purpose != Purpose::Prove {
        exchange::add_user_info(portal, provider, &metadata, &tokens, &mut claims).await?;
    }
    let groups = groups(&claims);
    Ok((claims, groups))
}

async fn log_in(portal: &Portal, actor: &Actor, back: &Return<'_>, named: &Named<'_>) -> Result<Arrived, Fault> {
    let mut writing = portal.database.write().await?;
    let row = linked::account_of(portal, &mut writing, actor, named).await?;
    if row.state == AccountState::Deactivated {
        return Err(login::inactive(row.state));
    }
    provider_roles::apply(portal, &mut writing, named.provider, row.id, named.groups, None).await?;
    if row.state == AccountState::Pending {
        // The account that was just made stays.
        portal.commit(writing).await?;
        return Err(login::inactive(row.state));
    }
    let result = if second_factor::is_set_up(&mut writing, &row).await? {
        let secret = make(Kind::Ceremony, &*portal.seams.randomness);
        let secret_hash = hash(Kind::Ceremony, &secret).unwrap_or_default();
        let ceremony = Ceremony {
            secret_hash: &secret_hash,
            kind: SECOND_FACTOR,
            user: Some(row.id),
            expires_at: portal.now() + GOOD_FOR,
        };
        ceremonies::insert(&mut writing, &ceremony, &Waiting { user: row.id }).await?;
        Arrived::SecondFactorNeeded(secret)
    } else {
        let address = actor.address.clone().unwrap_or_default();
        let logged_in =
            login::begin_session(portal, &mut writing, &row, &address, back.agent, actor.request.clone()).await?;
        Arrived::LoggedIn(Box::new(logged_in))
    };
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(result)
}

async fn link(portal: &Portal, actor: &Actor, begun: &Begun, named: &Named<'_>) -> Result<Arrived, Fault> {
    is_same(actor, begun)?;
    linked::link(portal, actor, named).await?;
    Ok(Arrived::Linked)
}

/// Proves again who somebody is, as their password would: a second factor is asked for instead
/// where there is one.
async fn prove(
    portal: &Portal,
    actor: &Actor,
    begun: &Begun,
    back: &Return<'_>,
    named: &Named<'_>,
) -> Result<Arrived, Fault> {
    let user = is_same(actor, begun)?;
    let other = || Fault::new(Problem::WrongCredentials, "this is not an identity of your account");
    let mut writing = portal.database.write().await?;
    let identity = identities::find(&mut writing, &named.provider.issuer, &named.claims.subject).await?;
    identity.filter(|identity| identity.user == user).ok_or_else(other)?;
    let row = users::by_id(&mut writing, user).await?.filter(|row| row.state == AccountState::Active);
    if second_factor::is_set_up(&mut writing, &row.ok_or_else(other)?).await? {
        return Err(Fault::new(Problem::SecondFactorNeeded, "prove who you are by your second factor"));
    }
    let ended = || Fault::new(Problem::NotLoggedIn, "the session has ended: log in again");
    let old = back.session.and_then(|secret| hash(Kind::Session, secret)).ok_or_else(ended)?;
    let secret = make(Kind::Session, &*portal.seams.randomness);
    let new = hash(Kind::Session, &secret).unwrap_or_default();
    if !sessions::rotate(&mut writing, &old, &new, portal.now()).await? {
        return Err(ended());
    }
    portal.record(&mut writing, actor, Action::StepUp, Change::of("user", user)).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(Arrived::Proved(secret))
}

/// Whoever comes back must be logged in as whoever was sent away.
fn is_same(actor: &Actor, begun: &Begun) -> Result<Id, Fault> {
    let same = match actor.who {
        Who::Session { user, .. } => begun.user.filter(|sent| *sent == user),
        _ => None,
    };
    same.ok_or_else(|| Fault::new(Problem::NotLoggedIn, "you are not logged in as before: begin again"))
}

fn client<'a>(portal: &Portal, row: &'a ProviderRow) -> Result<Client<'a>, Fault> {
    let secret = match &row.client_secret {
        None => None,
        Some(sealed) => {
            let opened = portal.sealer.open(known::KIND, &row.provider.id.text(), sealed).map_err(|error| {
                Fault::internal(format!("the secret of {} cannot be opened: {error}", row.provider.name))
            })?;
            Some(Zeroizing::new(String::from_utf8_lossy(&opened).into_owned()))
        }
    };
    Ok(Client { provider: &row.provider, secret, redirect_uri: exchange::redirect_uri(portal) })
}
