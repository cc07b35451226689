//! A portal that is told to stop: streams end in good order, and their readers go on elsewhere.

use std::time::{Duration, Instant};

use culvert_portal_tests::http::{Client, OpenAnswer, Request};
use culvert_portal_tests::nginx::Nginx;
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use rustix::process::Signal;
use serde_json::json;

use crate::{PATIENCE, on_both_databases, two};

const STREAMS: usize = 200;

/// Opens a stream behind a number; gives it with the number at which it begins.
fn open(client: &mut Client, url: &str, secret: &str, last: Option<&str>) -> (OpenAnswer, String) {
    let request = Request::new("GET", &format!("{url}/api/v1/events"));
    let request = request.with("authorization", &format!("Bearer {secret}"));
    let request = last.map_or(request.clone(), |last| request.with("last-event-id", last));
    let mut stream = client.open(&request).expect("a stream");
    assert_eq!(stream.answer.status, 200);
    let number = stream.wait_for("id: ").trim_start_matches("id: ").to_owned();
    (stream, number)
}

/// Reads a stream to its end, and gives the last number in it; `None` if it goes on, with a text in
/// it.
fn last_before(stream: &mut OpenAnswer, begun: String, text: &str) -> Option<String> {
    let mut last = begun;
    while let Some(line) = stream.next_line().expect("no stream is cut") {
        if line.contains(text) {
            return None;
        }
        if let Some(number) = line.strip_prefix("id: ") {
            number.clone_into(&mut last);
        }
    }
    Some(last)
}

on_both_databases! {
    fn two_hundred_idle_streams_do_not_hold_it_up(options) {
        let mut running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        let secret = admin.make_token(&["transfers:read"]);
        let mut client = Client::new();
        let streams: Vec<OpenAnswer> =
            (0..STREAMS).map(|_| open(&mut client, &running.url, &secret, None).0).collect();
        let began = Instant::now();
        running.process.signal(Signal::TERM);
        let status = running.process.wait(PATIENCE).expect("it ends");
        println!("stopped after {:?}", began.elapsed());
        assert!(status.success(), "{status}");
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        // The last chunk has no length: the stream ended, and was not cut.
        for mut stream in streams {
            let mut last = String::new();
            while let Some(line) = stream.next_line().expect("no stream is cut") {
                if !line.is_empty() {
                    last = line;
                }
            }
            assert_eq!(last, "0");
        }
        assert!(running.run(&options, ["audit", "verify"]).succeeds().out.contains("is whole"));
    }
}

#[test]
fn readers_behind_nginx_go_on_at_the_other_portal_and_miss_nothing() {
    let Some(server) = culvert_portal_tests::postgres::Postgres::shared() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let mut portals = two(&options);
    let addresses: Vec<_> =
        portals.iter().map(|portal| portal.url.trim_start_matches("http://").parse().unwrap()).collect();
    let Some(nginx) = Nginx::start_shipped(&addresses) else { return };
    let mut admin = portals[1].with_admin();
    let secret = admin.make_token(&["transfers:read"]);
    let mut client = Client::trusting(&std::fs::read_to_string(nginx.authority_file()).unwrap());
    // 100 at each of the two.
    let streams: Vec<_> = (0..STREAMS).map(|_| open(&mut client, &nginx.url(), &secret, None)).collect();
    assert_eq!(admin.post("/groups", &json!({ "name": "before", "members": [] })).status, 201);
    let [first, _] = &mut portals;
    let began = Instant::now();
    first.process.signal(Signal::TERM);
    let while_stopping =
        admin.post("/groups", &json!({ "name": "while-stopping", "members": [] })).json()["id"].clone();
    assert!(first.process.wait(PATIENCE).expect("it ends").success());
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut ended = 0;
    for (mut stream, begun) in streams {
        let Some(seen) = last_before(&mut stream, begun, while_stopping.as_str().unwrap()) else { continue };
        ended += 1;
        // Its stream has ended: it goes on behind the last number.
        let (mut again, _) = open(&mut client, &nginx.url(), &secret, Some(&seen));
        again.wait_for(while_stopping.as_str().unwrap());
    }
    println!("{ended} of {STREAMS} streams moved");
    assert!(ended > 0, "some streams were at the portal that stopped");
    assert!(!nginx.error_log().contains("upstream prematurely closed"), "{}", nginx.error_log());
}
