//! What the portal asks a provider: its description, its keys, who a code is for, and more about
//! them. Each answer is bounded in size and time; all of a login fit into a request's time.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use culvert_portal_model::problem::Problem;
use culvert_portal_model::providers::Provider;
use culvert_portal_seams::http::{OutRequest, Reach};
use serde::Deserialize;
use serde_json::{Map, Value};
use url::Url;
use url::form_urlencoded::Serializer;
use zeroize::Zeroizing;

use super::discovery::{self, Metadata};
use super::id_token::{Claims, Expected, Unverified};
use super::key_set::{KeySet, Verdict};
use crate::fault::Fault;
use crate::portal::Portal;

/// How long one answer may take. A login needs five at most.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The largest answer: an ID token with thousands of groups.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A provider, and what the portal has to show it.
#[derive(Debug)]
pub struct Client<'a> {
    /// The provider.
    pub provider: &'a Provider,
    /// The portal's secret.
    pub secret: Option<Zeroizing<String>>,
    /// Where it sends people back to.
    pub redirect_uri: String,
}

/// What a code was redeemed for.
#[derive(Deserialize)]
pub struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// Where providers send people back to, which is registered there.
#[must_use]
pub fn redirect_uri(portal: &Portal) -> String {
    format!("{}/api/v1/login/oidc/callback", portal.options.public_url)
}

/// A provider's description of itself.
///
/// # Errors
/// [`Problem::BadGateway`], with the cause for the log.
pub async fn metadata(portal: &Portal, provider: &Provider) -> Result<Arc<Metadata>, Fault> {
    let key = (provider.id, provider.version);
    if let Some(metadata) = portal.providers.metadata(key, portal.now()) {
        return Ok(metadata);
    }
    read_metadata(portal, provider).await
}

/// A provider's description of itself, asked for whatever is known of it.
///
/// # Errors
/// [`Problem::BadGateway`], with the cause for the log.
pub async fn read_metadata(portal: &Portal, provider: &Provider) -> Result<Arc<Metadata>, Fault> {
    let bytes = get(portal, provider, discovery::address(provider), Vec::new()).await?;
    let metadata = Arc::new(Metadata::read(&bytes, provider).map_err(|reason| failed(provider, &reason))?);
    portal.providers.keep_metadata((provider.id, provider.version), metadata.clone(), portal.now());
    Ok(metadata)
}

/// A provider's keys, asked for whatever is known of them.
///
/// # Errors
/// [`Problem::BadGateway`], with the cause for the log.
pub async fn read_keys(portal: &Portal, provider: &Provider, metadata: &Metadata) -> Result<Arc<KeySet>, Fault> {
    let bytes = get(portal, provider, metadata.jwks_uri.to_string(), Vec::new()).await?;
    let keys = Arc::new(KeySet::read(&bytes).map_err(|reason| failed(provider, &reason))?);
    portal.providers.keep_keys((provider.id, provider.version), keys.clone(), portal.now());
    Ok(keys)
}

/// Redeems a code.
///
/// # Errors
/// [`Problem::BadGateway`], with the cause for the log.
pub async fn redeem(
    portal: &Portal,
    client: &Client<'_>,
    metadata: &Metadata,
    code: &str,
    verifier: &str,
) -> Result<Tokens, Fault> {
    let provider = client.provider;
    let (headers, form) = redemption(client, metadata, code, verifier);
    let url = metadata.token_endpoint.to_string();
    let (status, bytes) = send(portal, provider, "POST", url, headers, form.into_bytes()).await?;
    if status != 200 {
        return Err(failed(provider, &format!("it redeems no code: status {status}, {}", error_word(&bytes))));
    }
    serde_json::from_slice(&bytes).map_err(|_| failed(provider, "it redeems a code for something without an ID token"))
}

/// Who somebody is by an ID token. Keys are read again if it names one that was not there.
///
/// # Errors
/// [`Problem::BadGateway`], with the cause for the log.
pub async fn identify(
    portal: &Portal,
    provider: &Provider,
    metadata: &Metadata,
    tokens: &Tokens,
    expected: &Expected<'_>,
) -> Result<Claims, Fault> {
    let key = (provider.id, provider.version);
    let token = Unverified::read(&tokens.id_token).map_err(|refused| failed(provider, &refused.to_string()))?;
    let mut keys = match portal.providers.keys(key, portal.now()) {
        Some(keys) => keys,
        None => read_keys(portal, provider, metadata).await?,
    };
    if token.verdict(&keys) == Verdict::UnknownKey && portal.providers.may_ask_again(key, portal.now()) {
        keys = read_keys(portal, provider, metadata).await?;
    }
    token.checked(&keys, expected).map_err(|refused| failed(provider, &refused.to_string()))
}

