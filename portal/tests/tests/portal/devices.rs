//! Devices without a browser over HTTP, as `culvert login` uses them; and links that no scanner of
//! mail can spend.

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::json;

#[test]
fn a_device_is_let_in() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let mut admin = portal.with_admin();
    let mut device = Client::new();
    let api = format!("{}/api/v1", portal.url);
    let wish = json!({"client": "culvert on lab-7", "scopes": ["transfers:read", "people:read"]});
    let begun = device.post_json(&format!("{api}/device/code"), &wish);
    assert_eq!(begun.status, 201, "{}", begun.text());
    let begun = begun.json();
    assert_eq!((&begun["expires_in"], &begun["interval"]), (&json!(600), &json!(5)));
    assert_eq!(begun["verification_uri"], format!("{}/device", portal.url));
    let mut poll = || device.post_json(&format!("{api}/device/token"), &json!({"device_code": begun["device_code"]}));
    let (waits, soon) = (poll(), poll());
    assert_eq!((waits.status, &waits.json()["code"]), (400, &json!("authorization-pending")));
    assert_eq!(waits.header("retry-after"), Some("5"));
    assert_eq!((soon.status, &soon.json()["code"]), (400, &json!("slow-down")));
    assert_eq!(soon.header("retry-after"), Some("10"));
    let code = begun["user_code"].as_str().unwrap();
    let shown = admin.get(&format!("/device?user_code={code}")).json();
    assert_eq!((&shown["client"], &shown["address"]), (&json!("culvert on lab-7"), &json!("127.0.0.1")));
    assert_eq!(Client::new().get(&format!("{api}/device?user_code={code}")).status, 401);
    let approved = admin.post("/device/approve", &json!({"user_code": code, "scopes": ["people:read"]}));
    assert_eq!(approved.status, 204, "{}", approved.text());
    let given = poll();
    assert_eq!(given.status, 201, "{}", given.text());
    let given = given.json();
    assert_eq!(given["token"]["scopes"], json!(["people:read"]));
    let secret = given["secret"].as_str().unwrap();
    let request = Request::new("GET", &format!("{api}/users")).with("authorization", &format!("Bearer {secret}"));
    assert_eq!(Client::new().send(&request).unwrap().status, 200);
    let again = poll();
    assert_eq!((again.status, &again.json()["code"]), (400, &json!("expired-token")));
    assert!(!portal.process.output().contains(secret) && !portal.process.output().contains("culvert_dev_"));
}

/// Whoever looks at a link without pressing anything spends nothing: the secret is behind the `#`,
/// which no scanner sends, and even one that sent it would find no route that spends by GET.
#[test]
fn links_are_not_spent_by_looking() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let mut scanner = Client::new();
    let mut looks = |path: &str, secret: &str| {
        for method in ["GET", "GET", "GET", "GET", "GET", "HEAD", "HEAD"] {
            for url in [
                format!("{}/api/v1{path}?secret={secret}", portal.url),
                format!("{}/{}?secret={secret}", portal.url, path.split('/').nth(1).unwrap()),
            ] {
                let seen = scanner.send(&Request::new(method, &url)).unwrap();
                assert!(seen.header("set-cookie").is_none(), "{method} {url}");
            }
        }
    };
    let secret = portal.setup_secret();
    looks("/setup", &secret);
    let mut ada = portal.with_admin();
    assert_eq!(ada.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&open())).status, 200);
    let invited = ada.post("/invitations", &json!({"roles": ["user"], "days": 7})).json();
    let secret = invited["link"]["secret"].as_str().unwrap();
    assert!(invited["link"]["url"].as_str().unwrap().ends_with(&format!("/join#{secret}")), "{invited}");
    looks("/invitations/accept", secret);
    let mut person = Client::new();
    let join = json!({"secret": secret, "account": {"name": "eve", "password": PASSWORD}});
    let accept = format!("{}/api/v1/invitations/accept", portal.url);
    let joined = person.post_json(&accept, &join);
    assert_eq!(joined.status, 201, "{}", joined.text());
    let again = json!({"secret": secret, "account": {"name": "eve2", "password": PASSWORD}});
    assert_eq!(person.post_json(&accept, &again).status, 410);
    let id = joined.json()["id"].as_str().unwrap().to_owned();
    let link = ada.post(&format!("/users/{id}/reset-link"), &json!({})).json();
    let secret = link["secret"].as_str().unwrap();
    looks("/password-resets/complete", secret);
    let complete = format!("{}/api/v1/password-resets/complete", portal.url);
    let new = json!({"secret": secret, "password": "another long password"});
    assert_eq!(person.post_json(&complete, &new).status, 204);
    assert_eq!(person.post_json(&complete, &new).status, 410);
}

fn open() -> serde_json::Value {
    json!({"registration": "invitation", "session_idle_seconds": 1800, "session_absolute_seconds": 43200,
        "step_up_seconds": 900, "second_factor_for_staff": false, "token_days_max": 365, "notice": ""})
}
