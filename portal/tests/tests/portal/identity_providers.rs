//! Logging in at a real OpenID provider: who gets in, and that no lie of it lets anybody in.

use culvert_portal_tests::http::{Answer, Client, Request};
use culvert_portal_tests::oidc_provider::{Lie, OidcClient, OidcOptions, OidcProvider};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use culvert_portal_tests::tcp_proxy::TcpProxy;
use serde_json::{Value, json};
use url::Url;

/// A portal, a provider that it knows, and the portal's administrator.
struct World {
    portal: RunningPortal,
    provider: OidcProvider,
    admin: Browser,
    logins: u32,
}

impl World {
    fn start(change: impl FnOnce(&mut OidcOptions)) -> Option<Self> {
        // Each login says that it comes from elsewhere, so that no limit is in the way.
        let arguments = ["--trusted-proxy", "127.0.0.0/8"].map(str::to_owned).to_vec();
        let portal = RunningPortal::start(&PortalOptions { arguments, ..PortalOptions::default() });
        let callback = format!("{}/api/v1/login/oidc/callback", portal.url);
        let mut options = OidcOptions::new(OidcClient::confidential("portal", "a secret: of & signs", &callback));
        change(&mut options);
        let provider = OidcProvider::start(&options)?;
        let mut admin = portal.with_admin();
        let made = admin.post("/providers", &known("real", provider.issuer()));
        assert_eq!(made.status, 201, "{}", made.text());
        assert!(!made.text().contains("of & signs"));
        Some(Self { portal, provider, admin, logins: 0 })
    }

    /// Sends a browser to the provider, from an address of its own.
    fn begin(&mut self, client: &mut Client, path: &str) -> Answer {
        self.logins += 1;
        self.get(client, &format!("{}/api/v1{path}", self.portal.url))
    }

    fn get(&self, client: &mut Client, url: &str) -> Answer {
        let address = format!("198.51.100.{}", self.logins);
        let request = Request::new("GET", url).with("x-forwarded-for", &address).with("sec-fetch-site", "same-origin");
        client.send(&request).unwrap()
    }

    /// A whole login: the portal's last answer.
    fn log_in(&mut self, client: &mut Client, account: &str) -> Answer {
        let sent = self.begin(client, "/login/oidc/real?next=/api/v1/me");
        assert_eq!(sent.status, 303, "{}", sent.text());
        let back = self.provider.log_in(sent.redirect().unwrap().as_str(), account);
        self.get(client, back.as_str())
    }
}

fn known(name: &str, issuer: &str) -> Value {
    json!({"name": name, "title": "The real one", "issuer": issuer, "client_id": "portal", "inside": true,
        "client_secret": "a secret: of & signs", "scopes": ["email", "groups", "profile"], "accounts": "create",
        "groups_claim": "groups", "roles_by_group": {"operators": ["operator"]}})
}

