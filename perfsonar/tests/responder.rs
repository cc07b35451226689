//! The responder and the tester against each other over loopback sockets.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_perfsonar::responder::{Responder, ResponderConfig, ResponderCounters, TurnedAway};
use culvert_perfsonar::socket::ProbeSocket;
use culvert_perfsonar::sources::Permitted;
use culvert_perfsonar::stamp::limits::Refused;
use culvert_perfsonar::stamp::packet::Authentication;
use culvert_perfsonar::stamp::sender::{Rejection, SenderConfig};
use culvert_perfsonar::stamp::tlv;
use culvert_perfsonar::tester::{Measurement, measure, measure_twamp};
use culvert_perfsonar::twamp::messages::{self, SessionRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

fn quick() -> Measurement {
    Measurement { packets: 50, interval: Duration::from_millis(1), wait: Duration::from_secs(2), dscp: 0 }
}

/// Permits this host.
fn permitting() -> ResponderConfig {
    permitting_networks(&["127.0.0.0/8"])
}

fn permitting_networks(networks: &[&str]) -> ResponderConfig {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    ResponderConfig { permitted: Permitted::networks(networks), test_ports: None, ..ResponderConfig::default() }
}

fn stamp_responder(config: ResponderConfig) -> (std::net::SocketAddr, Arc<ResponderCounters>) {
    let socket = ProbeSocket::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, counters) = (socket.local_address().unwrap(), Arc::new(ResponderCounters::default()));
    tokio::spawn(Responder::new(config, counters.clone()).serve_stamp(socket));
    (address, counters)
}

async fn twamp_server(config: ResponderConfig) -> (std::net::SocketAddr, Arc<ResponderCounters>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, counters) = (listener.local_addr().unwrap(), Arc::new(ResponderCounters::default()));
    tokio::spawn(Responder::new(config, counters.clone()).serve_control(listener));
    (address, counters)
}

#[tokio::test]
async fn stamp_with_tlvs_and_size() {
    let (address, counters) = stamp_responder(permitting());
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
    let (address, counters) = stamp_responder(ResponderConfig { stamp_key: Some(b"shared".to_vec()), ..permitting() });
    let with = |key: &[u8]| SenderConfig { authentication: Authentication::with_secret(key), ..SenderConfig::stamp(1) };
    assert_eq!(measure(address, with(b"shared"), &quick()).await.unwrap().round_trip.received, 50);
    let how = Measurement { packets: 5, wait: Duration::from_millis(200), ..quick() };
    assert_eq!(measure(address, with(b"other"), &how).await.unwrap().round_trip.received, 0);
    assert_eq!(counters.refused().into_values().collect::<Vec<_>>(), [5]);
}

#[tokio::test]
async fn a_full_twamp_session() {
    let (address, counters) = twamp_server(permitting()).await;
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
    let config = ResponderConfig { sessions: 0, ..permitting() };
    let (address, _) = twamp_server(config).await;
    let error = measure_twamp(address, 0, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("too many sessions"), "{error}");
    // Another network, and no network at all, which is the default.
    for config in [permitting_networks(&["192.0.2.0/24"]), permitting_networks(&[])] {
        let (address, counters) = twamp_server(config.clone()).await;
        assert!(measure_twamp(address, 0, &quick()).await.is_err());
        assert_eq!(counters.turned_away().get(&TurnedAway::Source), Some(&1));
        let (address, counters) = stamp_responder(config);
        let how = Measurement { packets: 5, wait: Duration::from_millis(100), ..quick() };
        assert_eq!(measure(address, SenderConfig::stamp(1), &how).await.unwrap().round_trip.received, 0);
        assert_eq!(counters.refused().into_values().sum::<u64>(), 5);
    }
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
            // The bytes as they arrived: an echo server, not a reflector.
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
    let (address, _) = twamp_server(permitting()).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&[0xff; 1_000]).await.unwrap();
    let mut answer = Vec::new();
    // Either an orderly end or a reset: the greeting, perhaps a refusal, and nothing more.
    let _ = stream.read_to_end(&mut answer).await;
    assert!(answer.len() <= 64 + 48, "{} bytes", answer.len());
}

/// A client of TWAMP-Control that does what it is told.
struct Client {
    stream: TcpStream,
}

impl Client {
    /// Connects from an address of this host; none if the server offers no mode.
    async fn connect(from: &str, to: std::net::SocketAddr) -> Option<Self> {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.bind(format!("{from}:0").parse().unwrap()).unwrap();
        let mut client = Self { stream: socket.connect(to).await.unwrap() };
        let greeting: [u8; 64] = client.read().await;
        let answer = messages::set_up_response(&greeting).ok()?;
        client.stream.write_all(&answer).await.unwrap();
        messages::check_server_start(&client.read().await).unwrap();
        Some(client)
    }

