//! The responder and the tester against each other over loopback sockets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_perfsonar::responder::{ResponderConfig, ResponderCounters, serve_control, serve_stamp};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::stamp::packet::Authentication;
use culvert_perfsonar::stamp::sender::{Rejection, SenderConfig};
use culvert_perfsonar::stamp::tlv;
use culvert_perfsonar::tester::{Measurement, measure, measure_twamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn quick() -> Measurement {
    Measurement { packets: 50, interval: Duration::from_millis(1), wait: Duration::from_secs(2), dscp: 0 }
}

fn stamp_responder(config: ResponderConfig) -> (std::net::SocketAddr, Arc<ResponderCounters>) {
    let socket = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, counters) = (socket.local_address().unwrap(), Arc::new(ResponderCounters::default()));
    let counted = counters.clone();
    tokio::spawn(async move { serve_stamp(socket, &config, counted).await });
    (address, counters)
}

async fn twamp_server(config: ResponderConfig) -> (std::net::SocketAddr, Arc<ResponderCounters>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counters) = (listener.local_addr().unwrap(), Arc::new(ResponderCounters::default()));
    tokio::spawn(serve_control(listener, config, counters.clone()));
    (address, counters)
}

#[tokio::test]
async fn stamp_with_tlvs_and_size() {
    let (address, counters) = stamp_responder(ResponderConfig::default());
    let mut tlvs = Vec::new();
    tlv::append(&mut tlvs, tlv::Type::DirectMeasurement, &[0; 12]);
    let config = SenderConfig { packet_bytes: 1_000, tlvs, ..SenderConfig::stamp(9) };
    let result = measure(address, config, &quick()).await.unwrap();
    assert_eq!((result.round_trip.sent, result.round_trip.lost()), (50, 0));
    assert_eq!(result.request_ttl.keys().collect::<Vec<_>>(), [&255]);
    assert!(result.rtt.unwrap().min_us > 0.0);
    assert_eq!(counters.reflected.load(Ordering::Relaxed), 50);
}

#[tokio::test]
async fn authenticated_stamp_answers_only_its_key() {
    let (address, counters) =
        stamp_responder(ResponderConfig { stamp_key: Some(b"shared".to_vec()), ..ResponderConfig::default() });
    let with = |key: &[u8]| SenderConfig { authentication: Authentication::with_secret(key), ..SenderConfig::stamp(1) };
    assert_eq!(measure(address, with(b"shared"), &quick()).await.unwrap().round_trip.received, 50);
    let how = Measurement { packets: 5, wait: Duration::from_millis(200), ..quick() };
    assert_eq!(measure(address, with(b"other"), &how).await.unwrap().round_trip.received, 0);
    assert_eq!(counters.refused().into_values().collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn a_full_twamp_session() {
    let (address, counters) = twamp_server(ResponderConfig { test_ports: None, ..ResponderConfig::default() }).await;
    for padding in [0, 27, 1_400] {
        let result = measure_twamp(address, padding, &quick()).await.unwrap();
        assert_eq!(result.round_trip.received, 50, "with {padding} bytes of padding");
    }
    assert_eq!(counters.reflected.load(Ordering::Relaxed), 150);
    // The end of the control connections ends the sessions.
    for _ in 0..1_000 {
        if counters.sessions.load(Ordering::Relaxed) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("sessions remain");
}

#[tokio::test]
async fn sessions_and_sources_are_limited() {
    let config = ResponderConfig { sessions: 0, test_ports: None, ..ResponderConfig::default() };
    let (address, _) = twamp_server(config).await;
    let error = measure_twamp(address, 0, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("too many sessions"), "{error}");
    let config = ResponderConfig { allow: vec!["192.0.2.0/24".parse().unwrap()], ..ResponderConfig::default() };
    let (address, _) = twamp_server(config.clone()).await;
    assert!(measure_twamp(address, 0, &quick()).await.is_err());
    let (address, counters) = stamp_responder(config);
    let how = Measurement { packets: 5, wait: Duration::from_millis(100), ..quick() };
    assert_eq!(measure(address, SenderConfig::stamp(1), &how).await.unwrap().round_trip.received, 0);
    assert_eq!(counters.refused().into_values().sum::<u64>(), 5);
}

#[tokio::test]
async fn closed_ports_and_other_servers_are_sentences() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = measure_twamp(closed, 0, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("the port is closed"), "{error}");
    let error = measure(closed, SenderConfig::stamp(1), &quick()).await.unwrap_err().to_string();
    assert!(error.contains("the port is closed"), "{error}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.unwrap();
    });
    let error = measure_twamp(address, 0, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("does not speak TWAMP-Control"), "{error}");
}

#[tokio::test]
async fn a_reflector_that_answers_other_packets() {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut buffer = [0; 2_000];
        while let Ok((bytes, from)) = socket.recv_from(&mut buffer).await {
            // The bytes as they came: an echo server, not a reflector.
            socket.send_to(&buffer[..bytes], from).await.unwrap();
        }
    });
    let how = Measurement { packets: 5, wait: Duration::from_millis(100), ..quick() };
    let result = measure(address, SenderConfig::stamp(1), &how).await.unwrap();
    assert_eq!(result.round_trip.received, 0);
    assert_eq!(result.rejected.get(&Rejection::Foreign), Some(&5));
}

#[tokio::test]
async fn garbage_closes_the_control_connection() {
    let (address, _) = twamp_server(ResponderConfig::default()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff; 1_000]).await.unwrap();
    let mut answer = Vec::new();
    // Either an orderly end or a reset: the greeting, perhaps a refusal, and nothing more.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() <= 64 + 48, "{} bytes", answer.len());
}