#[test]
fn somebody_whom_the_provider_knows_logs_in() {
    let Some(mut world) = World::start(|_| {}) else { return };
    let mut client = Client::new();
    let listed = client.get(&format!("{}/api/v1/login/providers", world.portal.url)).json();
    assert_eq!(listed["items"][0]["url"], format!("{}/api/v1/login/oidc/real", world.portal.url));
    let sent = world.begin(&mut client, "/login/oidc/real?next=/api/v1/me");
    let cookie = sent.header("set-cookie").unwrap();
    assert!(cookie.contains("HttpOnly; SameSite=Lax; Max-Age=600"), "{cookie}");
    let away = sent.redirect().unwrap();
    for parameter in ["state", "nonce", "code_challenge"] {
        assert!(
            away.query_pairs().any(|(name, value)| name == parameter && value.len() >= 43),
            "{parameter} in {away}"
        );
    }
    let back = world.provider.log_in(away.as_str(), "alice");
    let arrived = world.get(&mut client, back.as_str());
    assert_eq!((arrived.status, arrived.header("location")), (303, Some("/api/v1/me")), "{}", arrived.text());
    let me = client.get(&format!("{}/api/v1/me", world.portal.url)).json();
    assert_eq!((&me["name"], &me["email"]), (&json!("alice"), &json!("alice@example.com")));
    assert_eq!((&me["roles"], &me["roles_by_hand"]), (&json!(["operator", "user"]), &json!(["user"])));
    // What was brought back is spent, here and in another browser.
    for mut other in [client.clone(), Client::new()] {
        let again = world.get(&mut other, back.as_str());
        assert_eq!((again.status, &again.json()["code"]), (410, &json!("spent")));
    }
    // A browser is shown a page.
    let request = Request::new("GET", back.as_str()).with("accept", "text/html,*/*");
    let page = client.send(&request).unwrap();
    assert_eq!((page.status, page.header("location")), (303, Some("/login?problem=spent")));
    // The same person comes again, as the same.
    let arrived = world.log_in(&mut Client::new(), "alice");
    assert_eq!(arrived.status, 303);
    let users = world.admin.get("/users").json();
    assert_eq!(users["items"].as_array().unwrap().len(), 2, "{users}");
    // Mallory's address is not verified, and not theirs.
    let mut client = Client::new();
    assert_eq!(world.log_in(&mut client, "mallory").status, 303);
    let me = client.get(&format!("{}/api/v1/me", world.portal.url)).json();
    assert_eq!((&me["name"], &me["email"], &me["roles"]), (&json!("mallory"), &Value::Null, &json!(["user"])));
}

/// Whoever sets a provider up learns what is wrong with it before its first user does.
#[test]
fn a_provider_is_tested_before_anybody_logs_in() {
    let Some(mut world) = World::start(|_| {}) else { return };
    let nobody = Port::reserve();
    let dead = format!("http://{}", nobody.address());
    let real = world.provider.issuer().to_owned();
    let mut test = |body: &Value| -> Value {
        let listed = world.admin.get("/providers").json();
        let name = body["name"].as_str().unwrap();
        let found = listed["items"].as_array().unwrap().iter().find(|one| one["name"] == name).cloned();
        let id = match found {
            Some(found) => found["id"].clone(),
            None => world.admin.post("/providers", body).json()["id"].clone(),
        };
        let told = world.admin.send("POST", &format!("/providers/{}/test", id.as_str().unwrap()), &[], None);
        assert_eq!(told.status, 200, "{}", told.text());
        told.json()
    };
    let told = test(&known("real", &real));
    assert_eq!((&told["works"], &told["fault"]), (&json!(true), &Value::Null), "{told}");
    assert_eq!(told["redirect_uri"], format!("{}/api/v1/login/oidc/callback", world.portal.url));
    assert_eq!(told["asked"], format!("{}/.well-known/openid-configuration", real.trim_end_matches('/')));
    for endpoint in ["authorization_endpoint", "token_endpoint", "userinfo_endpoint"] {
        assert!(told[endpoint].as_str().unwrap().starts_with("http"), "{told}");
    }
    assert!(told["keys"].as_u64().unwrap() > 0, "{told}");
    let mut public = known("public", "https://127.0.0.1:1/");
    public["inside"] = json!(false);
    let mut off = known("off", &dead);
    off["enabled"] = json!(false);
    let other = known("other", &real.replace("127.0.0.1", "localhost"));
    for (body, expected) in
        [(&off, "cannot be reached"), (&public, "not a public address"), (&other, "it calls itself")]
    {
        let told = test(body);
        assert_eq!((&told["works"], &told["keys"]), (&json!(false), &json!(0)), "{told}");
        assert!(told["fault"].as_str().unwrap().contains(expected), "{expected}: {told}");
    }
    let missing = "/providers/01a00000-0000-7000-8000-000000000000/test";
    assert_eq!(world.admin.send("POST", missing, &[], None).status, 404);
}

