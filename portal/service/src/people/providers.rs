//! Identity providers: which ones people log in with, set up by administrators.

use std::collections::BTreeMap;

use culvert_portal_model::id::Id;
use culvert_portal_model::page::{Page, PageRequest, ROWS_MAX};
use culvert_portal_model::permission::Action;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::{AccountPolicy, LoginProvider, Provider, ProviderTest};
use culvert_portal_model::role::Role;
use culvert_portal_store::providers::{self, ProviderRow};
use culvert_portal_store::{StoreError, identities, sessions, users};
use url::Url;

use crate::actor::Actor;
use crate::fault::Fault;
use crate::input;
use crate::oidc::{discovery, exchange};
use crate::people::accounts;
use crate::portal::Portal;
use crate::trail::Change;

/// The kind under which secrets of providers are sealed.
pub(crate) const KIND: &str = "identity provider";
/// Words that are paths of their own below `/login/oidc/`.
const RESERVED: [&str; 1] = ["callback"];
/// Groups that give roles, of one provider.
const GROUPS_MAX: usize = 200;
/// Scopes that the portal asks one provider for.
const SCOPES_MAX: usize = 20;

/// What a provider is to be.
#[derive(Debug, Clone)]
pub struct ProviderWish {
    /// Its name in addresses.
    pub name: String,
    /// What people are shown.
    pub title: String,
    /// What it calls itself.
    pub issuer: String,
    /// What it calls this portal.
    pub client_id: String,
    /// The portal's secret; `None` leaves the one that is there, an empty one removes it.
    pub client_secret: Option<String>,
    /// What the portal asks it for.
    pub scopes: Vec<String>,
    /// The claim that has a person's groups.
    pub groups_claim: Option<String>,
    /// The roles that each group gives.
    pub roles_by_group: BTreeMap<String, Vec<Role>>,
    /// Who gets in.
    pub accounts: AccountPolicy,
    /// Whether it may be at an address that is not public, and without TLS.
    pub inside: bool,
    /// Whether people log in with it.
    pub enabled: bool,
}

/// What whoever has not logged in may know: with which providers they can.
///
/// # Errors
/// [`Fault`].
pub async fn for_login(portal: &Portal) -> Result<Vec<LoginProvider>, Fault> {
    let page = PageRequest { after: None, rows: ROWS_MAX };
    let rows = providers::list(&mut portal.database.read().await?, &page).await?;
    let base = format!("{}/api/v1/login/oidc", portal.options.public_url);
    let shown = |provider: Provider| LoginProvider {
        url: format!("{base}/{}", provider.name),
        name: provider.name,
        title: provider.title,
    };
    Ok(rows.into_iter().filter(|provider| provider.enabled).map(shown).collect())
}

/// A page of providers, in the order of their names.
///
/// # Errors
/// [`Fault`].
pub async fn list(portal: &Portal, actor: &Actor, page: &PageRequest) -> Result<Page<Provider>, Fault> {
    portal.permit(actor, Action::ProviderList).await?;
    let rows = providers::list(&mut portal.database.read().await?, page).await?;
    Ok(Page::of(rows, page.rows, |provider| provider.name.clone()))
}

/// One provider.
///
/// # Errors
/// [`Fault`].
pub async fn show(portal: &Portal, actor: &Actor, id: Id) -> Result<Provider, Fault> {
    portal.permit(actor, Action::ProviderList).await?;
    let row = providers::by_id(&mut portal.database.read().await?, id).await?;
    Ok(row.ok_or_else(|| Fault::not_found("identity provider"))?.provider)
}

/// Adds a provider.
///
/// # Errors
/// [`Fault`].
pub async fn create(portal: &Portal, actor: &Actor, wish: &ProviderWish) -> Result<Provider, Fault> {
    portal.permit(actor, Action::ProviderEdit).await?;
    let row = row_of(portal, portal.new_id(), wish, None)?;
    let mut writing = portal.database.write().await?;
    providers::insert(&mut writing, &row).await.map_err(taken)?;
    let change = Change::of("provider", row.provider.id).to(&row.provider);
    portal.record(&mut writing, actor, Action::ProviderEdit, change).await?;
    portal.commit(writing).await?;
    Ok(row.provider)
}

