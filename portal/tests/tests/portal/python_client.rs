//! A client that is generated from `docs/openapi.json` is good for what people do with one.

use std::path::Path;
use std::time::Duration;

use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::process::{folder, run_with};
use culvert_portal_tests::program::PASSWORD;
use culvert_portal_tests::python::Python;

use crate::contract::checked_in;

/// What the generator cannot express: lines of JSON, and a stream without end.
const NOT_GENERATED: [&str; 1] = ["GET /api/v1/audit/export"];
const PATIENCE: Duration = Duration::from_secs(300);

live_on_both_databases! {
    fn a_generated_client_changes_things_and_follows_pages(portal) {
        let Some(python) = Python::open_api() else { return };
        let _ = portal.with_admin();
        use_generated(&python, &portal);
    }
}

fn use_generated(python: &Python, portal: &LivePortal) {
    let folder = folder();
    let mut generate = python.command(["-m", "openapi_python_client", "generate", "--meta", "none"]);
    generate.arg("--path").arg(checked_in()).arg("--output-path").arg(folder.path().join("portal_client"));
    let made = run_with("openapi-python-client", generate, &folder, PATIENCE).succeeds();
    let told = made.out + &made.err;
    let left_out: Vec<&str> =
        told.lines().filter_map(|line| line.strip_prefix("WARNING parsing ")?.split(" within").next()).collect();
    assert_eq!(left_out, NOT_GENERATED, "{told}");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("python/use_client.py");
    let mut command = python.command([script]);
    command.env("PYTHONPATH", folder.path()).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("PORTAL_URL", &portal.url).env("PORTAL_NAME", "ada").env("PORTAL_PASSWORD", PASSWORD);
    let ran = run_with("use-client", command, &folder, PATIENCE).succeeds();
    assert!(ran.out.contains("all of it was done"), "{}", ran.out);
}
