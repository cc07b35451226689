//! The alerts that `packaging/` ships, and the page that says what to do for each.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_portal_tests::documents::{block, document};
use culvert_portal_tests::http::Client;
use culvert_portal_tests::process::{attempt, folder, need, or_skip};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};

const PAGE: &str = "portal-operations.md";

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/prometheus").join(name)
}

fn rules() -> String {
    fs::read_to_string(shipped("culvert-portal.rules.yml")).expect("the alerts")
}

fn alerts(rules: &str) -> Vec<&str> {
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() > 5);
    alerts
}

#[test]
fn the_alerts_fire_when_they_should() {
    let Some(promtool) = or_skip(need("promtool")) else { return };
    let tests = shipped("culvert-portal.rules.test.yml");
    for (verb, file) in [("check", shipped("culvert-portal.rules.yml")), ("test", tests.clone())] {
        let said = attempt(Command::new(&promtool).args([verb, "rules"]).arg(file));
        assert!(said.is_ok(), "{verb}: {said:?}");
    }
    let tests = fs::read_to_string(tests).expect("the alerts' tests");
    for alert in alerts(&rules()) {
        let fires = format!("alertname: {alert}\n        exp_alerts:\n          -");
        assert!(tests.contains(&fires), "{alert} never fires");
    }
}

#[test]
fn the_page_says_what_to_do_for_each_and_how_to_scrape() {
    let page = fs::read_to_string(document(PAGE)).expect("the page");
    for alert in alerts(&rules()) {
        assert!(page.contains(&format!("| `{alert}` |")), "docs/{PAGE} does not say what to do for {alert}");
    }
    let Some(promtool) = or_skip(need("promtool")) else { return };
    let room = folder();
    let file = room.path().join("prometheus.yml");
    fs::write(&file, block(PAGE, "yaml")).expect("a file");
    let said = attempt(Command::new(promtool).args(["check", "config"]).arg(&file));
    assert!(said.is_ok(), "{said:?}");
}

#[test]
fn the_alerts_ask_for_metrics_that_there_are() {
    let running = RunningPortal::start(&PortalOptions::default());
    assert_eq!(Client::new().get(&format!("{}/api/v1/me", running.url)).status, 401);
    let metrics = Client::new().get(&running.metrics_url).text();
    let rules = rules();
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut names: Vec<&str> = rules.split(|character| !is_word(character)).collect();
    names.retain(|word| word.starts_with("culvert_portal_"));
    assert!(names.len() > 5);
    for name in names {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "there is no metric {name}");
    }
    for series in
        ["result=\"set_aside\"", "result=\"dead\"", "result=\"refused\"", "result=\"limited\"", "status=\"4xx\""]
    {
        assert!(metrics.contains(series), "{series} is in no metric");
    }
}
