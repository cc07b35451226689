//! What operators see, as Prometheus reads it.

use std::process::Command;

use culvert_portal_tests::http::Client;
use culvert_portal_tests::process::{need, or_skip};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use serde_json::json;

use crate::until;

#[test]
fn what_happens_is_counted_and_promtool_reads_it() {
    let running = RunningPortal::start(&PortalOptions::default());
    drop(running.with_admin());
    let wrong = json!({ "name": "ada", "password": "not the password" });
    let refused = Client::new().post_json(&format!("{}/api/v1/sessions", running.url), &wrong);
    assert_eq!(refused.status, 401);
    let metrics = || Client::new().get(&running.metrics_url).text();
    until("all has its number", || metrics().contains("culvert_portal_sequencer_rows_total{result=\"numbered\"} 4\n"));
    let text = metrics();
    for line in [
        "culvert_portal_logins_total{result=\"done\"} 1\n",
        "culvert_portal_logins_total{result=\"refused\"} 1\n",
        "culvert_portal_webhook_deliveries_total{result=\"dead\"} 0\n",
        "culvert_portal_sequencer_rows_total{result=\"set_aside\"} 0\n",
        "culvert_portal_sequencer_lag_seconds 0\n",
    ] {
        assert!(text.contains(line), "no {line}in\n{text}");
    }
    // They are on their own listener, and nowhere else.
    assert_eq!(Client::new().get(&format!("{}/metrics", running.url)).status, 404);
    let Some(promtool) = or_skip(need("promtool")) else { return };
    let room = culvert_portal_tests::process::folder();
    let file = room.path().join("metrics");
    std::fs::write(&file, &text).unwrap();
    let mut command = Command::new(promtool);
    command.args(["check", "metrics"]).stdin(std::fs::File::open(&file).unwrap());
    let checked = command.output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{}", String::from_utf8_lossy(&checked.stderr));
}
