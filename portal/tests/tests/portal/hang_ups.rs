//! Clients that hang up at any moment leave nothing behind: no transaction, no poisoned connection.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

use culvert_portal_tests::load::request;
use culvert_portal_tests::postgres::{Postgres, through};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use culvert_portal_tests::random::{Random, seed};
use culvert_portal_tests::tcp_proxy::{TcpProxy, Way};
use serde_json::json;

use crate::until;

#[test]
fn clients_that_hang_up_poison_nothing() {
    hang_up(600, 150);
}

#[test]
#[ignore = "takes 5 minutes; docs/faults.md"]
fn thousands_of_clients_that_hang_up_poison_nothing() {
    hang_up(5_000, 1_000);
}

fn hang_up(times: usize, afterwards: usize) {
    let Some(server) = Postgres::shared() else { return };
    let seed = seed();
    println!("CULVERT_SEED={seed}");
    let database = server.new_database();
    let proxy = TcpProxy::start(server.address());
    let url = through(&database, proxy.address());
    let running = RunningPortal::start(&PortalOptions { database: Some(url), ..PortalOptions::default() });
    let mut admin = running.with_admin();
    let wish = json!({ "name": "load", "scopes": ["people:read", "people:write", "transfers:read"], "days": 1 });
    let secret = admin.post("/tokens", &wish).json()["secret"].as_str().unwrap().to_owned();
    proxy.delay(Way::ToServer, Duration::from_millis(50));
    let address: SocketAddr = running.url.trim_start_matches("http://").parse().unwrap();
    let random = Arc::new(Mutex::new(Random::new(seed)));
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let (random, secret) = (random.clone(), secret.clone());
            std::thread::spawn(move || {
                for number in 0..times / 16 {
                    let name = format!("hung-up-{client}-{number}");
                    let body = json!({ "name": name, "members": [] }).to_string();
                    let text = match number % 8 {
                        0 => request("GET", "/api/v1/events", &secret, None),
                        1 => request("GET", "/readyz", &secret, None),
                        _ => request("POST", "/api/v1/groups", &secret, Some(&body)),
                    };
                    let patience = random.lock().unwrap().time_below(Duration::from_millis(120));
                    let mut stream = TcpStream::connect(address).unwrap();
                    stream.write_all(text.as_bytes()).unwrap();
                    sleep(patience);
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    // What they began ends.
    let idle = "select count(*) from pg_stat_activity where datname = current_database() and \
                state like 'idle in transaction%' and clock_timestamp() - state_change > interval '1 second'";
    sleep(Duration::from_secs(2));
    assert_eq!(server.psql_in(&database, idle), "0");
    proxy.resume();
    for number in 0..afterwards {
        let made = admin.post("/groups", &json!({ "name": format!("after-{number}"), "members": [] }));
        assert_eq!(made.status, 201, "{number}: {}", made.text());
    }
    assert_eq!(server.psql_in(&database, idle), "0");
    let seen = server.psql_in(&database, "select count(*) from user_groups where name like 'after-%'");
    assert_eq!(seen, afterwards.to_string());
    until("everything has its number", || server.psql_in(&database, "select count(*) from outbox") == "0");
}
