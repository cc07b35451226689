//! What the program `culvert-portal` does, with real databases, proxies, clients and browsers.
#![forbid(unsafe_code)]
// Seeds and measurements are shown when a test fails.
#![allow(clippy::print_stdout)]

mod alerts;
mod audit;
mod backup;
mod bounds;
mod command_addresses;
mod command_login;
mod command_portal;
mod command_tokens;
mod contract;
mod devices;
mod documentation;
mod event_order;
mod first_minutes;
mod fleet;
mod full_disk;
mod hang_ups;
mod host;
mod identity_providers;
mod kills;
mod locked;
mod lost_database;
mod mail;
mod metrics;
mod migrations;
mod nginx;
mod pages;
mod paging;
mod passkeys;
mod permission_walk;
mod provider_in_browser;
mod python_client;
mod refusals;
mod repetitions;
mod schemathesis;
mod starting;
mod stopping;
mod streams;
mod tls;
mod unit;
mod webhooks;
mod worked_session;

use std::time::{Duration, Instant};

use culvert_portal_tests::http::Answer;
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};

/// Longer than anything here takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes two tests of one: with SQLite, and with PostgreSQL.
macro_rules! on_both_databases {
    ($($(#[$attribute:meta])* fn $name:ident($options:ident) $body:block)*) => {
        $(mod $name {
            #[allow(unused_imports)]
            use super::*;

            fn test($options: culvert_portal_tests::program::PortalOptions) $body

            $(#[$attribute])*
            #[test]
            fn on_sqlite() {
                test(culvert_portal_tests::program::PortalOptions::default());
            }

            $(#[$attribute])*
            #[test]
            fn on_postgresql() {
                if let Some(server) = culvert_portal_tests::postgres::Postgres::shared() {
                    let database = Some(server.new_database());
                    test(culvert_portal_tests::program::PortalOptions { database, ..Default::default() });
                }
            }
        })*
    };
}
use on_both_databases;

/// Two portals of one database.
fn two(options: &PortalOptions) -> [RunningPortal; 2] {
    let one = RunningPortal::start(options);
    let other = one.another(options);
    [one, other]
}

/// Waits until something is so.
#[track_caller]
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether an answer is the problem "not now", in the form that the API promises.
#[track_caller]
fn is_unavailable(answer: &Answer) -> bool {
    if answer.status != 503 {
        return false;
    }
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.text());
    assert_eq!(answer.json()["code"], "unavailable", "{}", answer.text());
    let retry = answer.header("retry-after").and_then(|text| text.parse::<u32>().ok());
    assert!(retry.is_some_and(|seconds| (1..=60).contains(&seconds)), "{:?}", answer.headers);
    true
}

/// All rows of a list, page by page.
#[track_caller]
fn all_rows(browser: &mut Browser, path: &str) -> Vec<serde_json::Value> {
    let mut rows = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = browser.get(&format!("{path}?limit=200{cursor}"));
        assert_eq!(page.status, 200, "{}", page.text());
        let page = page.json();
        rows.extend(page["items"].as_array().expect("rows").iter().cloned());
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return rows,
        }
    }
}