#[test]
fn what_the_id_token_does_not_tell_is_asked_for() {
    let Some(mut world) = World::start(|options| options.claims_in_id_token = false) else { return };
    let mut client = Client::new();
    assert_eq!(world.log_in(&mut client, "alice").status, 303);
    let me = client.get(&format!("{}/api/v1/me", world.portal.url)).json();
    assert_eq!((&me["name"], &me["roles"]), (&json!("alice"), &json!(["operator", "user"])));
    // What is told about somebody else counts for nothing.
    world.provider.lie(&[Lie::UserInfo("sub", json!("mallory"))]);
    let refused = world.log_in(&mut Client::new(), "alice");
    assert_eq!((refused.status, &refused.json()["code"]), (502, &json!("bad-gateway")));
    // If nothing is told, the roles stay.
    world.provider.lie(&[Lie::Status("/me", 500)]);
    let mut client = Client::new();
    assert_eq!(world.log_in(&mut client, "alice").status, 303);
    let me = client.get(&format!("{}/api/v1/me", world.portal.url)).json();
    assert_eq!(me["roles"], json!(["operator", "user"]));
}

#[test]
fn no_lie_lets_anybody_in() {
    let Some(mut world) = World::start(|_| {}) else { return };
    assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303);
    let table = [
        (Lie::wrong_issuer(), "ID token's iss is"),
        (Lie::wrong_nonce(), "ID token's nonce is"),
        (Lie::Claim("nonce", Value::Null), "ID token's nonce is missing"),
        (Lie::wrong_audience(), "ID token's aud is"),
        (Lie::Claim("azp", json!("another")), "ID token's azp is"),
        (Lie::Claim("sub", Value::Null), "ID token's sub is missing"),
        (Lie::expired(), "ID token's exp is"),
        (Lie::ClockSkew(-7200), "ID token's exp is"),
        (Lie::ClockSkew(7200), "ID token's iat is"),
        (Lie::NoSignature, "signed with none by no key"),
        (Lie::HmacWithPublicKey, "signed with HS256 by no key"),
        (Lie::ForeignSignature, "signed with RS256 by no key"),
        (Lie::unknown_key(), "signed with RS256 by no key"),
        (Lie::Header("crit", json!(["exp"])), "extensions that must be understood"),
        (Lie::Status("/token", 503), "status 503"),
    ];
    for (lie, told) in table {
        world.provider.lie(std::slice::from_ref(&lie));
        let mut client = Client::new();
        let refused = world.log_in(&mut client, "alice");
        assert_eq!((refused.status, &refused.json()["code"]), (502, &json!("bad-gateway")), "{lie:?}");
        assert!(!refused.text().contains(told), "{lie:?}: strangers are not told: {}", refused.text());
        world.portal.process.until(told, std::time::Duration::from_secs(10), || {
            world.portal.process.output().lines().any(|line| line.contains(told))
        });
        assert_eq!(client.get(&format!("{}/api/v1/me", world.portal.url)).status, 401, "{lie:?}");
    }
    // A clock that is wrong by a minute is.
    for seconds in [-60, 60] {
        world.provider.lie(&[Lie::ClockSkew(seconds)]);
        assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303, "{seconds} s");
    }
    world.provider.lie(&[Lie::Denies]);
    let denied = world.log_in(&mut Client::new(), "alice");
    assert_eq!((denied.status, &denied.json()["code"]), (403, &json!("provider-refused")));
    world.provider.be_honest();
    assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303);
    let refused = world.admin.get("/audit?action=session.login&limit=200").text();
    assert!(refused.contains("refused"), "{refused}");
}

#[test]
fn new_keys_are_fetched_when_a_token_names_one() {
    let Some(mut world) = World::start(|_| {}) else { return };
    assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303);
    world.provider.rotate_keys(false);
    assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303, "the old keys are gone");
    // Keys are not read again for every name that somebody invents.
    world.provider.lie(&[Lie::unknown_key(), Lie::Status("/jwks", 500)]);
    for _ in 0..3 {
        assert_eq!(world.log_in(&mut Client::new(), "alice").status, 502);
    }
    world.provider.be_honest();
    assert_eq!(world.log_in(&mut Client::new(), "alice").status, 303, "those that were read stay");
    assert!(!world.portal.process.output().contains("/jwks answers with status 500"), "they were not read again");
}

