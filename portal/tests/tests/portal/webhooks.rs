//! Webhooks of the real program to real receivers: those that take, refuse, redirect, dawdle, and
//! hang up.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::{Duration, Instant};

use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use culvert_portal_tests::sql::python;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{PATIENCE, on_both_databases, two, until};

/// Verifies a signature with Python's own library, by the text of Standard Webhooks.
const VERIFY: &str = r#"
import base64, hashlib, hmac, sys
secret, identifier, timestamp, signatures, body = sys.argv[1:]
key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
expected = hmac.new(key, f"{identifier}.{timestamp}.{body}".encode(), hashlib.sha256).digest()
found = [base64.b64decode(one.split(",", 1)[1]) for one in signatures.split(" ") if one.startswith("v1,")]
sys.exit(0 if any(hmac.compare_digest(one, expected) for one in found) else 1)
"#;

/// What a receiver does with a request.
#[derive(Debug, Clone)]
enum Does {
    Answers(&'static str),
    /// Answers so much later than it should.
    Dawdles,
    HangsUp,
    Redirects(SocketAddr),
}

/// A request that a receiver got.
#[derive(Debug, Clone)]
struct Got {
    headers: BTreeMap<String, String>,
    body: String,
}

/// A receiver of webhooks. It answers as long as the process runs.
struct Receiver {
    address: SocketAddr,
    got: Arc<Mutex<Vec<Got>>>,
    does: Arc<Mutex<Does>>,
}

impl Receiver {
    fn start(does: Does) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (got, does) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(does)));
        let (noted, behaves) = (got.clone(), does.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (noted, behaves) = (noted.clone(), behaves.clone());
                std::thread::spawn(move || serve(stream, &noted, &behaves));
            }
        });
        Self { address, got, does }
    }

    fn url(&self) -> String {
        format!("http://{}/hook?one=1", self.address)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().clone()
    }
}

fn serve(mut stream: TcpStream, noted: &Mutex<Vec<Got>>, behaves: &Mutex<Does>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            // The portal was killed while it sent this.
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once([':', ' ']).unwrap_or((&line, ""));
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    noted.lock().unwrap().push(Got { headers, body: String::from_utf8(body).unwrap() });
    let does = behaves.lock().unwrap().clone();
    match does {
        Does::Answers(status) => write!(stream, "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"),
        Does::Dawdles => {
            sleep(PATIENCE);
            Ok(())
        }
        Does::HangsUp => Ok(()),
        Does::Redirects(to) => {
            write!(stream, "HTTP/1.1 307 x\r\nlocation: http://{to}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        }
    }
}

/// Lets webhooks go to this host, as an administrator may.
fn let_inside(admin: &mut Browser) {
    let mut settings = admin.get("/settings").json();
    settings["webhooks_inside"] = json!(true);
    let changed = admin.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&settings));
    assert_eq!(changed.status, 200, "{}", changed.text());
}

fn subscribe(admin: &mut Browser, url: &str) -> (String, String) {
    let wish = json!({ "url": url, "events": ["group.created"], "enabled": true });
    let made = admin.post("/webhooks", &wish);
    assert_eq!(made.status, 201, "{}", made.text());
    let made = made.json();
    (made["webhook"]["id"].as_str().unwrap().to_owned(), made["secret"].as_str().unwrap().to_owned())
}

fn happens(admin: &mut Browser, name: &str) {
    let made = admin.post("/groups", &json!({ "name": name, "members": [] }));
    assert_eq!(made.status, 201, "{}", made.text());
}

fn deliveries(admin: &mut Browser, webhook: &str) -> Vec<Value> {
    let listed = admin.get(&format!("/webhooks/{webhook}/deliveries?limit=200"));
    assert_eq!(listed.status, 200, "{}", listed.text());
    listed.json()["items"].as_array().unwrap().clone()
}

fn is_signed(secret: &str, got: &Got) -> bool {
    let header = |name: &str| got.headers.get(name).map(String::as_str).unwrap_or_default();
    let arguments = [secret, header("webhook-id"), header("webhook-timestamp"), header("webhook-signature"), &got.body];
    python(VERIFY, &arguments).code == 0
}

