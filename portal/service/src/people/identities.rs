//! Identities at providers, linked to accounts.
//!
//! An identity is the issuer and what it calls the person (`sub`), and nothing else: an equal name
//! or address of mail links nothing, whoever has verified it, since some other day it may be
//! somebody else's. One identity belongs to one account. Linking is for who is logged in to the
//! account and has proved it a short while ago.

use culvert_portal_model::id::Id;
use culvert_portal_model::people::AccountState;
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::{AccountPolicy, Identity, Provider};
use culvert_portal_model::role::Role;
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::users::UserRow;
use culvert_portal_store::{StoreError, Writing, identities, passkeys, users};
use serde_json::Value;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::oidc::groups::Groups;
use crate::oidc::id_token::Claims;
use crate::people::accounts;
use crate::people::accounts::NewUser;
use crate::people::provider_roles;
use crate::portal::Portal;
use crate::secret::hex;
use crate::trail::Change;

/// Identities that one person may link.
const IDENTITIES_MAX: usize = 20;
/// The longest name that a provider can suggest: a number may follow.
const NAME_CHARACTERS_MAX: usize = 56;

/// Somebody whom a provider has named.
#[derive(Debug)]
pub(crate) struct Named<'a> {
    /// The provider.
    pub provider: &'a Provider,
    /// What it says of them.
    pub claims: &'a Claims,
    /// Their groups.
    pub groups: &'a Groups,
}

/// The identities of the person who asks.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor) -> Result<Vec<Identity>, Fault> {
    portal.permit(actor, Action::SelfShow).await?;
    Ok(identities::of_user(&mut portal.database.read().await?, actor.oneself()?).await?)
}

