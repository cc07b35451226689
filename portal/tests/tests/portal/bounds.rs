//! Requests that are too slow or too long are refused in the portal's own words.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::program::{PortalOptions, RunningPortal};

use crate::PATIENCE;

/// Sends bytes as they are, and reads until the connection ends.
fn exchange(portal: &RunningPortal, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(portal.url.trim_start_matches("http://")).expect("the portal listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a TCP socket");
    let mut answer = Vec::new();
    // A portal that has refused need not read the rest, and may reset the connection.
    let _ = stream.write_all(bytes);
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_content_that_does_not_come_is_not_waited_for() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let token = portal.with_admin().make_token(&["people:write"]);
    let head = |more: &str| {
        format!(
            "POST /api/v1/groups HTTP/1.1\r\nhost: portal\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: 100\r\n{more}\r\n{{\"name\": "
        )
    };
    let texts = [head(""), head("idempotency-key: slow\r\n")];
    let (portal, began) = (&portal, Instant::now());
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asking = texts.each_ref().map(|text| scope.spawn(move || exchange(portal, text.as_bytes())));
        asking.into_iter().map(|one| one.join().expect("an answer")).collect()
    });
    assert!(began.elapsed() >= Duration::from_secs(19), "{:?}", began.elapsed());
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
        assert!(answer.contains("content-type: application/problem+json"), "{answer}");
        assert!(answer.contains("\"code\":\"slow-request\""), "{answer}");
    }
}

#[test]
fn a_head_that_is_too_long_is_refused_in_the_portals_words() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let url = format!("{}/api/v1/login/providers", portal.url);
    let with = |names: usize, bytes: usize| {
        let request = Request::new("GET", &url);
        (0..names).fold(request, |request, number| request.with(&format!("x-{number}"), &"x".repeat(bytes)))
    };
    for (what, good) in [("many", with(60, 1)), ("long", with(1, 31 * 1024))] {
        assert_eq!(Client::new().send(&good).expect("an answer").status, 200, "{what}");
    }
    let long_query = Request::new("GET", &format!("{url}?x={}", "x".repeat(33 * 1024)));
    for (what, bad) in [("many", with(70, 1)), ("long", with(1, 33 * 1024)), ("a long query", long_query)] {
        let refused = Client::new().send(&bad).expect("an answer");
        assert_eq!(refused.status, 431, "{what}");
        assert_eq!(refused.header("content-type"), Some("application/problem+json"), "{what}");
        assert_eq!(refused.json()["code"], "headers-too-large", "{what}");
        assert!(refused.header("x-request-id").is_some(), "{what}: the log has it");
    }
    // What is far too long is cut off by the HTTP library.
    let far = format!("GET / HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "x".repeat(1 << 20));
    let answer = exchange(&portal, far.as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(Client::new().get(&url).status, 200, "others are served");
}