/// Adds what the provider tells only at its user information endpoint.
///
/// # Errors
/// [`Problem::BadGateway`] if that is about somebody else. If there is none, or it fails, nothing
/// is added.
pub async fn add_user_info(
    portal: &Portal,
    provider: &Provider,
    metadata: &Metadata,
    tokens: &Tokens,
    claims: &mut Claims,
) -> Result<(), Fault> {
    let (Some(url), Some(token)) = (&metadata.userinfo_endpoint, &tokens.access_token) else { return Ok(()) };
    let headers = vec![("authorization".to_owned(), format!("Bearer {token}"))];
    let told: Map<String, Value> = match get(portal, provider, url.to_string(), headers).await {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(fault) => {
            tracing::warn!(provider = provider.name, cause = fault.log, "no user information");
            return Ok(());
        }
    };
    if told.is_empty() {
        return Ok(());
    }
    if told.get("sub").and_then(Value::as_str) != Some(&claims.subject) {
        return Err(failed(provider, "its user information is about somebody else"));
    }
    for (name, value) in told {
        // What is signed counts more.
        claims.all.entry(name).or_insert(value);
    }
    Ok(())
}

/// A provider has not done what it should. Whoever logs in hears no more than that: what it said
/// may tell about the network inside.
#[must_use]
pub fn failed(provider: &Provider, reason: &str) -> Fault {
    let detail = format!("{} did not answer as it should: try again, or tell an administrator", provider.title);
    Fault { log: Some(format!("{}: {reason}", provider.name)), ..Fault::new(Problem::BadGateway, detail) }
}

/// Where a browser begins.
#[must_use]
pub fn authorization_url(client: &Client<'_>, metadata: &Metadata, parameters: &[(&str, &str)]) -> Url {
    let mut url = metadata.authorization_endpoint.clone();
    url.query_pairs_mut()
        .append_pair("response_type", "code")
        .append_pair("client_id", &client.provider.client_id)
        .append_pair("redirect_uri", &client.redirect_uri)
        .append_pair("scope", &client.provider.scopes.join(" "))
        .append_pair("code_challenge_method", "S256")
        .extend_pairs(parameters);
    url
}

/// The headers and the form that redeem a code.
fn redemption(client: &Client<'_>, metadata: &Metadata, code: &str, verifier: &str) -> (Vec<(String, String)>, String) {
    let provider = client.provider;
    let mut form = Serializer::new(String::new());
    form.append_pair("grant_type", "authorization_code")
        .append_pair("code", code)
        .append_pair("redirect_uri", &client.redirect_uri)
        .append_pair("code_verifier", verifier);
    let mut headers = vec![
        ("content-type".to_owned(), "application/x-www-form-urlencoded".to_owned()),
        ("accept".to_owned(), "application/json".to_owned()),
    ];
    match &client.secret {
        Some(secret) if metadata.takes_basic() => headers.push(("authorization".to_owned(), basic(provider, secret))),
        Some(secret) => {
            form.append_pair("client_id", &provider.client_id).append_pair("client_secret", secret);
        }
        None => {
            form.append_pair("client_id", &provider.client_id);
        }
    }
    (headers, form.finish())
}

async fn get(
    portal: &Portal,
    provider: &Provider,
    url: String,
    mut headers: Vec<(String, String)>,
) -> Result<Vec<u8>, Fault> {
    headers.push(("accept".to_owned(), "application/json".to_owned()));
    let (status, bytes) = send(portal, provider, "GET", url.clone(), headers, Vec::new()).await?;
    if status == 200 { Ok(bytes) } else { Err(failed(provider, &format!("{url} answers with status {status}"))) }
}

async fn send(
    portal: &Portal,
    provider: &Provider,
    method: &str,
    url: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
) -> Result<(u16, Vec<u8>), Fault> {
    let request = OutRequest {
        method: method.to_owned(),
        url,
        headers,
        body,
        reach: if provider.inside { Reach::Inside } else { Reach::Public },
        timeout: TIMEOUT,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let answer = portal.seams.http.send(request).await.map_err(|error| failed(provider, &error.to_string()))?;
    Ok((answer.status, answer.body))
}

/// RFC 6749, section 2.3.1: both halves are encoded as in a form.
fn basic(provider: &Provider, secret: &str) -> String {
    let encoded = |text: &str| url::form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    format!("Basic {}", STANDARD.encode(format!("{}:{}", encoded(&provider.client_id), encoded(secret))))
}

/// The word of an error, for the log.
fn error_word(bytes: &[u8]) -> String {
    let document: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let word = document.get("error").and_then(Value::as_str).unwrap_or("without a word");
    word.chars().filter(|character| !character.is_control()).take(100).collect()
}
