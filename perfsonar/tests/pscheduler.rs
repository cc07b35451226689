//! The pScheduler client against a server that imitates the documented API and its failures.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use culvert_perfsonar::http::{Client as HttpClient, HttpError, Trust};
use culvert_perfsonar::pscheduler::{Client, SchedulerError, TestKind, TestRequest};
use serde_json::{Value, json};
use tokio::net::TcpListener;

const TASK: &str = "1b4e28ba-2fa1-11d2-883f-0016d3cca427";
const RUN: &str = "7d444840-9dc0-11d1-b245-5ffdce74fad2";

/// What the server does.
#[derive(Debug, Default)]
struct Script {
    /// Answer to a task's submission, if not its address.
    submit: Option<(u16, String)>,
    /// States of the run, one for each request; the last one stays.
    states: Vec<&'static str>,
    result: Value,
    /// How many times it answers 503 before anything else.
    trouble: AtomicU32,
    questions: AtomicU32,
    tasks: Mutex<Vec<Value>>,
    deleted: AtomicU32,
    /// What the run's address answers instead.
    garbage: Option<Vec<u8>>,
}

type Shared = Arc<Script>;

fn href(rest: &str) -> String {
    // Its own name, which is not the one it is reached by.
    format!("https://ps1.internal.example.org/pscheduler/{rest}")
}

async fn submit(State(script): State<Shared>, body: Bytes) -> Response {
    script.tasks.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    match &script.submit {
        Some((status, text)) => (StatusCode::from_u16(*status).unwrap(), text.clone()).into_response(),
        None => Json(href(&format!("tasks/{TASK}"))).into_response(),
    }
}

async fn task(State(script): State<Shared>) -> Response {
    if script.trouble.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        return (StatusCode::SERVICE_UNAVAILABLE, "database is away").into_response();
    }
    Json(json!({ "schema": 1, "detail": { "first-run-href": href(&format!("tasks/{TASK}/runs/first")) } }))
        .into_response()
}

async fn run(State(script): State<Shared>, Path((_, _)): Path<(String, String)>, request: Request) -> Response {
    assert!(request.uri().query().unwrap().contains("wait-merged"), "{}", request.uri());
    if let Some(garbage) = &script.garbage {
        return garbage.clone().into_response();
    }
    let number = script.questions.fetch_add(1, Ordering::Relaxed) as usize;
    let state = *script.states.get(number).or(script.states.last()).unwrap();
    if state == "404" {
        return (StatusCode::NOT_FOUND, "no such run").into_response();
    }
    let is_over = matches!(state, "finished");
    Json(json!({
        "href": href(&format!("tasks/{TASK}/runs/{RUN}")), "state": state, "state-display": state, "start-time": "2026-08-20T10:00:05+00:00",
        "end-time": "2026-08-20T10:00:30+00:00", "participants": ["ps1", null], "errors": if state == "failed" { json!("tool exploded") } else { Value::Null },
        "result-merged": if is_over { script.result.clone() } else { Value::Null }, "unknown-field-of-a-later-version": 5,
    }))
    .into_response()
}

async fn delete(State(script): State<Shared>) -> Response {
    script.deleted.fetch_add(1, Ordering::Relaxed);
    StatusCode::OK.into_response()
}

async fn server(script: Script) -> (Client, Shared) {
    let shared = Arc::new(script);
    let router = Router::new()
        .route("/pscheduler/api", get(|| async { Json(6) }))
        .route("/pscheduler/hostname", get(|| async { Json("ps1.example.org") }))
        .route("/pscheduler/tests", get(|| async { Json(json!([href("tests/rtt"), href("tests/trace")])) }))
        .route(
            "/pscheduler/tools",
            get(|| async {
                Json(json!([
                    { "can-run": { "can-run": true }, "tool": { "name": "twping" } },
                    { "can-run": { "can-run": false, "reasons": ["absent"] }, "tool": { "name": "nuttcp" } },
                ]))
            }),
        )
        .route("/pscheduler/tasks", post(submit))
        .route("/pscheduler/tasks/{task}", get(task).delete(delete))
        .route("/pscheduler/tasks/{task}/runs/{run}", get(run))
        .with_state(shared.clone());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Client::new(&address, http()), shared)
}

fn http() -> HttpClient {
    HttpClient::new(&Trust::Insecure, Duration::from_secs(10)).unwrap()
}

const LIMIT: Duration = Duration::from_secs(30);

async fn follow(
    client: &Client,
    kind: TestKind,
    limit: Duration,
) -> Result<culvert_perfsonar::pscheduler::Outcome, SchedulerError> {
    let task = client.submit(&TestRequest::new(kind, "dtn1")).await?;
    let run = client.follow(&task, limit, |_| {}).await?;
    client.outcome(kind, &run)
}

