//! How long a TWAMP server waits for silent clients: a minute without sessions, a quarter of an
//! hour for the packets of a running one. The clock is the test's.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use culvert_perfsonar::responder::{Responder, ResponderConfig, ResponderCounters, TurnedAway};
use culvert_perfsonar::sources::Permitted;
use culvert_perfsonar::twamp::messages::{self, SessionRequest};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::{advance, pause, resume};

/// Longer than anything takes on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

struct Client {
    stream: TcpStream,
    counters: Arc<ResponderCounters>,
    server: SocketAddr,
}

impl Client {
    /// Connects to its own server, and completes the handshake.
    async fn greeted() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (server, counters) = (listener.local_addr().unwrap(), Arc::new(ResponderCounters::default()));
        let permitted = Permitted::networks(vec!["127.0.0.0/8".parse().unwrap()]);
        let config = ResponderConfig { permitted, test_ports: None, ..ResponderConfig::default() };
        tokio::spawn(Responder::new(config, counters.clone()).serve_control(listener));
        let mut client = Self { stream: TcpStream::connect(server).await.unwrap(), counters, server };
        let greeting: [u8; 64] = client.read().await;
        client.say(&messages::set_up_response(&greeting).unwrap()).await;
        messages::check_server_start(&client.read().await).unwrap();
        client
    }

    async fn read<const N: usize>(&mut self) -> [u8; N] {
        let mut message = [0; N];
        self.stream.read_exact(&mut message).await.unwrap();
        message
    }

    async fn say(&mut self, message: &[u8]) {
        self.stream.write_all(message).await.unwrap();
    }

    /// Opens a session for packets from a socket, and starts it; returns where they go.
    async fn session(&mut self, from: &UdpSocket) -> SocketAddr {
        let any = "0.0.0.0".parse().unwrap();
        let request = SessionRequest {
            is_ipv6: false,
            sender_port: from.local_addr().unwrap().port(),
            receiver_port: 0,
            sender_address: any,
            receiver_address: any,
            padding_bytes: 0,
            timeout: [0; 8],
            dscp: 0,
        };
        self.say(&request.write()).await;
        let port = messages::accepted_port(&self.read().await).unwrap();
        self.say(&messages::start_sessions()).await;
        messages::check_start_ack(&self.read().await).unwrap();
        SocketAddr::new(self.server.ip(), port)
    }

    /// Whether the server has closed the connection by now.
    fn is_closed(&self) -> bool {
        matches!(self.stream.try_read(&mut [0; 1]), Ok(0))
    }

    /// Asserts that the server closes the connection because nothing was sent.
    async fn was_left(mut self) {
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest)).await;
        assert!(ended.is_ok_and(|ended| ended.is_ok()), "the server waits for a silent client");
        assert_eq!(rest, [0; 0]);
        assert_eq!(self.counters.turned_away().get(&TurnedAway::Silent), Some(&1));
        assert_eq!(self.counters.sessions.load(Ordering::Relaxed), 0);
    }
}

/// Lets the server do what it has to do.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// Lets time pass for the server's timers alone.
async fn pass(time: Duration) {
    settle().await;
    pause();
    advance(time).await;
    // Otherwise the clock would jump to the next timer whenever everything is idle.
    resume();
    settle().await;
}

#[tokio::test]
async fn a_client_without_sessions_is_waited_for_for_a_minute() {
    let client = Client::greeted().await;
    pass(Duration::from_secs(55)).await;
    assert!(!client.is_closed(), "it may take a minute");
    pass(Duration::from_secs(6)).await;
    client.was_left().await;
}

#[tokio::test]
async fn a_session_without_packets_is_over_after_a_quarter_of_an_hour() {
    let mut client = Client::greeted().await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let reflector = client.session(&socket).await;
    pass(Duration::from_secs(890)).await;
    assert_eq!(client.counters.sessions.load(Ordering::Relaxed), 1, "it may take a quarter of an hour");
    // A packet starts the wait again.
    socket.send_to(&[0; 41], reflector).await.unwrap();
    let answered = tokio::time::timeout(PATIENCE, socket.recv_from(&mut [0; 100])).await;
    assert_eq!(answered.expect("a packet is answered").unwrap().1, reflector);
    pass(Duration::from_secs(890)).await;
    assert!(!client.is_closed() && client.counters.sessions.load(Ordering::Relaxed) == 1, "it was heard since");
    pass(Duration::from_secs(11)).await;
    client.was_left().await;
}
