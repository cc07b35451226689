//! The provider logs people in by code and by device, rotates its keys, and lies when told to.

use aws_lc_rs::{digest, signature};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use culvert_portal_tests::http::{Answer, Client, Request};
use culvert_portal_tests::oidc_provider::{Lie, OidcClient, OidcOptions, OidcProvider};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::tcp_proxy::TcpProxy;
use culvert_portal_tests::tls::Authority;
use serde_json::{Value, json};
use url::Url;

const REDIRECT: &str = "http://127.0.0.1:9/callback";
const VERIFIER: &str = "a-verifier-of-more-than-forty-three-characters-is-what-it-takes";

fn options() -> OidcOptions {
    let mut options = OidcOptions::new(OidcClient::confidential("portal", "a secret", REDIRECT));
    options.clients.push(OidcClient::device("agent"));
    options
}

fn client() -> Client {
    Client::trusting(Authority::shared().pem())
}

/// The address that a log-in begins with.
fn authorization(provider: &OidcProvider, more: &[(&str, &str)]) -> String {
    let challenge = URL_SAFE_NO_PAD.encode(digest::digest(&digest::SHA256, VERIFIER.as_bytes()));
    let mut url = Url::parse(provider.discovery()["authorization_endpoint"].as_str().unwrap()).unwrap();
    url.query_pairs_mut()
        .extend_pairs([("client_id", "portal"), ("response_type", "code"), ("redirect_uri", REDIRECT)])
        .extend_pairs([("scope", "openid email groups"), ("state", "a state"), ("nonce", "a nonce")])
        .extend_pairs([("code_challenge", challenge.as_str()), ("code_challenge_method", "S256")])
        .extend_pairs(more);
    url.into()
}

fn parameter(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

/// Redeems a code.
fn redeem(provider: &OidcProvider, code: &str) -> Answer {
    let body = url::form_urlencoded::Serializer::new(String::new())
        .extend_pairs([("grant_type", "authorization_code"), ("code", code)])
        .extend_pairs([("redirect_uri", REDIRECT), ("code_verifier", VERIFIER)])
        .finish();
    let endpoint = provider.discovery()["token_endpoint"].as_str().unwrap().to_owned();
    let request = Request::new("POST", &endpoint)
        .with("authorization", &format!("Basic {}", STANDARD.encode("portal:a+secret")))
        .with_body("application/x-www-form-urlencoded", body);
    client().send(&request).unwrap()
}

/// A whole log-in as an account; the header and claims of the ID token, and the token.
fn log_in(provider: &OidcProvider, account: &str) -> (Value, Value, String) {
    let back = provider.log_in(&authorization(provider, &[]), account);
    assert_eq!(parameter(&back, "state").as_deref(), Some("a state"), "{back}");
    let token = redeem(provider, &parameter(&back, "code").unwrap()).json()["id_token"].as_str().unwrap().to_owned();
    let part = |at: usize| {
        let bytes = URL_SAFE_NO_PAD.decode(token.split('.').nth(at).unwrap()).unwrap();
        serde_json::from_slice(&bytes).unwrap()
    };
    (part(0), part(1), token)
}

/// Whether a key that the provider publishes has signed a token.
fn is_signed(provider: &OidcProvider, token: &str) -> bool {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let (text, signature) = token.rsplit_once('.').unwrap();
    let header: Value = serde_json::from_slice(&decode(text.split('.').next().unwrap())).unwrap();
    let keys = client().get(provider.discovery()["jwks_uri"].as_str().unwrap()).json();
    keys["keys"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|key| key["kid"] == header["kid"] && key["alg"] == header["alg"])
        .any(|key| {
            let number = |name: &str| decode(key[name].as_str().unwrap());
            let key = signature::RsaPublicKeyComponents { n: number("n"), e: number("e") };
            let algorithm = &signature::RSA_PKCS1_2048_8192_SHA256;
            key.verify(algorithm, text.as_bytes(), &decode(signature)).is_ok()
        })
}

#[test]
fn a_code_is_redeemed_for_who_somebody_is() {
    let Some(provider) = OidcProvider::start(&options()) else { return };
    assert_eq!(provider.discovery()["issuer"], provider.issuer());
    let (_, claims, token) = log_in(&provider, "alice");
    assert!(is_signed(&provider, &token));
    assert_eq!((&claims["sub"], &claims["email_verified"]), (&json!("alice"), &json!(true)));
    assert_eq!((&claims["groups"], &claims["nonce"]), (&json!(["operators", "users"]), &json!("a nonce")));
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!(provider.issuer()), &json!("portal")));

    // A hint is enough for a client that follows redirects by itself.
    let mut client = client();
    let mut answer = client.get(&authorization(&provider, &[("login_hint", "alice")]));
    while let Some(next) = answer.redirect().filter(|next| !next.as_str().starts_with(REDIRECT)) {
        answer = client.get(next.as_str());
    }
    let back = answer.redirect().unwrap();
    assert!(parameter(&back, "code").is_some(), "{back}");

    // The wrong verifier is not accepted, nor a request without a challenge, nor a code twice.
    let back = provider.log_in(&authorization(&provider, &[]), "mallory");
    let code = parameter(&back, "code").unwrap();
    let tokens = redeem(&provider, &code);
    assert_eq!(tokens.status, 200);
    assert_eq!(redeem(&provider, &code).json()["error"], "invalid_grant");
    let plain = authorization(&provider, &[]).replace("code_challenge", "no_challenge");
    assert_eq!(parameter(&provider.log_in(&plain, "alice"), "error").as_deref(), Some("invalid_request"));

    // The user information endpoint says the same.
    let endpoint = provider.discovery()["userinfo_endpoint"].as_str().unwrap().to_owned();
    let request = |token: &str| Request::new("GET", &endpoint).with("authorization", &format!("Bearer {token}"));
    let code = parameter(&provider.log_in(&authorization(&provider, &[]), "alice"), "code").unwrap();
    let access = redeem(&provider, &code).json()["access_token"].as_str().unwrap().to_owned();
    assert_eq!(client.send(&request(&access)).unwrap().json()["groups"], json!(["operators", "users"]));
}

