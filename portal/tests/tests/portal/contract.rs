//! The description of the API, `docs/openapi.json`: the one that the program gives, and one that
//! validators accept.
//!
//! `CULVERT_UPDATE_GOLDEN=1 cargo xtask test contract` writes it again.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use culvert_portal_tests::http::Client;
use culvert_portal_tests::process::run;
use culvert_portal_tests::program::{PortalOptions, RunningPortal, portal};
use culvert_portal_tests::python::Python;
use serde_json::Value;

/// The description that is checked in.
pub fn checked_in() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/openapi.json")
}

#[test]
fn the_description_that_is_checked_in_is_the_programs() {
    let mut command = Command::new(portal());
    command.arg("openapi");
    let made = run("openapi", command, Duration::from_secs(60)).succeeds().out;
    if std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some() {
        fs::write(checked_in(), &made).expect("docs can be written");
    }
    let found = fs::read_to_string(checked_in()).unwrap_or_default();
    assert!(found == made, "docs/openapi.json is not what the program says: CULVERT_UPDATE_GOLDEN=1 writes it anew");
    let portal = RunningPortal::start(&PortalOptions::default());
    let served = Client::new().get(&format!("{}/api/v1/openapi.json", portal.url));
    let mut expected: Value = serde_json::from_str(&made).expect("it is JSON");
    // Without TLS the cookie has no prefix.
    expected["components"]["securitySchemes"]["session"]["name"] = "culvert".into();
    assert_eq!(served.json(), expected);
    assert_eq!(served.header("content-type"), Some("application/json"));
}

#[test]
fn the_description_is_valid() {
    let Some(python) = Python::open_api() else { return };
    let path = checked_in();
    let _ = python.run(["-m", "openapi_spec_validator", path.to_str().expect("a path")]).succeeds();
}

/// What every operation promises: a name, what it answers, how refusals look, and who may.
#[test]
fn every_operation_is_described_whole() {
    let text = fs::read_to_string(checked_in()).expect("docs/openapi.json");
    let document: Value = serde_json::from_str(&text).expect("it is JSON");
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("an item") {
            let name = format!("{method} {path}");
            assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{name}");
            let refusal = &operation["responses"]["default"]["content"];
            assert!(refusal["application/problem+json"]["schema"].is_object(), "{name}");
            let is_open = operation.get("security").is_none();
            let has_version = operation["parameters"].to_string().contains("If-Match");
            // Browsers are sent to identity providers, and back, by links.
            let is_of_browsers = path.starts_with("/api/v1/login/");
            assert!(!is_open || method == "post" || is_of_browsers, "{name} is open to everybody");
            let changes = ["put", "patch", "delete"].contains(&method.as_str()) || path.ends_with("/secret");
            assert!(!has_version || changes, "{name}");
        }
    }
}
