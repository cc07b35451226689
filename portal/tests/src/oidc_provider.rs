//! An OpenID provider: npm's `oidc-provider`, whose accounts log in without a page, and which lies
//! when it is told to.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use url::Url;

use crate::http::{Answer, Client, wait_for};
use crate::node::Node;
use crate::ports::Port;
use crate::process::{Process, folder};
use crate::tls::Authority;

const SCRIPT: &str = include_str!("../js/oidc_provider.mjs");
const PACKAGES: &[(&str, &str)] = &[("oidc-provider", "9.13.3")];
const PATIENCE: Duration = Duration::from_secs(60);
/// More redirects than a log-in has.
const HOPS_MAX: usize = 20;

/// Who may log in where.
#[derive(Debug, Clone)]
pub struct OidcOptions {
    /// Programs that may ask who somebody is.
    pub clients: Vec<OidcClient>,
    /// Subjects and their claims: `email`, `email_verified`, `groups`, `name`,
    /// `preferred_username`.
    pub accounts: Vec<(String, Value)>,
    /// Whether the ID token has the claims, as with most providers; else only the user information
    /// endpoint tells them, as the standard has it.
    pub claims_in_id_token: bool,
    /// Whether it speaks TLS, with a certificate of [`Authority::shared`].
    pub is_secure: bool,
    /// The address under which clients reach it, if that is a proxy's.
    pub reached_at: Option<SocketAddr>,
}

impl OidcOptions {
    /// With one client and two accounts: `alice`, of the groups `operators` and `users`, whose
    /// e-mail address is verified, and `mallory`, of none, whose is not.
    #[must_use]
    pub fn new(client: OidcClient) -> Self {
        let alice = json!({"email": "alice@example.com", "email_verified": true, "name": "Alice Example",
            "preferred_username": "alice", "groups": ["operators", "users"]});
        let mallory = json!({"email": "alice@example.org", "email_verified": false, "name": "Mallory Example",
            "preferred_username": "mallory", "groups": []});
        Self {
            clients: vec![client],
            accounts: vec![("alice".to_owned(), alice), ("mallory".to_owned(), mallory)],
            claims_in_id_token: true,
            is_secure: false,
            reached_at: None,
        }
    }
}

/// A program that the provider knows.
#[derive(Debug, Clone, Serialize)]
pub struct OidcClient {
    client_id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_secret: Option<String>,
    redirect_uris: Vec<String>,
    grant_types: Vec<&'static str>,
    response_types: Vec<&'static str>,
    token_endpoint_auth_method: &'static str,
}

impl OidcClient {
    /// One with a secret, to which people come back with a code.
    #[must_use]
    pub fn confidential(id: &str, secret: &str, redirect: &str) -> Self {
        Self {
            client_id: id.to_owned(),
            client_secret: Some(secret.to_owned()),
            redirect_uris: vec![redirect.to_owned()],
            grant_types: vec!["authorization_code", "refresh_token"],
            response_types: vec!["code"],
            token_endpoint_auth_method: "client_secret_basic",
        }
    }

    /// One without a secret, for people whose browser is elsewhere.
    #[must_use]
    pub fn device(id: &str) -> Self {
        Self {
            client_id: id.to_owned(),
            client_secret: None,
            redirect_uris: Vec::new(),
            grant_types: vec!["urn:ietf:params:oauth:grant-type:device_code", "refresh_token"],
            response_types: Vec::new(),
            token_endpoint_auth_method: "none",
        }
    }
}