/// Unlinks an identity of the person who asks, with the roles that it brought.
///
/// # Errors
/// [`Problem::Conflict`] if they could not get in any more.
pub async fn unlink(portal: &Portal, actor: &Actor, id: Id) -> Result<(), Fault> {
    portal.permit(actor, Action::IdentityLink).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let linked = identities::of_user(&mut writing, user).await?;
    let not_found = || Fault::not_found("linked identity");
    let identity = linked.iter().find(|identity| identity.id == id).ok_or_else(not_found)?;
    let row = users::by_id(&mut writing, user).await?.ok_or_else(not_found)?;
    let others = identities::count_usable(&mut writing, user, id).await?;
    if row.password_hash.is_none() && others == 0 && passkeys::count_of(&mut writing, user).await? == 0 {
        let detail = "this is the last way in to your account: set a password, or link another identity first";
        return Err(Fault::new(Problem::Conflict, detail));
    }
    if !identities::delete(&mut writing, id).await? {
        return Err(not_found());
    }
    if !linked.iter().any(|other| other.id != id && other.provider == identity.provider) {
        provider_roles::set(portal, &mut writing, identity.provider, user, &[], actor.session()).await?;
    }
    let change = Change::of("user", user).from(identity);
    portal.record(&mut writing, actor, Action::IdentityLink, change).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Links an identity to the account of the person who asks.
pub(crate) async fn link(portal: &Portal, actor: &Actor, named: &Named<'_>) -> Result<(), Fault> {
    portal.permit(actor, Action::IdentityLink).await?;
    let user = actor.oneself()?;
    let mut writing = portal.database.write().await?;
    let row = users::by_id(&mut writing, user).await?.filter(|row| row.state == AccountState::Active);
    row.ok_or_else(|| Fault::not_found("person"))?;
    match identities::find(&mut writing, &named.provider.issuer, &named.claims.subject).await? {
        Some(identity) if identity.user == user => {
            identities::used(&mut writing, identity.id, email(named.claims).as_deref(), portal.now()).await?;
        }
        Some(_) => {
            let detail = "this identity is linked to another account: log in there and unlink it first";
            return Err(Fault::new(Problem::Conflict, detail));
        }
        None => {
            if identities::of_user(&mut writing, user).await?.len() >= IDENTITIES_MAX {
                let detail = format!("you have linked {IDENTITIES_MAX} identities, the most that one person may");
                return Err(Fault::new(Problem::Conflict, detail));
            }
            insert(portal, &mut writing, actor, named, user).await?;
        }
    }
    provider_roles::apply(portal, &mut writing, named.provider, user, named.groups, actor.session()).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// The account of whoever a provider has named: the one that is linked, or a new one where the
/// provider's policy makes one.
pub(crate) async fn account_of(
    portal: &Portal,
    writing: &mut Writing,
    actor: &Actor,
    named: &Named<'_>,
) -> Result<UserRow, Fault> {
    let provider = named.provider;
    let gone = || Fault::internal("an identity is linked to an account that is not there");
    if let Some(identity) = identities::find(writing, &provider.issuer, &named.claims.subject).await? {
        identities::used(writing, identity.id, email(named.claims).as_deref(), portal.now()).await?;
        return users::by_id(writing, identity.user).await?.ok_or_else(gone);
    }
    let state = match provider.accounts {
        AccountPolicy::Approval => AccountState::Pending,
        AccountPolicy::Create => AccountState::Active,
        AccountPolicy::LinkedOnly => {
            let detail = format!(
                "no account is linked to this identity of {}: log in to your account, then link it in your settings",
                provider.title
            );
            return Err(Fault::new(Problem::NotLinked, detail));
        }
    };
    let new = newcomer(portal, writing, named.claims).await?;
    let row = accounts::new_row(portal, &new, state).await?;
    let nobody = Actor::nobody(actor.address.clone(), actor.request.clone());
    let id = row.id;
    accounts::insert(portal, writing, &nobody, Action::UserCreate, row, &[Role::User]).await?;
    insert(portal, writing, &nobody, named, id).await?;
    users::by_id(writing, id).await?.ok_or_else(gone)
}

async fn insert(
    portal: &Portal,
    writing: &mut Writing,
    actor: &Actor,
    named: &Named<'_>,
    user: Id,
) -> Result<(), Fault> {
    let now = portal.now();
    let identity = Identity {
        id: portal.new_id(),
        user,
        provider: named.provider.id,
        issuer: named.provider.issuer.clone(),
        subject: named.claims.subject.clone(),
        email: email(named.claims),
        linked_at: now,
        last_used_at: now,
    };
    identities::insert(writing, &identity).await.map_err(|error| match error {
        StoreError::Taken => Fault::new(Problem::Conflict, "this identity was linked just now: log in with it again"),
        other => other.into(),
    })?;
    portal.record(writing, actor, Action::IdentityLink, Change::of("user", user).to(&identity)).await
}

/// The account that somebody gets who comes for the first time. Only an address that the provider
/// has verified is the account's: links for a new password go there.
async fn newcomer(portal: &Portal, writing: &mut Writing, claims: &Claims) -> Result<NewUser, Fault> {
    let is_verified = claims.all.get("email_verified") == Some(&Value::Bool(true));
    let display_name = text(claims, "name").and_then(|name| input::line("name", &name, 1, 128).ok());
    Ok(NewUser {
        name: free_name(portal, writing, claims).await?,
        display_name: display_name.unwrap_or_default(),
        email: email(claims).filter(|_| is_verified),
        ..NewUser::default()
    })
}

/// A name that nobody has, made of what the provider tells.
async fn free_name(portal: &Portal, writing: &mut Writing, claims: &Claims) -> Result<String, Fault> {
    let local = |address: String| address.split('@').next().unwrap_or_default().to_owned();
    let told = [text(claims, "preferred_username").map(local), text(claims, "email").map(local)];
    let name = told.into_iter().flatten().find_map(|text| as_name(&text)).unwrap_or_else(|| "user".to_owned());
    for number in 1..10 {
        let name = if number == 1 { name.clone() } else { format!("{name}-{number}") };
        if users::by_name(writing, &name).await?.is_none() {
            return Ok(name);
        }
    }
    Ok(format!("{name}-{}", &hex(&bytes::<3>(&*portal.seams.randomness))))
}

fn as_name(text: &str) -> Option<String> {
    let permitted = |character: char| character.is_ascii_alphanumeric() || "._-".contains(character);
    let name: String = text.chars().filter(|character| permitted(*character)).take(NAME_CHARACTERS_MAX).collect();
    let name = name.trim_start_matches(['.', '_', '-']);
    input::login_name("name", name).ok()
}

fn email(claims: &Claims) -> Option<String> {
    text(claims, "email").and_then(|address| input::email("email", &address).ok())
}

fn text(claims: &Claims, name: &str) -> Option<String> {
    claims.all.get(name).and_then(Value::as_str).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_made_of_what_is_told() {
        assert_eq!(as_name("Ada.Lovelace").as_deref(), Some("ada.lovelace"));
        assert_eq!(as_name("..ada\u{202E}\0 l").as_deref(), Some("adal"));
        assert_eq!(as_name("žížala").as_deref(), Some("ala"));
        assert_eq!(as_name("日本"), None);
        assert_eq!(as_name("---"), None);
        assert_eq!(as_name(&"x".repeat(500)).map(|name| name.len()), Some(NAME_CHARACTERS_MAX));
    }
}
