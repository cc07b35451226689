//! Delivery to an archive that is up, goes down, refuses, and comes back.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::put;
use culvert_perfsonar::archive::document::{Measurement, mtu};
use culvert_perfsonar::archive::spool::Spool;
use culvert_perfsonar::archive::{Archive, DeliveryError};
use culvert_perfsonar::http::{Client, Trust};
use serde_json::Value;
use tokio::net::TcpListener;

#[derive(Debug, Default)]
struct Taken {
    status: AtomicU16,
    documents: Mutex<Vec<(HeaderMap, Value)>>,
}

async fn take(State(taken): State<Arc<Taken>>, headers: HeaderMap, body: Bytes) -> (StatusCode, &'static str) {
    let status = StatusCode::from_u16(taken.status.load(Ordering::Relaxed)).unwrap();
    if status.is_success() {
        taken.documents.lock().unwrap().push((headers, serde_json::from_slice(&body).unwrap()));
    }
    (status, "as told")
}

async fn serve(taken: Arc<Taken>, address: &str) -> (std::net::SocketAddr, tokio::task::JoinHandle<()>) {
    let listener = TcpListener::bind(address).await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/logstash", put(take)).with_state(taken);
    (address, tokio::spawn(async move { drop(axum::serve(listener, router).await) }))
}

fn add(spool: &Spool, at: u64) {
    let measurement = Measurement {
        test: "mtu",
        source: "dtn1.example.org",
        dest: "dtn2.example.net",
        tool: "culvert-path",
        begin_unix_ms: at,
        seconds: 2.0,
        result: mtu(at as u32),
        transfer: None,
    };
    let (id, document) = measurement.document();
    spool.add(at, &id, &serde_json::to_vec(&document).unwrap()).unwrap();
}

#[tokio::test]
async fn documents_arrive_whole_and_in_order_over_an_outage() {
    let directory = tempfile::tempdir().unwrap();
    let spool = Spool::open(directory.path().join("spool"), 100, 1 << 20).unwrap();
    let taken = Arc::new(Taken { status: AtomicU16::new(200), ..Taken::default() });
    let (address, serving) = serve(taken.clone(), "127.0.0.1:0").await;
    let archive = Archive {
        url: format!("http://{address}/logstash"),
        login: Some(("perfsonar".into(), "secret".into())),
        observer: "dtn1.example.org".into(),
        http: Client::new(&Trust::Insecure, Duration::from_secs(10)).unwrap(),
    };
    (1..4).for_each(|at| add(&spool, at));
    let (delivered, error) = archive.drain(&spool).await;
    assert!(delivered == 3 && error.is_none() && spool.is_empty(), "{error:?}");

    // Down: documents wait.
    serving.abort();
    let _ = serving.await;
    (4..7).for_each(|at| add(&spool, at));
    let (delivered, error) = archive.drain(&spool).await;
    assert!(delivered == 0 && matches!(error, Some(DeliveryError::Http(_))), "{error:?}");
    // Back, but busy, then without permission: they still wait.
    let (_, _serving) = serve(taken.clone(), &address.to_string()).await;
    for status in [503, 401] {
        taken.status.store(status, Ordering::Relaxed);
        let (delivered, error) = archive.drain(&spool).await;
        assert!(delivered == 0 && matches!(error, Some(DeliveryError::Unavailable { .. })), "{error:?}");
        assert_eq!(spool.len(), 3);
    }
    taken.status.store(200, Ordering::Relaxed);
    assert_eq!(archive.drain(&spool).await.0, 3);
    // One that is refused permanently does not block the others.
    add(&spool, 7);
    taken.status.store(400, Ordering::Relaxed);
    assert!(matches!(archive.drain(&spool).await.1, Some(DeliveryError::Refused { status: 400, .. })));
    assert!(spool.is_empty() && spool.dropped() == 1);

    let documents = taken.documents.lock().unwrap();
    let order: Vec<u64> = documents.iter().map(|(_, document)| document["result"]["mtu"].as_u64().unwrap()).collect();
    assert_eq!(order, [1, 2, 3, 4, 5, 6]);
    for (headers, document) in documents.iter() {
        assert_eq!(headers["x-ps-observer"], "dtn1.example.org");
        assert_eq!(headers["content-type"], "application/json");
        assert_eq!(headers["authorization"], "Basic cGVyZnNvbmFyOnNlY3JldA==");
        let run = document["run"]["href"].as_str().unwrap();
        let (task, run) = run.rsplit_once("/runs/").unwrap();
        assert!(task.starts_with(document["task"]["href"].as_str().unwrap()) && run.len() == 36);
        for field in [
            "/run/added",
            "/run/start-time",
            "/run/end-time",
            "/task/detail/duration",
            "/task/schedule",
            "/tool/name",
            "/test/type",
            "/test/spec",
        ] {
            assert!(document.pointer(field).is_some(), "{field} is missing");
        }
    }
}