/// Replaces a provider of a version.
///
/// # Errors
/// [`Problem::Conflict`] if it is to have another issuer while people have identities there.
pub async fn edit(
    portal: &Portal,
    actor: &Actor,
    id: Id,
    wish: &ProviderWish,
    version: i64,
) -> Result<Provider, Fault> {
    portal.permit(actor, Action::ProviderEdit).await?;
    let mut writing = portal.database.write().await?;
    let before = providers::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("identity provider"))?;
    let mut after = row_of(portal, id, wish, before.client_secret.clone())?;
    let moves = after.provider.issuer != before.provider.issuer;
    if moves && identities::count_of_provider(&mut writing, id).await? > 0 {
        let detail = "people have identities at this issuer: add the other one as a provider of its own";
        return Err(Fault { field: Some("issuer"), ..Fault::new(Problem::Conflict, detail) });
    }
    // The secret is the former issuer's: the other one must not be sent it.
    if moves && before.client_secret.is_some() && wish.client_secret.is_none() {
        let detail = "another issuer needs a secret of its own: give it, or an empty one";
        return Err(Fault::of_field("client_secret", detail));
    }
    if !providers::replace(&mut writing, &after, version).await.map_err(taken)? {
        return Err(Fault::changed("identity provider"));
    }
    after.provider.version = version + 1;
    let change = Change::of("provider", id).from(&before.provider).to(&after.provider);
    portal.record(&mut writing, actor, Action::ProviderEdit, change).await?;
    portal.commit(writing).await?;
    Ok(after.provider)
}

/// Deletes a provider of a version, with all identities there and all roles that it gave. Whoever
/// had such a role logs in again.
///
/// # Errors
/// [`Problem::Conflict`] if nobody would administer the portal any more.
pub async fn delete(portal: &Portal, actor: &Actor, id: Id, version: i64) -> Result<(), Fault> {
    portal.permit(actor, Action::ProviderEdit).await?;
    let mut writing = portal.database.write().await?;
    let admins = accounts::hold_admins(&mut writing).await?;
    let before = providers::by_id(&mut writing, id).await?.ok_or_else(|| Fault::not_found("identity provider"))?;
    let unlinked = identities::delete_of_provider(&mut writing, id).await?;
    for user in users::with_roles_of(&mut writing, &id.text()).await? {
        users::set_roles(&mut writing, user, &id.text(), &[]).await?;
        users::count_change(&mut writing, user).await?;
        sessions::end_of(&mut writing, user, None, portal.now()).await?;
    }
    admins.keep_one(&mut writing).await?;
    if !providers::delete(&mut writing, id, version).await? {
        return Err(Fault::changed("identity provider"));
    }
    let change = Change::of("provider", id).from(&before.provider).to(&format!("{unlinked} identities unlinked"));
    portal.record(&mut writing, actor, Action::ProviderEdit, change).await?;
    portal.commit(writing).await?;
    portal.credentials.forget();
    Ok(())
}

/// Asks a provider about itself, as a login would, whether or not it is switched on; says what it
/// found.
///
/// # Errors
/// [`Fault`] if there is no such provider; what is wrong with one is in the answer.
pub async fn test(portal: &Portal, actor: &Actor, id: Id) -> Result<ProviderTest, Fault> {
    portal.permit(actor, Action::ProviderEdit).await?;
    let row = providers::by_id(&mut portal.database.read().await?, id).await?;
    let provider = row.ok_or_else(|| Fault::not_found("identity provider"))?.provider;
    let mut told = ProviderTest {
        works: false,
        fault: None,
        asked: discovery::address(&provider),
        redirect_uri: exchange::redirect_uri(portal),
        authorization_endpoint: None,
        token_endpoint: None,
        userinfo_endpoint: None,
        keys: 0,
    };
    match find_out(portal, &provider, &mut told).await {
        Ok(()) => told.works = true,
        // Whoever sets providers up hears what others may only read in the log.
        Err(fault) => told.fault = Some(fault.log.unwrap_or(fault.detail)),
    }
    Ok(told)
}

