//! What an administrator sees in the first minutes, without having configured anything.

use std::os::unix::fs::PermissionsExt as _;

use culvert_portal_tests::http::Client;
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::json;

#[test]
fn the_setup_link_makes_one_administrator_and_no_second() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let secret = portal.setup_secret();
    let url = format!("{}/api/v1/setup", portal.url);
    let body = |name: &str| json!({ "secret": secret, "account": { "name": name, "password": PASSWORD } });
    let mut client = Client::new();
    assert_eq!(client.get(&url).status, 405, "a link that is opened is not spent");
    let made = client.post_json(&url, &body("Ada"));
    assert_eq!((made.status, made.json()["name"].as_str()), (201, Some("ada")), "{}", made.text());
    let again = client.post_json(&url, &body("mallory"));
    assert_eq!((again.status, again.json()["code"].as_str()), (410, Some("spent")), "{}", again.text());
    let mut ada = portal.log_in("ada");
    assert_eq!(ada.get("/me").json()["roles"], json!(["admin"]));
    assert_eq!(ada.send("DELETE", "/sessions/current", &[], None).status, 204);
    assert_eq!(ada.get("/me").status, 401);
}

#[test]
fn a_portal_that_is_started_again_knows_its_people_and_prints_no_link() {
    let options = PortalOptions::default();
    let portal = RunningPortal::start(&options);
    portal.with_admin().make_person("boole", &["user"]);
    let state = portal.state.clone();
    let mode = std::fs::metadata(state.join("sealing.key")).expect("a sealing key").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut first = portal;
    first.process.end_by(rustix::process::Signal::TERM);
    let second = RunningPortal::start_again(&state, &options);
    assert!(!second.process.output().contains("culvert_lnk_"), "{}", second.process.output());
    let mut boole = second.log_in("boole");
    assert_eq!(boole.get("/users").status, 403);
    let ran = second.run(&options, ["audit", "verify"]).succeeds();
    assert!(ran.out.contains("the audit trail is whole (entries: 4)"), "{}", ran.out);
}
