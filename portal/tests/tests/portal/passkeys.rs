//! Passkeys in a real browser with an authenticator of its own, through nginx.

use std::path::Path;

use culvert_portal_tests::browser::Browser;
use culvert_portal_tests::nginx::{Nginx, NginxOptions};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::json;

#[test]
fn a_passkey_is_enough_alone_and_a_second_factor() {
    let Some(browser) = Browser::find() else { return };
    let port = Port::reserve();
    let Some(nginx) = Nginx::start(&NginxOptions::new(port.address())) else { return };
    let url = nginx.url();
    let arguments = ["--public-url", &url, "--trusted-proxy", "127.0.0.0/8"].map(str::to_owned).to_vec();
    let options = PortalOptions { listen: Some(port.address()), arguments, ..PortalOptions::default() };
    let portal = RunningPortal::start(&options);
    let mut admin = portal.with_admin_behind(&url);
    let _ = admin.make_person("eve", &["user"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/portal/passkeys.mjs");
    let seen = browser.run(&script, &json!({"portal": url, "name": "eve", "password": PASSWORD}));
    assert_eq!(seen["registered"]["status"], 201, "{seen}");
    assert_eq!(seen["registered"]["body"]["passkey"]["name"], "laptop");
    assert_eq!(seen["registered"]["body"]["recovery_codes"].as_array().map(Vec::len), Some(10));
    assert_eq!((&seen["twice"]["status"], &seen["twice"]["body"]["code"]), (&json!(410), &json!("spent")));
    assert_eq!(seen["me"]["second_factor"], true);
    // The password alone is no longer enough, the passkey is, and a recovery code for when it is
    // lost.
    assert_eq!(seen["password"]["body"]["code"], "second-factor-needed");
    assert_eq!((&seen["alone"]["status"], &seen["alone"]["body"]["user"]["name"]), (&json!(201), &json!("eve")));
    assert_eq!((&seen["replayed"]["status"], &seen["replayed"]["body"]["code"]), (&json!(410), &json!("spent")));
    assert_eq!(seen["recovered"]["status"], 201);
    assert_eq!(seen["proved"]["status"], 204);
    assert_ne!(seen["cookies"][0], seen["cookies"][1], "a proof gives the session another secret");
    // An authenticator that asks nobody, one from another page, a changed signature, one that is
    // removed.
    for refused in ["unverified", "elsewhere", "forged", "removed"] {
        assert_eq!(seen[refused]["status"], 401, "{refused}: {seen}");
    }
    assert_eq!(seen["spent"]["status"], 410, "a challenge is spent by what is refused, too");
    let refused = admin.get("/audit?action=session.login&limit=200").text();
    assert!(refused.matches("refused").count() >= 4, "{refused}");
    assert_eq!(seen["without"]["status"], 201, "the password is enough again");
}