async fn find_out(portal: &Portal, provider: &Provider, told: &mut ProviderTest) -> Result<(), Fault> {
    let metadata = exchange::read_metadata(portal, provider).await?;
    told.authorization_endpoint = Some(metadata.authorization_endpoint.to_string());
    told.token_endpoint = Some(metadata.token_endpoint.to_string());
    told.userinfo_endpoint = metadata.userinfo_endpoint.as_ref().map(ToString::to_string);
    told.keys = exchange::read_keys(portal, provider, &metadata).await?.count();
    if told.keys == 0 {
        return Err(exchange::failed(provider, "it publishes no key that this portal can check a signature with"));
    }
    Ok(())
}

fn row_of(portal: &Portal, id: Id, wish: &ProviderWish, client_secret: Option<Vec<u8>>) -> Result<ProviderRow, Fault> {
    let client_secret = match wish.client_secret.as_deref() {
        None => client_secret,
        Some("") => None,
        Some(secret) => {
            let secret = input::line("client_secret", secret, 1, 1_000)?;
            Some(portal.sealer.seal(KIND, &id.text(), secret.as_bytes(), &*portal.seams.randomness))
        }
    };
    let provider = Provider {
        id,
        name: name(&wish.name)?,
        title: input::line("title", &wish.title, 1, 64)?,
        issuer: issuer(&wish.issuer, wish.inside)?,
        client_id: input::line("client_id", &wish.client_id, 1, 500)?,
        has_client_secret: client_secret.is_some(),
        scopes: scopes(&wish.scopes)?,
        groups_claim: wish
            .groups_claim
            .as_deref()
            .map(|claim| input::line("groups_claim", claim, 1, 200))
            .transpose()?,
        roles_by_group: roles_by_group(&wish.roles_by_group)?,
        accounts: wish.accounts,
        inside: wish.inside,
        enabled: wish.enabled,
        version: 1,
    };
    Ok(ProviderRow { provider, client_secret })
}

fn name(text: &str) -> Result<String, Fault> {
    let name = input::login_name("name", text)?;
    if RESERVED.contains(&name.as_str()) {
        return Err(Fault::of_field("name", format!("'{name}' is the name of a path of the portal: choose another")));
    }
    Ok(name)
}

/// An issuer is compared letter by letter, so it stays as the provider writes it.
fn issuer(text: &str, inside: bool) -> Result<String, Fault> {
    let text = input::line("issuer", text, 1, 500)?;
    let bad = |detail: &str| Err(Fault::of_field("issuer", detail));
    let Ok(url) = Url::parse(&text) else { return bad("the issuer must be an address like https://id.example.org") };
    let is_plain = url.scheme() == "http" && inside;
    if url.scheme() != "https" && !is_plain {
        return bad("the issuer must begin with https:// (http:// only for one that is inside)");
    }
    if !url.has_host() || url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return bad("the issuer must be an address without a query, a fragment, or a user");
    }
    Ok(text)
}

/// `openid` first, and each once.
fn scopes(wished: &[String]) -> Result<Vec<String>, Fault> {
    let mut scopes = vec!["openid".to_owned()];
    for scope in wished {
        // RFC 6749, section 3.3.
        let well_formed = (1..=200).contains(&scope.len())
            && scope.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if !well_formed {
            return Err(Fault::of_field("scopes", "a scope is a word of visible ASCII characters"));
        }
        if !scopes.contains(scope) {
            scopes.push(scope.clone());
        }
    }
    if scopes.len() > SCOPES_MAX {
        return Err(Fault::of_field("scopes", format!("at most {SCOPES_MAX} scopes are asked for")));
    }
    Ok(scopes)
}

fn roles_by_group(wished: &BTreeMap<String, Vec<Role>>) -> Result<BTreeMap<String, Vec<Role>>, Fault> {
    if wished.len() > GROUPS_MAX {
        return Err(Fault::of_field("roles_by_group", format!("at most {GROUPS_MAX} groups give roles")));
    }
    wished
        .iter()
        .map(|(group, roles)| {
            let mut roles = roles.clone();
            roles.sort_unstable();
            roles.dedup();
            Ok((input::line("roles_by_group", group, 1, 500)?, roles))
        })
        .collect()
}

fn taken(error: StoreError) -> Fault {
    match error {
        StoreError::Taken => {
            Fault::new(Problem::Conflict, "there is an identity provider of this name or with this issuer already")
        }
        other => other.into(),
    }
}