#[tokio::test]
async fn discovery_lists_what_can_run() {
    let (client, _) = server(Script::default()).await;
    let found = client.discover().await.unwrap();
    assert_eq!((found.api, found.hostname.as_str()), (6, "ps1.example.org"));
    assert_eq!((found.tests, found.tools), (vec!["rtt".to_owned(), "trace".to_owned()], vec!["twping".to_owned()]));
}

#[tokio::test]
async fn every_test_is_submitted_followed_and_read() {
    let throughput = json!({"throughput-bits": 9.41e9, "receiver-throughput-bits": 9.40e9, "retransmits": 3, "stream-id": "SUM", "start": 0.0, "end": 10.0});
    let results = [
        (
            TestKind::Rtt,
            json!({"schema":1,"succeeded":true,"sent":5,"received":5,"lost":0,"loss":0.0,"duplicates":0,"reorders":0,"min":"PT0.0241S","max":"PT0.0249S","mean":"PT0.0244S","stddev":"PT0.0003S","roundtrips":[]}),
        ),
        (
            TestKind::Throughput,
            json!({"schema":1,"succeeded":true,"mtu":9000,"intervals":[],"summary":{"streams":[throughput],"summary":throughput}}),
        ),
        (
            TestKind::Latency,
            json!({"schema":1,"succeeded":true,"packets-sent":100,"packets-received":99,"packets-lost":1,"packets-duplicated":0,"packets-reordered":2,"max-clock-error":0.12,"histogram-latency":{"12.31":60,"12.32":39},"histogram-ttl":{"57":99}}),
        ),
        (
            TestKind::Trace,
            json!({"schema":1,"succeeded":true,"paths":[[{"ip":"192.0.2.1","rtt":"PT0.0003S","mtu":9000},{},{"ip":"198.51.100.7"}]]}),
        ),
        (TestKind::Mtu, json!({"schema":1,"succeeded":true,"mtu":9000})),
    ];
    for (kind, result) in results {
        let script = Script {
            states: vec!["404", "pending", "running", "finished"],
            result,
            trouble: AtomicU32::new(2),
            ..Script::default()
        };
        let (client, script) = server(script).await;
        let outcome = follow(&client, kind, LIMIT).await.unwrap();
        match kind {
            TestKind::Rtt => assert_eq!(outcome.delay_us.unwrap(), [24_100.0, 24_400.0, 24_900.0]),
            TestKind::Throughput => {
                assert_eq!((outcome.rate_bits_per_second, outcome.retransmits), (Some(9_400_000_000), Some(3)));
            }
            TestKind::Latency => {
                assert_eq!((outcome.delivery.unwrap().lost(), outcome.delivery.unwrap().reordered), (1, 2));
            }
            TestKind::Trace => {
                assert_eq!(outcome.hops, [Some("192.0.2.1".to_owned()), None, Some("198.51.100.7".to_owned())]);
            }
            TestKind::Mtu => assert_eq!(outcome.mtu_bytes, Some(9_000)),
        }
        let tasks = script.tasks.lock().unwrap();
        assert_eq!((tasks.len(), tasks[0]["test"]["type"].as_str()), (1, Some(kind.word())));
        // perfSONAR's validators refuse fields that the API does not name.
        for name in tasks[0].as_object().unwrap().keys() {
            assert!(["schema", "test", "tools", "schedule", "reference"].contains(&name.as_str()), "{name}");
        }
        assert_eq!(script.deleted.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test]
async fn refusals_are_sentences() {
    for (status, text, expected) in [
        (403, "Task forbidden by limits:\nHints: requester: 192.0.2.1", "its limits do not permit it"),
        (409, "conflict", "409"),
        (422, "No tool in common among the participants.", "No tool in common"),
        (501, "API level 9", "too old"),
        (500, "<html>Internal Server Error</html>", "in trouble"),
    ] {
        let (client, script) = server(Script { submit: Some((status, text.to_owned())), ..Script::default() }).await;
        let error = follow(&client, TestKind::Rtt, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(script.tasks.lock().unwrap().len(), 1, "a task is submitted once");
    }
}

#[tokio::test]
async fn answers_of_other_shapes_are_sentences() {
    let not_json = Script { submit: Some((200, "<html>welcome</html>".to_owned())), ..Script::default() };
    let wrong = Script { submit: Some((200, "[1]".to_owned())), ..Script::default() };
    let elsewhere = Script { submit: Some((200, "\"https://evil.example.org/else\"".to_owned())), ..Script::default() };
    let odd_run = Script { states: vec!["finished"], garbage: Some(br#"{"state": 7}"#.to_vec()), ..Script::default() };
    let huge = Script { states: vec!["finished"], garbage: Some(vec![b' '; 17 << 20]), ..Script::default() };
    for (script, expected) in [
        (not_json, "not JSON"),
        (wrong, "not the task's address"),
        (elsewhere, "not the address of a task"),
        (odd_run, "the run"),
        (huge, "more than 16 MiB"),
    ] {
        let (client, _) = server(script).await;
        let error = follow(&client, TestKind::Rtt, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains(expected), "'{expected}' is not in: {error}");
    }
}

#[tokio::test]
async fn a_run_that_never_ends_is_aborted() {
    let (client, script) = server(Script { states: vec!["running"], ..Script::default() }).await;
    let error = follow(&client, TestKind::Rtt, Duration::from_secs(1)).await.unwrap_err().to_string();
    assert!(error.contains("has not ended within 1 s") && error.contains("running"), "{error}");
    assert_eq!(script.deleted.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn runs_that_end_badly_say_why() {
    for (state, expected) in [
        ("failed", "tool exploded"),
        ("missed", "missed"),
        ("nonstart", "nonstart"),
        ("canceled", "canceled"),
        ("preempted", "preempted"),
    ] {
        let (client, _) = server(Script { states: vec!["pending", state], ..Script::default() }).await;
        let error = follow(&client, TestKind::Rtt, LIMIT).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    let failed = json!({"schema":1,"succeeded":false,"error":"iperf3: connection refused"});
    let (client, _) = server(Script { states: vec!["finished"], result: failed, ..Script::default() }).await;
    assert!(follow(&client, TestKind::Rtt, LIMIT).await.unwrap_err().to_string().contains("connection refused"));
}

#[tokio::test]
async fn nobody_there_is_a_sentence() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = Client::new(&format!("http://{closed}"), http());
    let error = client.submit(&TestRequest::new(TestKind::Rtt, "x")).await.unwrap_err().to_string();
    assert!(error.contains("cannot connect"), "{error}");
    let error = Client::new("ftp://x", http()).discover().await.unwrap_err().to_string();
    assert!(error.contains("is not an address"), "{error}");
}

/// A TLS server with a self-signed certificate made by openssl.
async fn tls_server(directory: &std::path::Path, name: &str) -> Option<(std::net::SocketAddr, std::path::PathBuf)> {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (key, certificate) = (directory.join(format!("{name}.key")), directory.join(format!("{name}.pem")));
    let made = std::process::Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
        ])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    if !made.is_ok_and(|made| made.status.success()) {
        return None;
    }
    use rustls::pki_types::pem::PemObject as _;
    let chain = vec![rustls::pki_types::CertificateDer::from_pem_file(&certificate).unwrap()];
    let key = rustls::pki_types::PrivateKeyDer::from_pem_file(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(tcp).await else { return };
                let _ = stream.read(&mut [0; 4_096]).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n6").await;
                let _ = stream.shutdown().await;
            });
        }
    });
    Some((address, certificate))
}

#[tokio::test]
async fn certificates_are_trusted_by_ca_by_pin_or_explicitly_not_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (Some((first, certificate)), Some((second, _))) =
        (tls_server(directory.path(), "a").await, tls_server(directory.path(), "b").await)
    else {
        eprintln!("skipped: openssl is not installed");
        return;
    };
    let ask = |address: std::net::SocketAddr, trust: Trust| async move {
        let client = HttpClient::new(&trust, Duration::from_secs(10)).unwrap();
        let answer = client
            .request(hyper::Method::GET, &format!("https://{address}/pscheduler/api"), &[], Vec::new(), Duration::ZERO)
            .await;
        (answer.map(|answer| answer.body), client.seen_pin())
    };
    assert_eq!(ask(first, Trust::Insecure).await.0.unwrap(), b"6");
    let (answer, pin) = ask(first, Trust::Pin(None)).await;
    assert_eq!(answer.unwrap(), b"6");
    let pin = pin.unwrap();
    assert!(pin.starts_with("sha256/"), "{pin}");
    assert!(ask(first, Trust::Pin(Some(pin.clone()))).await.0.is_ok());
    let error = ask(second, Trust::Pin(Some(pin))).await.0.unwrap_err();
    assert!(matches!(error, HttpError::PinChanged { .. }), "{error}");
    let other = directory.path().join("b.pem");
    let error = ask(first, Trust::Ca(Some(other))).await.0.unwrap_err();
    assert!(matches!(error, HttpError::Certificate { .. }), "{error}");
    assert!(ask(first, Trust::Ca(Some(certificate))).await.0.is_ok());
    let error =
        HttpClient::new(&Trust::Ca(Some("/nowhere.pem".into())), Duration::from_secs(1)).unwrap_err().to_string();
    assert!(error.contains("/nowhere.pem"), "{error}");
}