    async fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut message = [0; N];
        self.stream.read_exact(&mut message).await.unwrap();
        message
    }

    /// Asks for a session; false if the server refuses.
    async fn ask(&mut self) -> bool {
        let any = "0.0.0.0".parse().unwrap();
        let request = SessionRequest {
            is_ipv6: false,
            sender_port: 40_000,
            receiver_port: 0,
            sender_address: any,
            receiver_address: any,
            padding_bytes: 0,
            timeout: [0; 8],
            dscp: 0,
        };
        self.stream.write_all(&request.write()).await.unwrap();
        messages::accepted_port(&self.read().await).is_ok()
    }
}

/// Row 22: one client took all 64 control connections.
#[tokio::test]
async fn one_client_does_not_take_all_control_connections() {
    let (address, counters) = twamp_server(permitting()).await;
    let mut greedy = Vec::new();
    while let Some(client) = Client::connect("127.0.0.1", address).await {
        greedy.push(client);
        assert!(greedy.len() < 64, "one client takes all");
    }
    assert!(greedy.len() >= 8, "a host's concurrent tests are not let in: {}", greedy.len());
    let error = measure_twamp(address, 0, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("the TWAMP server refuses the connection"), "{error}");
    assert!(counters.turned_away()[&TurnedAway::ConnectionsOfHost] >= 2, "{:?}", counters.turned_away());
    let mut other = Client::connect("127.0.0.2", address).await.expect("another client is let in");
    assert!(other.ask().await);
}

/// Row 22: one client took all 100 sessions.
#[tokio::test]
async fn one_client_does_not_take_all_sessions() {
    let (address, counters) = twamp_server(ResponderConfig { sessions: 40, ..permitting() }).await;
    let mut greedy = Vec::new();
    let mut sessions = 0;
    for _ in 0..5 {
        let mut client = Client::connect("127.0.0.1", address).await.unwrap();
        for _ in 0..16 {
            sessions += u32::from(client.ask().await);
        }
        greedy.push(client);
    }
    assert_eq!(sessions, 10, "a quarter of them");
    assert_eq!(counters.turned_away()[&TurnedAway::SessionsOfHost], 70);
    let mut other = Client::connect("127.0.0.2", address).await.unwrap();
    assert!(other.ask().await, "another client gets none");
    assert_eq!(counters.sessions.load(Ordering::Relaxed), 11);
    drop(greedy);
    for _ in 0..1_000 {
        if counters.sessions.load(Ordering::Relaxed) == 1 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("sessions of clients that are gone remain");
}

/// Row 22: a silent client held its place for half a minute, and after the handshake for a quarter
/// of an hour.
#[tokio::test]
async fn silent_clients_are_left() {
    let (address, counters) = twamp_server(permitting()).await;
    let mut silent = TcpStream::connect(address).await.unwrap();
    let mut slow = TcpStream::connect(address).await.unwrap();
    slow.write_all(&[0; 10]).await.unwrap();
    for stream in [&mut silent, &mut slow] {
        let mut said = Vec::new();
        // A bound on behavior, not a measurement: five seconds are permitted.
        let ended = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut said)).await;
        assert!(ended.is_ok(), "the server waits for a silent client");
        assert_eq!(said.len(), 64, "the greeting and nothing else");
    }
    assert_eq!(counters.turned_away().get(&TurnedAway::Silent), Some(&2));
}

/// Row 13, over sockets: neither packets from another reflector's port nor another reflector's
/// answers are answered.
#[tokio::test]
async fn a_reflector_answers_no_reflector() {
    let (one, of_one) = stamp_responder(permitting());
    // On a port that `one` does not know as a reflector's.
    let (other, of_other) = stamp_responder(permitting());
    let forged = forge(&other.to_string(), one, 8).await;
    if !forged {
        eprintln!("skipped: raw sockets need root");
        return;
    }
    for _ in 0..1_000 {
        let refused: u64 = of_other.refused().into_values().sum();
        if refused >= 8 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let reflected = |counters: &ResponderCounters| counters.reflected.load(Ordering::Relaxed);
    assert_eq!((reflected(&of_one), reflected(&of_other)), (8, 0), "{:?}", of_other.refused());
    assert_eq!(of_other.refused().into_iter().collect::<Vec<_>>(), [(Refused::Reflection, 8)]);
}

/// Sends this many STAMP requests to `to` that claim to come from `from`; false if not permitted.
async fn forge(from: &str, to: std::net::SocketAddr, packets: u32) -> bool {
    let from: std::net::SocketAddrV4 = from.parse().unwrap();
    let Ok(raw) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(socket2::Protocol::UDP)) else {
        return false;
    };
    for sequence in 0..packets {
        let mut payload = vec![0; 1_000];
        payload[..4].copy_from_slice(&sequence.to_be_bytes());
        // A time, an error estimate, an SSID: nothing that a reflector would object to.
        payload[4..16].copy_from_slice(&[0xe0, 0, 0, 1, 0, 0, 0, 0, 0x80, 1, 0, 7]);
        let mut datagram = Vec::new();
        let bytes = (payload.len() + 8) as u16;
        datagram.extend([from.port().to_be_bytes(), to.port().to_be_bytes(), bytes.to_be_bytes(), [0; 2]].concat());
        datagram.extend(payload);
        raw.send_to(&datagram, &to.into()).unwrap();
    }
    true
}
