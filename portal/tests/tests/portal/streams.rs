//! Streams of events: how many one person may have, what they hear when events are gone, and that
//! they end, at every portal, when whoever follows is let in no more.

use std::time::{Duration, Instant};

use culvert_portal_tests::http::{Answer, Client, OpenAnswer, Request};
use culvert_portal_tests::live::LivePortal;
use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use serde_json::json;

use crate::{two, until};

/// Streams that one person may have at one portal.
const OF_PERSON_MAX: usize = 500;
/// Documented are five seconds; a loaded host is given more.
const ENDS_WITHIN: Duration = Duration::from_secs(15);

fn try_open(url: &str, header: (&str, &str), last: Option<&str>) -> OpenAnswer {
    let request = Request::new("GET", &format!("{url}/api/v1/events")).with(header.0, header.1);
    let request = last.map_or(request.clone(), |last| request.with("last-event-id", last));
    Client::new().open(&request).expect("an answer")
}

fn open(url: &str, header: (&str, &str)) -> OpenAnswer {
    let stream = try_open(url, header, None);
    assert_eq!(stream.answer.status, 200);
    stream
}

/// The first event: its kind, if it has one, and its number.
fn first(stream: &mut OpenAnswer) -> (Option<String>, String) {
    let mut kind = None;
    loop {
        let line = stream.next_line().expect("a line").expect("the stream goes on");
        if let Some(word) = line.strip_prefix("event: ") {
            kind = Some(word.to_owned());
        }
        if let Some(number) = line.strip_prefix("id: ") {
            let number = number.to_owned();
            // The kind may stand behind the number.
            while let Some(line) = stream.next_line().expect("a line").filter(|line| !line.is_empty()) {
                if let Some(word) = line.strip_prefix("event: ") {
                    kind = Some(word.to_owned());
                }
            }
            return (kind, number);
        }
    }
}

live_on_both_databases! {
    fn nobody_takes_all_places(portal) {
        let mut admin = portal.with_admin();
        admin.make_person("boole", &["user"]);
        let secret = format!("Bearer {}", admin.make_token(&["transfers:read"]));
        let mut other = portal.log_in("boole");
        let others = format!("Bearer {}", other.make_token(&["transfers:read"]));
        let mut streams: Vec<OpenAnswer> =
            (0..OF_PERSON_MAX).map(|_| open(&portal.url, ("authorization", &secret))).collect();
        let refused = ask_for_one_more(&portal, &secret);
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert_eq!(refused.json()["code"], "too-many");
        assert!(refused.header("retry-after").is_some_and(|text| text.parse::<u32>().is_ok()));
        // Others have theirs.
        drop(open(&portal.url, ("authorization", &others)));
        // A place that is given back can be taken.
        streams.truncate(OF_PERSON_MAX - 1);
        assert_eq!(admin.post("/groups", &json!({ "name": "noticed", "members": [] })).status, 201);
        until("the place is free", || {
            try_open(&portal.url, ("authorization", &secret), None).answer.status == 200
        });
    }

    fn whoever_was_away_too_long_is_told(portal) {
        let mut admin = portal.with_admin();
        let secret = format!("Bearer {}", admin.make_token(&["transfers:read"]));
        for number in 0..10 {
            let made = admin.post("/groups", &json!({ "name": format!("g{number}"), "members": [] }));
            assert_eq!(made.status, 201, "{}", made.text());
        }
        let database = portal.database();
        until("all have their numbers", || database.number("SELECT COUNT(*) FROM outbox") == 0);
        let head = database.number("SELECT MAX(number) FROM events");
        database.execute(&format!("DELETE FROM events WHERE number <= {}", head - 3));
        let begin = |last: i64| {
            let mut stream = try_open(&portal.url, ("authorization", &secret), Some(&last.to_string()));
            assert_eq!(stream.answer.status, 200);
            first(&mut stream)
        };
        let gap = (Some("gap".to_owned()), head.to_string());
        assert_eq!(begin(head - 4), gap, "one in between is gone");
        assert_eq!(begin(0), gap);
        assert_eq!(begin(head + 1), gap, "a number that was never given, as after a restore");
        assert_eq!(begin(head - 3), (None, (head - 3).to_string()), "nothing that was not seen is gone");
        assert_eq!(begin(head), (None, head.to_string()));
        database.execute("DELETE FROM events");
        assert_eq!(begin(head - 1), gap);
        assert_eq!(begin(head), (None, head.to_string()));
        for bad in ["-1", "x", "", "1.5", "99999999999999999999"] {
            let refused = try_open(&portal.url, ("authorization", &secret), Some(bad)).answer;
            assert_eq!(refused.status, 400, "{bad}");
        }
    }

    fn a_stream_ends_with_what_it_was_opened_with(portal) {
        let admin = portal.with_admin();
        ends_everywhere(admin, &[portal.url.as_str()]);
    }
}

