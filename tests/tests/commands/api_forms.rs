//! What the node's API takes: requests that mean nothing are refused by the name of their field,
//! and no transfer of them exists.

use std::fs;
use std::path::Path;

use culvert_tests::api::{call, push_request};
use culvert_tests::node::Pair;
use serde_json::{Value, json};

/// Regression: `x` was stored in `/x`, and a transfer of no source was recorded.
#[test]
fn a_request_that_means_nothing_is_refused_by_the_name_of_its_field() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("file");
    fs::write(&source, "content").unwrap();
    let good: Value = serde_json::from_str(&push_request(&source, Path::new("in"), None)).unwrap();
    let pull = |sources: Value, destination: &str| json!({"pull": {"sources": sources, "destination": destination}});
    let push = |sources: Value, destination: &str| json!({"push": {"sources": sources, "destination": destination}});
    let long = "/x".repeat(3_000);
    let cases = [
        ("movement", pull(json!(["x"]), "culvert-relative"), "destination"),
        ("movement", pull(json!(["x"]), ""), "destination"),
        ("movement", pull(json!(["x"]), "../x"), "destination"),
        ("movement", pull(json!(["x"]), "/x\0y"), "destination"),
        ("movement", pull(json!([]), "/tmp/x"), "sources"),
        ("movement", push(json!([]), "in"), "sources"),
        ("movement", push(json!([""]), "in"), "sources"),
        ("movement", push(json!(["etc/hostname"]), "in"), "sources"),
        ("movement", push(json!([long]), "in"), "sources"),
        ("movement", push(json!(["/etc/hostname"]), "in\0"), "destination"),
        ("movement", json!({"measure": {"bytes": 0}}), "bytes"),
        ("target", json!({"profile": ""}), "target"),
        ("target", json!({"address": {"host": "", "port": 7272}}), "target"),
        ("target", json!({"address": {"host": "h", "port": 0}}), "target"),
    ];
    for (field, value, told) in cases {
        let mut request = good.clone();
        request[field] = value;
        let (status, answer) = call(&pair.there, "POST", "/v1/transfers", &request.to_string());
        assert_eq!((status, &answer["code"]), (400, &json!("usage")), "{request}: {answer}");
        assert!(answer["text"].as_str().unwrap().contains(told), "{told}: {answer}");
    }
    let options = [("chunk_bytes", json!(0)), ("flows", json!(60_000)), ("rate_bits_per_second", json!(0))];
    for (option, value) in options {
        let mut request = good.clone();
        request["options"][option] = value;
        let (status, answer) = call(&pair.there, "POST", "/v1/transfers", &request.to_string());
        assert!(status == 400 && answer["text"].as_str().unwrap().contains(option), "{status}: {answer}");
    }
    assert!(!Path::new("/culvert-relative").exists());
    assert_eq!(call(&pair.there, "GET", "/v1/transfers", "").1, json!([]), "a transfer was recorded");
}

/// Regression: some answers were plain text, and a capture of nothing began.
#[test]
fn every_refusal_is_a_problem_with_a_text() {
    let pair = Pair::new();
    let _node = pair.start();
    for (method, path, body, expected) in [
        ("POST", "/v1/transfers", "", 400),
        ("POST", "/v1/transfers", "{", 400),
        ("POST", "/v1/transfers", "{}", 422),
        ("GET", "/v1/transfers/x", "", 400),
        ("GET", "/v1/transfers/..", "", 400),
        ("POST", "/v1/transfers/x/cancel", "", 400),
        ("POST", "/v1/transfers/x/pause", "", 400),
        ("POST", "/v1/transfers/x/resume", "", 400),
        ("POST", "/v1/transfers/x/restart", "", 400),
        ("GET", "/v1/capture?packets=0", "", 400),
        ("GET", "/v1/capture?packets=-1", "", 400),
        ("GET", "/v1/capture?seconds=0", "", 400),
        ("GET", "/v1/capture?seconds=-1", "", 400),
        ("GET", "/v1/capture?seconds=NaN", "", 400),
        ("GET", "/v1/capture?snap_bytes=0", "", 400),
        ("GET", "/v1/capture?snap_bytes=99999999", "", 400),
        ("GET", "/v1/capture?lane=60000", "", 400),
        ("GET", "/v1/capture?lane=x", "", 400),
        ("POST", "/v1/capture/x/stop", "", 400),
        ("POST", "/v1/capture/7/stop", "", 404),
        ("GET", "/v1/nothing", "", 404),
        ("DELETE", "/v1/transfers", "", 405),
    ] {
        let (status, answer) = call(&pair.there, method, path, body);
        assert_eq!(status, expected, "{method} {path}: {answer}");
        let told = |field: &str| answer[field].as_str().is_some_and(|text| !text.is_empty());
        assert!(told("code") && told("text"), "{method} {path}: {answer}");
    }
}