/// What is wrong with what the provider says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lie {
    /// A claim of ID tokens has another value; with null, it is missing.
    Claim(&'static str, Value),
    /// A field of the header of ID tokens has another value; with null, it is missing.
    Header(&'static str, Value),
    /// A claim at the user information endpoint has another value; with null, it is missing.
    UserInfo(&'static str, Value),
    /// A field of the discovery document has another value; with null, it is missing.
    Discovery(&'static str, Value),
    /// All times in ID tokens are so many seconds later; less than 0 is earlier.
    ClockSkew(i64),
    /// ID tokens are signed with a key that nobody knows, under the name of one that is known.
    ForeignSignature,
    /// ID tokens have the algorithm `none` and no signature.
    NoSignature,
    /// ID tokens have the algorithm `HS256` and a signature whose secret is the public key.
    HmacWithPublicKey,
    /// A path answers with an error.
    Status(&'static str, u16),
    /// Whoever wants to log in is denied.
    Denies,
}

impl Lie {
    /// Another provider has issued ID tokens.
    #[must_use]
    pub fn wrong_issuer() -> Self {
        Self::Claim("iss", json!("http://127.0.0.1:1"))
    }

    /// ID tokens are for another log-in.
    #[must_use]
    pub fn wrong_nonce() -> Self {
        Self::Claim("nonce", json!("of another log-in"))
    }

    /// ID tokens are for another client.
    #[must_use]
    pub fn wrong_audience() -> Self {
        Self::Claim("aud", json!("another-client"))
    }

    /// ID tokens have expired, long ago.
    #[must_use]
    pub fn expired() -> Self {
        Self::Claim("exp", json!(1_600_000_000))
    }

    /// ID tokens do not say in which groups somebody is.
    #[must_use]
    pub fn no_groups() -> Self {
        Self::Claim("groups", Value::Null)
    }

    /// ID tokens name a key that the provider does not publish.
    #[must_use]
    pub fn unknown_key() -> Self {
        Self::Header("kid", json!("unknown"))
    }
}

/// A running provider.
#[derive(Debug)]
pub struct OidcProvider {
    issuer: String,
    control: String,
    authority: PathBuf,
    port: Port,
    _process: Process,
    _folder: TempDir,
}

impl OidcProvider {
    /// Starts it, or prints why the test is skipped.
    ///
    /// # Panics
    /// If it does not start although it can be had.
    #[must_use]
    pub fn start(options: &OidcOptions) -> Option<Self> {
        Self::start_on(Port::reserve(), options)
    }

    /// Starts it on a port that was reserved before: a proxy whose address is the issuer's needs to
    /// know it.
    ///
    /// # Panics
    /// As [`OidcProvider::start`].
    #[must_use]
    pub fn start_on(port: Port, options: &OidcOptions) -> Option<Self> {
        let node = Node::with("oidc-provider", PACKAGES)?;
        let folder = folder();
        let authority = Authority::shared().write(folder.path());
        let scheme = if options.is_secure { "https" } else { "http" };
        let issuer = format!("{scheme}://{}", options.reached_at.unwrap_or(port.address()));
        let accounts: Map<String, Value> = options.accounts.iter().cloned().collect();
        let mut config = json!({"issuer": issuer, "port": port.number(), "clients": options.clients,
            "accounts": accounts, "claims_in_id_token": options.claims_in_id_token});
        if options.is_secure {
            let [certificate, key] = Authority::shared().issue(&["localhost", "127.0.0.1"]).write(folder.path());
            config["certificate"] = json!(certificate);
            config["key"] = json!(key);
        }
        let file = folder.path().join("config.json");
        fs::write(&file, config.to_string()).expect("a configuration can be written");
        let mut command = node.command(folder.path(), "oidc_provider.mjs", SCRIPT);
        command.arg(file);
        let process = Process::spawn("oidc-provider", command, &folder);
        let own = format!("{scheme}://{}", port.address());
        wait_for(&process, &mut client(), &format!("{own}/.well-known/openid-configuration"), PATIENCE);
        Some(Self { issuer, control: format!("{own}/control"), authority, port, _process: process, _folder: folder })
    }

    /// What it calls itself; the discovery document is below it.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Where it listens itself.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The file with the certificate of the authority that its own comes from:
    /// [`Authority::shared`].
    #[must_use]
    pub fn authority_file(&self) -> &std::path::Path {
        &self.authority
    }

    /// The discovery document.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn discovery(&self) -> Value {
        client().get(&format!("{}/.well-known/openid-configuration", self.issuer)).json()
    }

    /// Follows the redirects from an authorization request, as the browser of an account would.
    /// Returns the one that leads back to the client: with `code`, or with `error`.
    ///
    /// # Panics
    /// If none does.
    #[must_use]
    #[track_caller]
    pub fn log_in(&self, authorization: &str, account: &str) -> Url {
        let mut client = client();
        let first = client.get(authorization);
        let last = self.follow(&mut client, first, account);
        let redirect = last.redirect().filter(|next| !self.is_own(next));
        redirect.unwrap_or_else(|| panic!("no redirect to the client: {} {}: {}", last.status, last.url, last.text()))
    }

    /// Opens the page of a device log-in (`verification_uri_complete`) as an account, and confirms
    /// what it asks. Returns the last page.
    ///
    /// # Panics
    /// If nobody answers, or not with the forms that it should have.
    #[must_use]
    #[track_caller]
    pub fn approve_device(&self, verification: &str, account: &str) -> Answer {
        let mut client = client();
        let mut page = client.get(verification);
        // The first form enters the code, the second confirms it.
        for _ in 0..2 {
            let (action, fields) = form(&page).unwrap_or_else(|| panic!("no form: {}", page.text()));
            page = client.post_form(action.as_str(), &fields);
        }
        self.follow(&mut client, page, account)
    }

    /// From now on, and until told otherwise, lies like this and no other.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn lie(&self, lies: &[Lie]) {
        let mut behavior = json!({"claims": {}, "header": {}, "userinfo": {}, "discovery": {}, "status": {}});
        for lie in lies {
            match lie {
                Lie::Claim(name, value) => behavior["claims"][name] = value.clone(),
                Lie::Header(name, value) => behavior["header"][name] = value.clone(),
                Lie::UserInfo(name, value) => behavior["userinfo"][name] = value.clone(),
                Lie::Discovery(name, value) => behavior["discovery"][name] = value.clone(),
                Lie::ClockSkew(seconds) => behavior["clock_skew"] = json!(seconds),
                Lie::ForeignSignature => behavior["signature"] = json!("foreign"),
                Lie::NoSignature => behavior["signature"] = json!("none"),
                Lie::HmacWithPublicKey => behavior["signature"] = json!("hmac"),
                Lie::Status(path, status) => behavior["status"][path] = json!(status),
                Lie::Denies => behavior["denies"] = json!(true),
            }
        }
        self.order(&json!({"behavior": behavior}));
    }

    /// Tells the truth again.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn be_honest(&self) {
        self.lie(&[]);
    }

    /// Signs with new keys. If it keeps the old ones, it still publishes them; else it does not.
    /// Returns the names of all keys, those in use first.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn rotate_keys(&self, keeps_old: bool) -> Vec<String> {
        let answer = self.order(&json!({"rotate": if keeps_old { "keep" } else { "forget" }}));
        serde_json::from_value(answer["kids"].clone()).expect("it names its keys")
    }

    /// Replaces all accounts and their claims.
    ///
    /// # Panics
    /// If it does not answer.
    pub fn set_accounts(&self, accounts: &[(&str, Value)]) {
        let accounts: Map<String, Value> =
            accounts.iter().map(|(name, claims)| ((*name).to_owned(), claims.clone())).collect();
        self.order(&json!({"accounts": accounts}));
    }

    fn order(&self, order: &Value) -> Value {
        client().post_json(&self.control, order).json()
    }

    /// Follows redirects until one leads away, or an answer is none.
    fn follow(&self, client: &mut Client, first: Answer, account: &str) -> Answer {
        let mut answer = first;
        for _ in 0..HOPS_MAX {
            let Some(mut next) = answer.redirect().filter(|next| self.is_own(next)) else { break };
            if next.path().starts_with("/interaction/") {
                next.query_pairs_mut().append_pair("account", account);
            }
            answer = client.get(next.as_str());
        }
        answer
    }

    fn is_own(&self, url: &Url) -> bool {
        Url::parse(&self.issuer).is_ok_and(|issuer| issuer.origin() == url.origin())
    }
}

/// A client that knows the provider's authority.
fn client() -> Client {
    Client::trusting(Authority::shared().pem())
}

/// The first form of a page, with the values that are in it.
fn form(page: &Answer) -> Option<(Url, Vec<(String, String)>)> {
    let text = page.text();
    let (_, form) = text.split_once("<form")?;
    let (form, _) = form.split_once("</form>")?;
    let value = |tag: &str, name: &str| {
        let (_, rest) = tag.split_once(&format!(" {name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.replace("&amp;", "&"))
    };
    let action = page.url.join(&value(form, "action")?).ok()?;
    let inputs = form.split("<input").skip(1).filter_map(|input| Some((value(input, "name")?, value(input, "value")?)));
    Some((action, inputs.collect()))
}