#[test]
fn a_stream_ends_at_the_other_portal_too() {
    let Some(server) = Postgres::shared() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let portals: [RunningPortal; 2] = two(&options);
    // The newest link is the good one.
    let admin = portals[1].with_admin();
    ends_everywhere(admin.at(&portals[0].url), &[&portals[0].url, &portals[1].url]);
}

fn ask_for_one_more(portal: &LivePortal, secret: &str) -> Answer {
    let request = Request::new("GET", &format!("{}/api/v1/events", portal.url));
    Client::new().send(&request.with("authorization", secret)).expect("an answer")
}

/// A revoked session's, a revoked token's, and everything of somebody who is deactivated.
fn ends_everywhere(mut admin: Browser, urls: &[&str]) {
    let (boole, curie) = (admin.make_person("boole", &["user"]), admin.make_person("curie", &["user"]));
    let session = Person::log_in(urls[0], "boole");
    let mut token = Person::log_in(urls[0], "boole");
    token.take_token();
    let (cookie_of_curie, mut token_of_curie) = (Person::log_in(urls[0], "curie"), Person::log_in(urls[0], "curie"));
    token_of_curie.take_token();
    let standing = Person::log_in(urls[0], "boole");
    let mut still_open = standing.open_at(urls);

    let streams = session.open_at(urls);
    let revoked = admin.send("DELETE", &format!("/sessions/{}", session.id), &[], None);
    assert_eq!(revoked.status, 204, "{}", revoked.text());
    all_end(streams, "a session that was revoked");

    let streams = token.open_at(urls);
    let revoked = admin.send("DELETE", &format!("/tokens/{}", token.id), &[], None);
    assert_eq!(revoked.status, 204, "{}", revoked.text());
    all_end(streams, "a token that was revoked");

    let streams = [cookie_of_curie.open_at(urls), token_of_curie.open_at(urls)].into_iter().flatten().collect();
    let path = format!("/users/{curie}");
    let version = admin.get(&path).header("etag").expect("a version").to_owned();
    let out = admin.send("PATCH", &path, &[("if-match", &version)], Some(&json!({ "state": "deactivated" })));
    assert_eq!(out.status, 200, "{}", out.text());
    all_end(streams, "somebody who was deactivated");
    for url in urls {
        for person in [&cookie_of_curie, &token_of_curie] {
            let header = (person.header.0, person.header.1.as_str());
            assert_eq!(try_open(url, header, None).answer.status, 401, "{url}");
        }
    }
    // Those of others have gone on.
    let version = admin.get(&format!("/users/{boole}")).header("etag").expect("a version").to_owned();
    let wish = json!({ "display_name": "George" });
    let changed = admin.send("PATCH", &format!("/users/{boole}"), &[("if-match", &version)], Some(&wish));
    assert_eq!(changed.status, 200, "{}", changed.text());
    for stream in &mut still_open {
        stream.wait_for("user.changed");
    }
}

/// Somebody, with what they show.
struct Person {
    browser: Browser,
    header: (&'static str, String),
    id: String,
}

impl Person {
    fn log_in(url: &str, name: &str) -> Self {
        let body = json!({ "name": name, "password": culvert_portal_tests::program::PASSWORD });
        let mut client = Client::new();
        let answer = client.post_json(&format!("{url}/api/v1/sessions"), &body);
        assert_eq!(answer.status, 201, "{}", answer.text());
        let cookie = answer.header("set-cookie").and_then(|text| text.split(';').next()).expect("a cookie").to_owned();
        let id = answer.json()["session"]["id"].as_str().expect("an identifier").to_owned();
        Self { browser: Browser::with(client, url), header: ("cookie", cookie), id }
    }

    fn take_token(&mut self) {
        let wish = json!({ "name": "stream", "scopes": ["transfers:read"], "days": 1 });
        let made = self.browser.post("/tokens", &wish);
        assert_eq!(made.status, 201, "{}", made.text());
        let text = |place: &str| made.json().pointer(place).and_then(|value| value.as_str()).unwrap().to_owned();
        self.header = ("authorization", format!("Bearer {}", text("/secret")));
        self.id = text("/token/id");
    }

    fn open_at(&self, urls: &[&str]) -> Vec<OpenAnswer> {
        urls.iter().map(|url| open(url, (self.header.0, &self.header.1))).collect()
    }
}

fn all_end(streams: Vec<OpenAnswer>, whose: &str) {
    let began = Instant::now();
    for mut stream in streams {
        while stream.next_line().expect("no stream is cut").is_some() {
            assert!(began.elapsed() < ENDS_WITHIN, "the stream of {whose} goes on");
        }
        println!("the stream of {whose} at {} ended after {:?}", stream.answer.url, began.elapsed());
    }
}
