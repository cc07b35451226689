//! Events arrive once each and in their order, however late some are committed.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_portal_tests::load::request;
use culvert_portal_tests::postgres::{Postgres, through};
use culvert_portal_tests::program::PortalOptions;
use culvert_portal_tests::tcp_proxy::{Reaction, TcpProxy};
use serde_json::{Value, json};

use crate::{PATIENCE, all_rows, two};

const CLIENTS: usize = 8;
const CHANGES: usize = 60;

#[test]
fn a_reader_that_reconnects_all_the_time_misses_nothing() {
    let Some(server) = Postgres::shared() else { return };
    let proxy = Arc::new(TcpProxy::start(server.address()));
    let database = server.new_database();
    let options = PortalOptions { database: Some(through(&database, proxy.address())), ..PortalOptions::default() };
    let portals = two(&options);
    // The newest link is the good one.
    let mut admin = portals[1].with_admin();
    let wish = json!({ "name": "reader", "scopes": ["transfers:read"], "days": 1 });
    let secret = admin.post("/tokens", &wish).json()["secret"].as_str().unwrap().to_owned();
    let is_over = Arc::new(AtomicBool::new(false));
    let delaying = {
        let (proxy, is_over) = (proxy.clone(), is_over.clone());
        std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                // A short while of late commits, and a longer one of quick ones that overtake them.
                proxy.when_seen(b"COMMIT", Reaction::Delay(Duration::from_millis(700)));
                sleep(Duration::from_millis(15));
                proxy.resume();
                sleep(Duration::from_millis(300));
            }
        })
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let mut admin = admin.at(&portals[client % 2].url);
            std::thread::spawn(move || {
                (0..CHANGES).for_each(|number| {
                    let made = admin.post("/groups", &json!({ "name": format!("g{client}-{number}"), "members": [] }));
                    assert_eq!(made.status, 201, "{}", made.text());
                });
            })
        })
        .collect();
    let mut reader = Reader { secret, number: 0, seen: Vec::new() };
    let deadline = Instant::now() + 3 * PATIENCE;
    while clients.iter().any(|client| !client.is_finished()) {
        assert!(Instant::now() < deadline, "the changes take too long");
        reader.read(&portals[reader.seen.len() % 2].url, Duration::from_millis(100));
    }
    clients.into_iter().for_each(|client| client.join().unwrap());
    is_over.store(true, Ordering::Relaxed);
    delaying.join().unwrap();
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let listed: BTreeSet<String> = ids(&all_rows(&mut admin, "/groups")).into_iter().collect();
    assert_eq!(listed.len(), CLIENTS * CHANGES);
    while reader.seen.len() < listed.len() && Instant::now() < deadline {
        reader.read(&portals[1].url, Duration::from_secs(1));
    }
    let seen: BTreeSet<String> = reader.seen.iter().cloned().collect();
    assert_eq!(seen.len(), reader.seen.len(), "an event came twice");
    assert_eq!(seen, listed);
}

struct Reader {
    secret: String,
    /// The last number that it has seen.
    number: i64,
    /// The groups that it has heard of.
    seen: Vec<String>,
}

impl Reader {
    /// Follows from the last number for so long, then hangs up.
    fn read(&mut self, portal: &str, lasting: Duration) {
        let address = portal.trim_start_matches("http://");
        let mut stream = TcpStream::connect(address).unwrap();
        let head = request("GET", "/api/v1/events", &self.secret, None);
        let head = head.replacen("\r\n\r\n", &format!("\r\nlast-event-id: {}\r\n\r\n", self.number), 1);
        stream.write_all(head.as_bytes()).unwrap();
        let end = Instant::now() + lasting;
        let (mut kind, mut number, mut group) = (String::new(), None, None);
        let mut lines = BufReader::new(stream);
        loop {
            let left = end.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            lines.get_ref().set_read_timeout(Some(left)).unwrap();
            let mut line = String::new();
            if Instant::now() >= end || !lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                return;
            }
            match line.trim_end().split_once(": ") {
                Some(("id", text)) => number = text.parse::<i64>().ok(),
                Some(("event", text)) => text.clone_into(&mut kind),
                Some(("data", text)) if kind == "group.created" => {
                    let body: Value = serde_json::from_str(text).unwrap();
                    group = Some(body["id"].as_str().unwrap().to_owned());
                }
                _ if line.trim_end().is_empty() => {
                    // An event is whole with its empty line, and counts from there.
                    if let Some(new) = number.take() {
                        assert!(new >= self.number, "{new} after {}", self.number);
                        self.number = new;
                    }
                    self.seen.extend(group.take());
                    kind.clear();
                }
                _ => {}
            }
        }
    }
}
