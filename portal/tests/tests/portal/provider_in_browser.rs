//! A real browser, through nginx, on its way to a provider at another origin and back: no policy of
//! the portal stands in the way, and its cookies are there when it comes back.

use std::path::Path;

use culvert_portal_tests::browser::Browser;
use culvert_portal_tests::http::Client;
use culvert_portal_tests::nginx::{Nginx, NginxOptions};
use culvert_portal_tests::oidc_provider::{OidcClient, OidcOptions, OidcProvider};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::json;

#[test]
fn the_way_to_the_provider_is_free() {
    let Some(browser) = Browser::find() else { return };
    let port = Port::reserve();
    let Some(nginx) = Nginx::start(&NginxOptions::new(port.address())) else { return };
    let url = nginx.url();
    let arguments = ["--public-url", &url, "--trusted-proxy", "127.0.0.0/8"].map(str::to_owned).to_vec();
    let options = PortalOptions { listen: Some(port.address()), arguments, ..PortalOptions::default() };
    let portal = RunningPortal::start(&options);
    let callback = format!("{url}/api/v1/login/oidc/callback");
    let provider = OidcOptions::new(OidcClient::confidential("portal", "secret", &callback));
    let Some(provider) = OidcProvider::start(&provider) else { return };
    let mut admin = portal.with_admin_behind(&url);
    let known = json!({"name": "real", "title": "Real", "issuer": provider.issuer(), "client_id": "portal",
        "client_secret": "secret", "inside": true, "accounts": "create"});
    assert_eq!(admin.post("/providers", &known).status, 201);
    let wish = json!({"client": "culvert on lab-7", "scopes": ["transfers:read"]});
    let device = Client::new().post_json(&format!("{}/api/v1/device/code", portal.url), &wish).json();
    let input = json!({"portal": url, "accounts": ["alice", "mallory"], "name": "ada", "password": PASSWORD,
        "code": device["user_code"]});
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portal/provider_in_browser.mjs");
    let seen = browser.run(&script, &input);
    assert!(seen["away"].as_str().unwrap().starts_with(provider.issuer()), "{seen}");
    assert_eq!((&seen["loggedIn"]["at"], &seen["loggedIn"]["shown"]["name"]), (&json!("/api/v1/me"), &json!("alice")));
    assert_eq!(seen["device"]["client"], "culvert on lab-7");
    assert_eq!(seen["session"], 201);
    assert_eq!(seen["refused"], format!("{url}/login?problem=cross-site"));
    assert_eq!(seen["linked"]["at"], "/api/v1/me/identities", "{seen}");
    assert_eq!(seen["linked"]["shown"]["items"][0]["subject"], "mallory");
    assert_eq!(seen["reports"], json!([]), "no report of a policy");
    let cookies = seen["cookies"].as_array().unwrap();
    let session = cookies.iter().find(|cookie| cookie["name"] == "__Host-culvert").unwrap();
    assert_eq!(
        (&session["httpOnly"], &session["secure"], &session["sameSite"]),
        (&json!(true), &json!(true), &json!("Lax"))
    );
}
