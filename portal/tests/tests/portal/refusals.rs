//! What refusals tell whoever writes a client: which field, what was expected, and what helps.

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::program::{Browser, PASSWORD, PortalOptions, RunningPortal};
use serde_json::{Value, json};

/// A portal, and a client that has logged in as its administrator.
fn portal() -> (RunningPortal, Browser) {
    let running = RunningPortal::start(&PortalOptions::default());
    let admin = running.with_admin();
    (running, admin)
}

#[test]
fn the_field_that_is_wrong_is_named_in_the_apis_own_words() {
    let (_running, mut admin) = portal();
    let mut settings = admin.get("/settings").json();
    let tag = [("if-match", "\"v0\"")];
    for (field, value, status, words) in [
        ("registration", json!("open"), 400, "'open' is none of: closed, invitation, approval"),
        ("second_factor_for_staff", json!("yes"), 400, "must be a boolean"),
        ("step_up_seconds", json!(1), 422, "it must be 60 to 86400"),
        ("notice", json!("x".repeat(1_001)), 422, "at most 1000"),
    ] {
        let good = settings[field].clone();
        settings[field] = value;
        let answer = admin.send("PUT", "/settings", &tag, Some(&settings));
        let told = answer.json();
        assert_eq!((answer.status, &told["field"]), (status, &json!(field)), "{told}");
        assert!(told["detail"].as_str().unwrap().contains(words), "{told}");
        settings[field] = good;
    }
    let wrong = [
        ("/users", json!({ "name": "boole" }), "roles", "the field is missing"),
        ("/users", json!({ "name": "boole", "roles": [], "nick": "b" }), "nick", "there is no field 'nick' here"),
        ("/tokens", json!({ "name": "t", "scopes": "people:read", "days": 1 }), "scopes", "must be a list"),
    ];
    for (path, body, field, words) in wrong {
        let told = admin.post(path, &body).json();
        assert_eq!((&told["status"], &told["field"]), (&json!(400), &json!(field)), "{told}");
        assert!(told["detail"].as_str().unwrap().contains(words), "{told}");
    }
    for (query, field, words) in [
        ("nick=b", "nick", "there is no field 'nick' here; there are: state, name, cursor, limit"),
        ("limit=many", "limit", "limit: "),
        ("state=gone", "state", "'gone' is none of: pending, active, deactivated"),
        ("limit=1&limit=2", "limit", "comes twice"),
    ] {
        let told = admin.get(&format!("/users?{query}")).json();
        assert_eq!((&told["status"], &told["field"]), (&json!(400), &json!(field)), "{told}");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains(words) && !detail.contains("eserialize"), "{told}");
    }
    let told = admin.get("/audit?from=yesterday").json();
    assert_eq!((&told["status"], &told["field"]), (&json!(400), &json!("from")), "{told}");
}

#[test]
fn what_if_match_must_be_is_shown() {
    let (_running, mut admin) = portal();
    let settings = admin.get("/settings").json();
    for given in ["0", "*", "v0", "W/\"v0\""] {
        let told = admin.send("PUT", "/settings", &[("if-match", given)], Some(&settings)).json();
        assert_eq!((&told["status"], &told["code"]), (&json!(412), &json!("changed")), "{told}");
        let detail = told["detail"].as_str().unwrap();
        assert!(detail.contains(&format!("If-Match is {given},")) && detail.contains("as \"v2\""), "{told}");
    }
    let told = admin.send("PUT", "/settings", &[], Some(&settings)).json();
    assert!(told["status"] == 428 && told["detail"].as_str().unwrap().contains("as \"v2\""), "{told}");
}

/// A link that was pasted whole is not spent.
#[test]
fn what_is_no_secret_was_never_given() {
    let running = RunningPortal::start(&PortalOptions::default());
    let secret = running.setup_secret();
    let account = json!({ "name": "ada", "password": PASSWORD });
    let set_up = |secret: &str| -> Value {
        let body = json!({ "secret": secret, "account": account });
        Client::new().post_json(&format!("{}/api/v1/setup", running.url), &body).json()
    };
    for wrong in ["culvert_lnk_\u{2026}", &format!("{}/setup#{secret}", running.url)] {
        let told = set_up(wrong);
        assert_eq!((&told["status"], &told["field"]), (&json!(422), &json!("secret")), "{told}");
        assert!(told["detail"].as_str().unwrap().contains("behind #"), "{told}");
    }
    assert_eq!(set_up(&secret)["name"], "ada");
    let spent = set_up(&secret);
    assert_eq!((&spent["status"], &spent["code"]), (&json!(410), &json!("spent")), "{spent}");
}

/// Behind a proxy that nobody has named, everybody is one address: the log says so, once.
#[test]
fn a_proxy_that_is_not_trusted_is_told_once() {
    let told = |running: &RunningPortal| running.process.output().matches("--trusted-proxy 127.0.0.1").count();
    let ask = |running: &RunningPortal| {
        for number in 1..4 {
            let request = Request::new("GET", &format!("{}/api/v1/login/providers", running.url));
            let request = request.with("x-forwarded-for", &format!("198.51.100.{number}"));
            assert_eq!(Client::new().send(&request).unwrap().status, 200);
        }
    };
    let running = RunningPortal::start(&PortalOptions::default());
    assert_eq!(Client::new().get(&format!("{}/api/v1/login/providers", running.url)).status, 200);
    assert_eq!(told(&running), 0, "{}", running.process.output());
    ask(&running);
    assert_eq!(told(&running), 1, "{}", running.process.output());
    let arguments = ["--trusted-proxy", "127.0.0.0/8"].map(str::to_owned).to_vec();
    let trusting = RunningPortal::start(&PortalOptions { arguments, ..PortalOptions::default() });
    ask(&trusting);
    assert_eq!(told(&trusting), 0, "{}", trusting.process.output());
}
