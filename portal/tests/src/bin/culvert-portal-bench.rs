//! Measures the portal: `cargo xtask portal-bench`.
//!
//! The real program on SQLite and on PostgreSQL, with clients on the same host: what they take of
//! its cores, the portal does not have. Rates are of whole requests with a token.
#![allow(clippy::print_stdout)]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use culvert_portal_tests::http::{Client, OpenAnswer, Request};
use culvert_portal_tests::load::{Load, request, run};
use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal, portal};
use serde_json::json;

/// Connections of a load.
const CONNECTIONS: usize = 16;
/// How long each is measured.
const LASTING: Duration = Duration::from_secs(8);
/// Streams of events that are held at once.
const STREAMS: usize = 500;

fn main() {
    let size = std::fs::metadata(portal()).map_or(0, |metadata| metadata.len());
    println!("program: {:.1} MB", size as f64 / 1e6);
    measure("SQLite", &PortalOptions::default());
    if let Some(server) = Postgres::shared() {
        measure("PostgreSQL", &PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() });
    }
}

fn measure(name: &str, options: &PortalOptions) {
    println!("\n{name}");
    let began = Instant::now();
    let running = RunningPortal::start(options);
    println!("  first start to ready         {:>9.0} ms", began.elapsed().as_secs_f64() * 1e3);
    let mut admin = running.with_admin();
    let scopes = ["people:read", "people:write", "transfers:read"];
    let wish = json!({ "name": "load", "scopes": scopes, "days": 1 });
    let made = admin.post("/tokens", &wish);
    let token = made.json()["secret"].as_str().expect("a token").to_owned();
    std::thread::sleep(Duration::from_secs(3));
    println!("  idle                         {:>9.1} MiB", resident_mib(running.process.id()));
    let server: SocketAddr = running.url.trim_start_matches("http://").parse().expect("an address");

    let (reading, listing, following) = (token.clone(), token.clone(), token.clone());
    tell("GET /me", &run(server, CONNECTIONS, LASTING, move |_| request("GET", "/api/v1/me", &reading, None)));
    let list = move |_| request("GET", "/api/v1/users?limit=10", &listing, None);
    tell("GET /users?limit=10", &run(server, CONNECTIONS, LASTING, list));
    let written = run(server, CONNECTIONS, LASTING, move |number| {
        let body = json!({ "name": format!("group-{number}"), "members": [] }).to_string();
        request("POST", "/api/v1/groups", &token, Some(&body))
    });
    tell("POST /groups", &written);
    under_attack(&running, server);
    streams(&running, &following);
}

fn tell(what: &str, load: &Load) {
    let milliseconds = |percent| load.percentile(percent).as_secs_f64() * 1e3;
    println!(
        "  {what:<28} {:>9.0} /s   median {:>6.1} ms, 99 % {:>6.1} ms{}",
        load.rate(),
        milliseconds(50),
        milliseconds(99),
        if load.other.is_empty() { String::new() } else { format!("   other answers: {:?}", load.other) }
    );
}

/// A hundred wrong attempts a second from one address; somebody else logs in meanwhile.
fn under_attack(running: &RunningPortal, server: SocketAddr) {
    let stop = Arc::new(AtomicBool::new(false));
    let attack = {
        let stop = stop.clone();
        std::thread::spawn(move || {
            let mut answers: BTreeMap<u16, u64> = BTreeMap::new();
            let mut client = Client::new();
            let url = format!("http://{server}/api/v1/sessions");
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                next += Duration::from_millis(10);
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
                let body = json!({ "name": "nobody", "password": "wrong password 1" });
                *answers.entry(client.post_json(&url, &body).status).or_default() += 1;
            }
            answers
        })
    };
    std::thread::sleep(Duration::from_secs(1));
    // From another address of loopback: the attacker's own address is refused by then.
    let mut times: Vec<Duration> = (0..10)
        .map(|_| {
            let began = Instant::now();
            let answer = Command::new("curl")
                .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--interface", "127.0.0.9", "-H"])
                .args(["content-type: application/json", "-d"])
                .arg(json!({ "name": "ada", "password": PASSWORD }).to_string())
                .arg(format!("{}/api/v1/sessions", running.url))
                .output()
                .expect("curl runs");
            assert_eq!(String::from_utf8_lossy(&answer.stdout), "201");
            began.elapsed()
        })
        .collect();
    stop.store(true, Ordering::Relaxed);
    let answers = attack.join().expect("the attack ends");
    times.sort();
    println!(
        "  log in under attack           median {:.0} ms, slowest {:.0} ms   (attacker: {answers:?})",
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() - 1].as_secs_f64() * 1e3
    );
}

fn streams(running: &RunningPortal, secret: &str) {
    let mut client = Client::new();
    let url = format!("{}/api/v1/events", running.url);
    let authorization = format!("Bearer {secret}");
    let open: Vec<OpenAnswer> = (0..STREAMS)
        .map(|_| client.open(&Request::new("GET", &url).with("authorization", &authorization)).expect("a stream"))
        .collect();
    assert!(open.iter().all(|stream| stream.answer.status == 200));
    std::thread::sleep(Duration::from_secs(3));
    println!("  {STREAMS} streams of events        {:>9.1} MiB", resident_mib(running.process.id()));
}

fn resident_mib(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0
}