on_both_databases! {
    fn receivers_of_all_kinds_get_what_is_theirs(options) {
        let running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        let_inside(&mut admin);
        let (good, victim) = (Receiver::start(Does::Answers("204 No Content")), Receiver::start(Does::Answers("200 OK")));
        let bad = [
            Receiver::start(Does::Answers("500 Internal Server Error")),
            Receiver::start(Does::Dawdles),
            Receiver::start(Does::HangsUp),
            Receiver::start(Does::Redirects(victim.address)),
        ];
        let bad_ids: Vec<String> = bad.iter().map(|receiver| subscribe(&mut admin, &receiver.url()).0).collect();
        let (good_id, secret) = subscribe(&mut admin, &good.url());
        for name in ["one", "two", "three"] {
            happens(&mut admin, name);
        }
        until("the first attempts were answered with 500", || bad[0].got().len() >= 3);
        // Noted a moment after it was heard.
        let is_noted = |all: &[Value]| all.iter().any(|delivery| delivery["fault"] == "it answered 500");
        until("a refusal is noted", || is_noted(&deliveries(&mut admin, &bad_ids[0])));
        *bad[0].does.lock().unwrap() = Does::Answers("200 OK");
        // The slow one holds back nobody.
        until("the good receiver has all three", || good.got().len() >= 3);
        for got in good.got() {
            assert!(is_signed(&secret, &got), "{got:?}");
            assert!(!is_signed("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=", &got));
            assert!(!is_signed(&secret, &Got { body: got.body.replace("group", "graup"), ..got.clone() }));
            assert_eq!(got.headers["content-type"], "application/json");
            let content: Value = serde_json::from_str(&got.body).unwrap();
            assert_eq!(content["type"], "group.created");
        }
        until("the good receiver's are delivered", || {
            deliveries(&mut admin, &good_id).iter().all(|delivery| delivery["state"] == "delivered")
        });
        let expected = ["did not answer within 10 s", "cannot be reached", "redirects are not followed"];
        for (id, words) in bad_ids[1..].iter().zip(expected) {
            until(words, || {
                let all = deliveries(&mut admin, id);
                all.len() == 3 && all.iter().all(|one| one["fault"].as_str().is_some_and(|fault| fault.contains(words)))
            });
            assert!(deliveries(&mut admin, id).iter().all(|one| one["state"] == "waiting" && one["next_at"].is_string()));
        }
        assert!(victim.got().is_empty(), "a redirect was followed");
        // The one that failed goes again with the same identifier and content.
        until("what failed is delivered", || {
            deliveries(&mut admin, &bad_ids[0]).iter().all(|delivery| delivery["state"] == "delivered")
        });
        let mut bodies: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for got in bad[0].got() {
            bodies.entry(got.headers["webhook-id"].clone()).or_default().push(got.body);
        }
        assert_eq!(bodies.len(), 3);
        assert!(bodies.values().all(|same| same.len() >= 2 && same.iter().all(|body| *body == same[0])));
    }

    fn nobody_reaches_the_inside_unless_an_administrator_lets_them(options) {
        let running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        let inside = Receiver::start(Does::Answers("200 OK"));
        let port = inside.address.port();
        for (url, words) in [
            (format!("http://127.0.0.1:{port}/"), "https://"),
            (format!("https://127.0.0.1:{port}/"), "not a public address"),
            (format!("https://[::1]:{port}/"), "not a public address"),
            (format!("https://[::ffff:127.0.0.1]:{port}/"), "not a public address"),
            (format!("https://2130706433:{port}/"), "not a public address"),
            ("https://169.254.169.254/latest/meta-data".to_owned(), "not a public address"),
            ("https://user:secret@example.org/".to_owned(), "user or password"),
            ("file:///etc/passwd".to_owned(), "only https://"),
            (String::new(), "url"),
        ] {
            let refused = admin.post("/webhooks", &json!({ "url": url, "events": ["*"], "enabled": true }));
            assert_eq!((refused.status, &refused.json()["field"]), (422, &json!("url")), "{url}: {}", refused.text());
            assert!(refused.text().contains(words) && !refused.text().contains("secret"), "{url}: {}", refused.text());
        }
        // A name leads where it leads only when something is sent.
        let (id, _) = subscribe(&mut admin, &format!("https://localhost:{port}/"));
        let tested = admin.post(&format!("/webhooks/{id}/test"), &json!({}));
        assert_eq!(tested.status, 202, "{}", tested.text());
        let place = tested.header("location").unwrap().trim_start_matches("/api/v1").to_owned();
        until("the test has failed", || {
            admin.get(&place).json()["fault"].as_str().is_some_and(|fault| fault.contains("not a public address"))
        });
        assert!(inside.got().is_empty());
        let_inside(&mut admin);
        let (id, secret) = subscribe(&mut admin, &inside.url());
        let tested = admin.post(&format!("/webhooks/{id}/test"), &json!({}));
        assert_eq!(tested.status, 202, "{}", tested.text());
        until("the test arrives", || inside.got().len() == 1);
        assert!(is_signed(&secret, &inside.got()[0]));
    }

    /// Killed again and again while it sends: each event arrives, under one identifier.
    fn a_portal_that_is_killed_loses_no_delivery(options) {
        let state_folder = folder();
        let state = state_folder.path().join("state");
        let mut running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        running.process.end_by(Signal::TERM);
        std::fs::rename(&running.state, &state).unwrap();
        running = RunningPortal::start_again(&state, &options);
        admin = admin.at(&running.url);
        let_inside(&mut admin);
        let receiver = Receiver::start(Does::Answers("200 OK"));
        let (id, _) = subscribe(&mut admin, &receiver.url());
        let mut made = 0;
        for round in 0..5 {
            for number in 0..20 {
                happens(&mut admin, &format!("round-{round}-{number}"));
                made += 1;
            }
            sleep(Duration::from_millis(7 * round));
            running.process.signal(Signal::KILL);
            running.process.wait(PATIENCE);
            running = RunningPortal::start_again(&state, &options);
            admin = admin.at(&running.url);
        }
        let began = Instant::now();
        until("all are delivered", || {
            let all = deliveries(&mut admin, &id);
            all.len() == made && all.iter().all(|delivery| delivery["state"] == "delivered")
        });
        let mut groups: BTreeMap<String, String> = BTreeMap::new();
        for got in receiver.got() {
            let content: Value = serde_json::from_str(&got.body).unwrap();
            let group = content["data"]["id"].as_str().unwrap().to_owned();
            let known = groups.entry(group).or_insert_with(|| got.headers["webhook-id"].clone());
            assert_eq!(*known, got.headers["webhook-id"], "a repetition has another identifier");
        }
        assert_eq!(groups.len(), made);
        println!("{} requests for {made} events, the last {:?} after the last start", receiver.got().len(), began.elapsed());
    }
}

#[test]
fn two_portals_deliver_each_event_once() {
    let Some(server) = culvert_portal_tests::postgres::Postgres::shared() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let portals = two(&options);
    // The newest link is the good one.
    let mut admin = portals[1].with_admin();
    let_inside(&mut admin);
    let receiver = Receiver::start(Does::Answers("200 OK"));
    let (id, _) = subscribe(&mut admin, &receiver.url());
    let clients: Vec<_> = portals
        .iter()
        .enumerate()
        .map(|(number, portal)| {
            let mut admin = admin.at(&portal.url);
            std::thread::spawn(move || (0..60).for_each(|one| happens(&mut admin, &format!("p{number}-{one}"))))
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    until("all are delivered", || {
        let all = deliveries(&mut admin, &id);
        all.len() == 120 && all.iter().all(|delivery| delivery["state"] == "delivered" && delivery["attempts"] == 1)
    });
    assert_eq!(receiver.got().len(), 120);
}
