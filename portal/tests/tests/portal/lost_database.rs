//! A PostgreSQL that stops, comes back, loses its connections, or is not heard when it answers.

use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_portal_tests::http::Client;
use culvert_portal_tests::postgres::{Postgres, through};
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use culvert_portal_tests::tcp_proxy::{Reaction, TcpProxy};
use serde_json::{Value, json};

use crate::{PATIENCE, all_rows, is_unavailable, until};

fn token(name: &str) -> Value {
    json!({ "name": name, "scopes": ["people:read"], "days": 1 })
}

fn count(admin: &mut Browser, name: &str) -> usize {
    all_rows(admin, "/tokens").iter().filter(|token| token["name"] == name).count()
}

/// Repeats a request with its key until it is answered; gives the last answer's status.
fn insist(admin: &mut Browser, name: &str) -> u16 {
    let deadline = Instant::now() + 2 * PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{name} has no answer");
        let answer = admin.send("POST", "/tokens", &[("idempotency-key", name)], Some(&token(name)));
        let is_waiting = answer.status == 409 && answer.text().contains("being worked on");
        if !is_waiting && !is_unavailable(&answer) {
            return answer.status;
        }
        sleep(Duration::from_millis(200));
    }
}

#[test]
fn a_server_that_stops_is_told_and_its_return_noticed() {
    let Some(server) = Postgres::start() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let mut client = Client::new();
    for end in [Postgres::stop, Postgres::kill] {
        end(&server);
        let answer = admin.send("POST", "/tokens", &[("idempotency-key", "while-away")], Some(&token("while-away")));
        assert!(is_unavailable(&answer), "{} {}", answer.status, answer.text());
        assert!(is_unavailable(&admin.get("/users")));
        assert_eq!(client.get(&format!("{}/readyz", running.url)).status, 503);
        assert_eq!(client.get(&format!("{}/healthz", running.url)).status, 200);
        server.restart();
        until("the portal is ready again", || client.get(&format!("{}/readyz", running.url)).status == 200);
        assert_eq!(insist(&mut admin, "while-away"), 201);
        assert_eq!(count(&mut admin, "while-away"), 1);
    }
    assert!(running.run(&options, ["audit", "verify"]).succeeds().out.contains("is whole"));
}

#[test]
fn connections_that_are_cut_lose_and_double_nothing() {
    let Some(server) = Postgres::shared() else { return };
    let proxy = TcpProxy::start(server.address());
    let options =
        PortalOptions { database: Some(through(&server.new_database(), proxy.address())), ..PortalOptions::default() };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let clients: Vec<_> = (0..4)
        .map(|worker| {
            let mut admin = admin.clone();
            std::thread::spawn(move || {
                (0..25).for_each(|number| {
                    // 409: it was carried out, but its answer was lost.
                    let status = insist(&mut admin, &format!("cut-{worker}-{number}"));
                    assert!([201, 409].contains(&status), "{status}");
                });
            })
        })
        .collect();
    while clients.iter().any(|client| !client.is_finished()) {
        sleep(Duration::from_millis(150));
        proxy.cut();
    }
    clients.into_iter().for_each(|client| client.join().expect("each deed was answered"));
    let mut names: Vec<String> =
        all_rows(&mut admin, "/tokens").iter().map(|token| token["name"].as_str().unwrap().to_owned()).collect();
    names.sort();
    let mut expected: Vec<String> =
        (0..4).flat_map(|worker| (0..25).map(move |number| format!("cut-{worker}-{number}"))).collect();
    expected.sort();
    assert_eq!(names, expected);
    assert!(running.run(&options, ["audit", "verify"]).succeeds().out.contains("is whole"));
}

/// The change is committed, and the portal never hears of it.
#[test]
fn a_commit_whose_answer_is_lost_is_not_carried_out_twice() {
    let Some(server) = Postgres::shared() else { return };
    let proxy = TcpProxy::start(server.address());
    let options =
        PortalOptions { database: Some(through(&server.new_database(), proxy.address())), ..PortalOptions::default() };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let mut unheard = 0;
    for number in 0..6 {
        let name = format!("lost-{number}");
        // The first commit of a request is of its key; the second of its change.
        proxy.when_seen(b"COMMIT", Reaction::Delay(Duration::from_millis(300)));
        let before = proxy.seen();
        let client = {
            let (mut admin, name) = (admin.clone(), name.clone());
            std::thread::spawn(move || {
                admin.send("POST", "/tokens", &[("idempotency-key", &name)], Some(&token(&name)))
            })
        };
        until("the key's commit has passed", || proxy.seen() > before);
        proxy.resume();
        proxy.when_seen(b"COMMIT", Reaction::CutAfter);
        let answer = client.join().expect("an answer");
        let is_lost = is_unavailable(&answer);
        assert!(is_lost || answer.status == 201, "{}", answer.text());
        proxy.resume();
        let status = insist(&mut admin, &name);
        assert!(status == 201 || (is_lost && status == 409), "{status}");
        unheard += u32::from(status == 409);
        assert_eq!(count(&mut admin, &name), 1, "{name}: {status}");
    }
    assert!(unheard > 0, "some change was committed and not heard of");
}
