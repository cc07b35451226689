//! The live portal against its own description: what schemathesis makes up from it
//! is answered as the description says, on both databases, with a token and with a session.
//!
//! All checks of schemathesis run. Only the stream of events is left out, since it does not end;
//! `streams` tests it. `CULVERT_SEED` chooses what is made up; the long runs are ignored.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use culvert_portal_api::route_table::ROUTES;
use culvert_portal_tests::http::Client;
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::process::{folder, run_with};
use culvert_portal_tests::program::PASSWORD;
use culvert_portal_tests::python::Python;
use serde_json::json;

/// Where nothing that is made up succeeds, and why.
const NEVER_SUCCEED: [(&str, &str, &str); 15] = [
    ("POST", "/api/v1/setup", "there is an administrator"),
    ("POST", "/api/v1/sessions", "nobody guesses a password; the tester's own count for it"),
    ("POST", "/api/v1/invitations/accept", "nobody guesses a secret"),
    ("POST", "/api/v1/password-resets/complete", "nobody guesses a secret"),
    ("POST", "/api/v1/me/step-up", "nobody guesses a password"),
    ("POST", "/api/v1/me/second-factor/confirm", "nobody guesses a code"),
    ("POST", "/api/v1/me/recovery-codes", "there is no second factor"),
    ("GET", "/api/v1/login/oidc/{name}", "no provider answers"),
    ("GET", "/api/v1/login/oidc/callback", "no provider answers"),
    ("GET", "/api/v1/me/identities/link/{name}", "no provider answers"),
    ("GET", "/api/v1/me/step-up/oidc/{name}", "no provider answers"),
    ("DELETE", "/api/v1/me/identities/{id}", "no provider answers"),
    ("POST", "/api/v1/login/second-factor", "no provider answers"),
    ("POST", "/api/v1/device/token", "nobody guesses a secret"),
    ("GET", "/api/v1/events", "left out"),
];

live_on_both_databases! {
    #[ignore = "not all that it finds is mended yet"]
    fn answers_are_as_described(portal) {
        test_everything(&portal, 8);
    }

    #[ignore = "takes twenty minutes"]
    fn answers_are_as_described_for_long(portal) {
        test_everything(&portal, 300);
    }
}

fn test_everything(portal: &LivePortal, examples: u32) {
    let Some(python) = Python::open_api() else { return };
    let seed = std::env::var("CULVERT_SEED").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or(18);
    println!("CULVERT_SEED={seed} makes up the same");
    portal.database().take_limits_off();
    let mut ada = portal.with_admin();
    let settings = ada.get("/settings");
    let mut open = settings.json();
    open["registration"] = json!("approval");
    let tag = settings.header("etag").expect("a version");
    assert_eq!(ada.send("PUT", "/settings", &[("if-match", tag)], Some(&open)).status, 200);
    let all = json!({ "name": "tester", "days": 30, "scopes": culvert_portal_model::scope::Scope::ALL });
    let token = ada.post("/tokens", &all).json()["secret"].as_str().expect("a secret").to_owned();
    for token in [Some(token.as_str()), None] {
        run(&python, portal, token, examples, seed);
    }
    let succeeded = succeeded(portal);
    for route in ROUTES {
        let may_fail = NEVER_SUCCEED.iter().any(|(method, path, _)| (*method, *path) == (route.method, route.path));
        let has = succeeded.contains(&(route.method.to_owned(), route.path.to_owned()));
        assert!(has || may_fail, "{} {} has never succeeded: nothing of it was tested", route.method, route.path);
    }
}

fn run(python: &Python, portal: &LivePortal, token: Option<&str>, examples: u32, seed: u64) {
    let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("python");
    let folder = folder();
    let mut command = python.command(["-m", "schemathesis.cli"]);
    command.arg("--config-file").arg(scripts.join("schemathesis.toml")).arg("--no-color").arg("run");
    command.arg(format!("{}/api/v1/openapi.json", portal.url));
    command.args(["--url", &portal.url, "--checks", "all", "--exclude-operation-id", "followEvents"]);
    command.args(["--max-examples", &examples.to_string(), "--seed", &seed.to_string(), "--continue-on-failure"]);
    command.args(["--generation-database", "none", "--request-timeout", "60"]);
    command.env("PYTHONPATH", &scripts).env("SCHEMATHESIS_HOOKS", "api_tester").env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PORTAL_URL", &portal.url).env("PORTAL_PASSWORD", PASSWORD).current_dir(folder.path());
    match token {
        Some(token) => command.env("PORTAL_TOKEN", token),
        None => command.env_remove("PORTAL_TOKEN"),
    };
    let ran = run_with("schemathesis", command, &folder, Duration::from_secs(3_600));
    println!("with a {}:\n{}", if token.is_some() { "token" } else { "session" }, ran.out);
    let _ = ran.succeeds();
}

/// The routes that were answered with success, as the portal has counted.
fn succeeded(portal: &LivePortal) -> BTreeSet<(String, String)> {
    let text = Client::new().get(&portal.metrics_url).text();
    let counted = text.lines().filter(|line| line.starts_with("culvert_portal_http_requests_total{"));
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split('"').next().map(str::to_owned)
    };
    let good = counted.filter(|line| label(line, "status").as_deref() == Some("2xx"));
    good.filter_map(|line| Some((label(line, "method")?, label(line, "route")?))).collect()
}