#[test]
fn a_device_is_connected_by_somebody_elsewhere() {
    let Some(provider) = OidcProvider::start(&options()) else { return };
    let discovery = provider.discovery();
    let mut client = client();
    let endpoint = discovery["device_authorization_endpoint"].as_str().unwrap();
    let begun = client.post_form(endpoint, &[("client_id", "agent"), ("scope", "openid email groups")]).json();
    let mut poll = || {
        let grant = "urn:ietf:params:oauth:grant-type:device_code";
        let fields =
            [("client_id", "agent"), ("grant_type", grant), ("device_code", begun["device_code"].as_str().unwrap())];
        client.post_form(discovery["token_endpoint"].as_str().unwrap(), &fields).json()
    };
    assert_eq!(poll()["error"], "authorization_pending");
    let page = provider.approve_device(begun["verification_uri_complete"].as_str().unwrap(), "alice");
    assert!(page.text().contains("connected"), "{} {}", page.status, page.text());
    let token = poll()["id_token"].as_str().unwrap().to_owned();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&claims).unwrap()["sub"], "alice");
}

#[test]
fn keys_are_rotated_with_and_without_the_old_ones() {
    let Some(provider) = OidcProvider::start(&options()) else { return };
    let (_, _, first) = log_in(&provider, "alice");
    // A log-in that has begun before goes on.
    let back = provider.log_in(&authorization(&provider, &[]), "alice");
    assert_eq!(provider.rotate_keys(true).len(), 4);
    assert_eq!(redeem(&provider, &parameter(&back, "code").unwrap()).status, 200);
    let (_, _, second) = log_in(&provider, "alice");
    assert!(is_signed(&provider, &first) && is_signed(&provider, &second));
    assert_eq!(provider.rotate_keys(false).len(), 2);
    let (_, _, third) = log_in(&provider, "alice");
    assert!(!is_signed(&provider, &first) && !is_signed(&provider, &second) && is_signed(&provider, &third));
}

#[test]
fn lies_are_told_one_by_one() {
    let Some(provider) = OidcProvider::start(&options()) else { return };
    let (_, honest, _) = log_in(&provider, "alice");
    let told = |lie: Lie| {
        provider.lie(&[lie]);
        let (header, claims, token) = log_in(&provider, "alice");
        (header, claims, is_signed(&provider, &token))
    };
    for (lie, claim) in [
        (Lie::wrong_issuer(), "iss"),
        (Lie::wrong_nonce(), "nonce"),
        (Lie::wrong_audience(), "aud"),
        (Lie::expired(), "exp"),
        (Lie::no_groups(), "groups"),
    ] {
        let (_, claims, signed) = told(lie.clone());
        // What is false is signed all the same.
        assert!(signed && claims[claim] != honest[claim], "{lie:?}: {claims}");
    }
    let (_, claims, signed) = told(Lie::ClockSkew(-7200));
    assert!(signed && claims["exp"].as_i64().unwrap() < honest["iat"].as_i64().unwrap(), "{claims}");
    for (lie, algorithm) in [
        (Lie::unknown_key(), "RS256"),
        (Lie::ForeignSignature, "RS256"),
        (Lie::NoSignature, "none"),
        (Lie::HmacWithPublicKey, "HS256"),
    ] {
        let (header, _, signed) = told(lie.clone());
        assert!(!signed && header["alg"] == algorithm, "{lie:?}: {header}");
    }
    provider.lie(&[Lie::Denies]);
    let back = provider.log_in(&authorization(&provider, &[]), "alice");
    assert_eq!(parameter(&back, "error").as_deref(), Some("access_denied"));
    provider.lie(&[Lie::Status("/jwks", 503), Lie::Discovery("issuer", json!("http://127.0.0.1:1"))]);
    assert_eq!(client().get(&format!("{}/jwks", provider.issuer())).status, 503);
    assert_ne!(provider.discovery()["issuer"], provider.issuer());
    provider.be_honest();
    let (_, claims, token) = log_in(&provider, "alice");
    assert!(is_signed(&provider, &token) && claims["groups"] == honest["groups"]);
}

#[test]
fn it_speaks_tls_behind_a_proxy_and_keeps_claims_to_itself() {
    let port = Port::reserve();
    let proxy = TcpProxy::start(port.address());
    let options =
        OidcOptions { is_secure: true, reached_at: Some(proxy.address()), claims_in_id_token: false, ..options() };
    let Some(provider) = OidcProvider::start_on(port, &options) else { return };
    assert_eq!(provider.issuer(), format!("https://{}", proxy.address()));
    let (_, claims, token) = log_in(&provider, "alice");
    assert!(is_signed(&provider, &token));
    assert_eq!((&claims["sub"], &claims["groups"]), (&json!("alice"), &Value::Null));
    proxy.refuse();
    assert!(client().send(&Request::new("GET", provider.issuer())).is_err());
}