#[test]
fn a_provider_that_is_down_or_another_is_told() {
    let port = Port::reserve();
    let proxy = TcpProxy::start(port.address());
    let portal = RunningPortal::start(&PortalOptions::default());
    let callback = format!("{}/api/v1/login/oidc/callback", portal.url);
    let client = OidcClient::confidential("portal", "a secret: of & signs", &callback);
    let options = OidcOptions { reached_at: Some(proxy.address()), ..OidcOptions::new(client) };
    let Some(provider) = OidcProvider::start_on(port, &options) else { return };
    let mut admin = portal.with_admin();
    assert_eq!(admin.post("/providers", &known("real", provider.issuer())).status, 201);
    let mut client = Client::new();
    let mut begin = |name: &str| client.get(&format!("{}/api/v1/login/oidc/{name}", portal.url));
    proxy.refuse();
    let down = begin("real");
    assert_eq!((down.status, &down.json()["code"]), (502, &json!("bad-gateway")));
    proxy.resume();
    provider.lie(&[Lie::Discovery("issuer", json!("http://127.0.0.1:1"))]);
    assert_eq!(begin("real").status, 502, "it calls itself something else");
    provider.lie(&[Lie::Discovery("token_endpoint", json!("ftp://127.0.0.1/token"))]);
    assert_eq!(begin("real").status, 502, "an address that is no https");
    provider.be_honest();
    assert_eq!(begin("real").status, 303);
    assert_eq!(begin("unknown").status, 404);
    assert_eq!(begin("real?next=//evil.example").status, 422);
    // One that is not marked as inside is not asked, if its address is not public.
    let mut outside = known("outside", "https://127.0.0.1:1");
    outside["inside"] = json!(false);
    assert_eq!(admin.post("/providers", &outside).status, 201);
    assert_eq!(begin("outside").status, 502);
    assert!(portal.process.output().contains("not a public address"), "{}", portal.process.output());
    let output = portal.process.output();
    assert!(!output.contains("of & signs"), "the secret is in no line of the log");
}

#[test]
fn an_identity_is_linked_by_a_link_of_the_portal_only() {
    let Some(mut world) = World::start(|_| {}) else { return };
    let mut ada = world.admin.client.clone();
    let url = format!("{}/api/v1/me/identities/link/real?next=/api/v1/me/identities", world.portal.url);
    for site in ["cross-site", "same-site", ""] {
        let refused = ada.send(&Request::new("GET", &url).with("sec-fetch-site", site)).unwrap();
        assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("cross-site")), "{site:?}");
    }
    assert_eq!(world.get(&mut Client::new(), &url).status, 401);
    let sent = world.begin(&mut ada, "/me/identities/link/real?next=/api/v1/me/identities");
    let back = world.provider.log_in(sent.redirect().unwrap().as_str(), "alice");
    let linked = world.get(&mut ada, back.as_str());
    assert_eq!(linked.header("location"), Some("/api/v1/me/identities"), "{}", linked.text());
    let list = ada.get(&format!("{}/api/v1/me/identities", world.portal.url)).json();
    assert_eq!(list["items"][0]["subject"], "alice");
    // Alice is Ada now.
    let mut alice = Client::new();
    assert_eq!(world.log_in(&mut alice, "alice").status, 303);
    assert_eq!(alice.get(&format!("{}/api/v1/me", world.portal.url)).json()["name"], "ada");
    // Who proves at the provider who they are has another cookie.
    let sent = world.begin(&mut alice, "/me/step-up/oidc/real?next=/api/v1/me");
    let away = sent.redirect().unwrap();
    assert!(away.query().unwrap().contains("max_age=0"), "{away}");
    let back: Url = world.provider.log_in(away.as_str(), "alice");
    let old = alice.clone();
    let proved = world.get(&mut alice, back.as_str());
    assert_eq!(proved.header("location"), Some("/api/v1/me"), "{}", proved.text());
    assert_eq!(alice.get(&format!("{}/api/v1/me", world.portal.url)).status, 200);
    assert_eq!(old.clone().get(&format!("{}/api/v1/me", world.portal.url)).status, 401);
}
