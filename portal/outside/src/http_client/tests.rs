//! With a resolver of the tests: what is looked up how often, and which addresses are used.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// Answers from a list, and counts.
#[derive(Debug, Default)]
struct Script {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parsed = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parsed).collect()), asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Resolver for Script {
    fn addresses<'a>(&'a self, host: &'a str) -> Answer<'a, io::Result<Vec<IpAddr>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).push(host.to_owned());
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        Box::pin(async move { answer.ok_or_else(|| io::Error::other("the test has no further answer")) })
    }
}

fn client(resolver: &Arc<Script>) -> HttpClient {
    HttpClient::with_resolver(None, Arc::clone(resolver) as Arc<dyn Resolver>).unwrap()
}

fn request(url: &str, reach: Reach) -> OutRequest {
    OutRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        reach,
        timeout: Duration::from_secs(20),
        answer_bytes_max: 1_000,
    }
}

/// A server that says its name.
async fn server(address: &str, name: &'static str) -> SocketAddr {
    let listener = TcpListener::bind(address).await.unwrap();
    let bound = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ = stream.read(&mut [0; 4_096]).await;
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    bound
}

#[tokio::test]
async fn a_name_is_looked_up_once_for_each_request_and_the_connection_goes_where_it_led() {
    let resolver = Script::new(&[&["127.0.0.1"], &["127.0.0.2"]]);
    let first = server("127.0.0.1:0", "first").await;
    let second = server(&format!("127.0.0.2:{}", first.port()), "second").await;
    assert_eq!(first.port(), second.port());
    let client = client(&resolver);
    let url = format!("http://service.example:{}/", first.port());
    let answer = client.send(request(&url, Reach::Inside)).await.unwrap();
    assert_eq!((answer.body.as_slice(), resolver.asked().len()), (b"first".as_slice(), 1));
    // No connection of the first request is used for the second.
    let answer = client.send(request(&url, Reach::Inside)).await.unwrap();
    assert_eq!((answer.body.as_slice(), resolver.asked().len()), (b"second".as_slice(), 2));
    assert!(resolver.asked().iter().all(|host| host == "service.example"));
}

#[tokio::test]
async fn the_next_address_is_tried_where_one_does_not_answer() {
    let resolver = Script::new(&[&["127.0.0.3", "127.0.0.1"]]);
    let listening = server("127.0.0.1:0", "second").await;
    let url = format!("http://service.example:{}/", listening.port());
    assert_eq!(client(&resolver).send(request(&url, Reach::Inside)).await.unwrap().body, b"second");
}

#[tokio::test]
async fn a_name_with_any_address_inside_is_forbidden_in_public() {
    for (answer, address) in [
        (["127.0.0.1"].as_slice(), "127.0.0.1"),
        (&["93.184.216.34", "10.0.0.1"], "10.0.0.1"),
        (&["2606:2800:220:1::1", "::1"], "::1"),
        (&["::ffff:169.254.169.254"], "::ffff:169.254.169.254"),
        (&["93.184.216.34", "64:ff9b::7f00:1"], "64:ff9b::7f00:1"),
    ] {
        let resolver = Script::new(&[answer]);
        let error = client(&resolver).send(request("https://service.example/", Reach::Public)).await.unwrap_err();
        let expected = OutError::Forbidden { host: "service.example".to_owned(), address: address.to_owned() };
        assert_eq!((error, resolver.asked().len()), (expected, 1));
    }
}

#[tokio::test]
async fn an_address_is_not_looked_up_and_is_forbidden_in_every_spelling() {
    let resolver = Script::new(&[]);
    let client = client(&resolver);
    for url in [
        "https://127.0.0.1/",
        "https://2130706433/",
        "https://0x7f.1/",
        "https://0177.0.0.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://[64:ff9b::10.0.0.1]/",
        "https://[2002:a00:1::]/",
        "https://100.64.0.1/",
        "https://0/",
        "https://[fd00::1]/",
        "https://[fe80::1]/",
    ] {
        let error = client.send(request(url, Reach::Public)).await.unwrap_err();
        assert!(matches!(error, OutError::Forbidden { .. }), "{url}: {error}");
    }
    assert_eq!(resolver.asked(), Vec::<String>::new());
}

#[tokio::test]
async fn a_name_that_cannot_be_found_is_unreachable() {
    let resolver = Script::new(&[&[]]);
    let client = client(&resolver);
    for reason in ["no address", "cannot be found"] {
        let error = client.send(request("https://service.example/", Reach::Public)).await.unwrap_err();
        assert!(matches!(&error, OutError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(reason), "{error}");
    }
}

#[tokio::test]
async fn this_hosts_own_name_is_forbidden_in_public() {
    let resolver = Arc::new(SystemResolver::default());
    let client = HttpClient::with_resolver(None, resolver).unwrap();
    let error = client.send(request("https://LOCALHOST/", Reach::Public)).await.unwrap_err();
    assert!(matches!(&error, OutError::Forbidden { host, .. } if host == "localhost"), "{error}");
}

#[tokio::test]
async fn a_host_without_authorities_asks_without_tls_only_and_says_why() {
    let resolver = Script::new(&[]);
    let client = HttpClient { trusts_nobody: true, ..client(&resolver) };
    let port = server("127.0.0.1:0", "here").await.port();
    client.send(request(&format!("http://127.0.0.1:{port}/"), Reach::Inside)).await.unwrap();
    let error = client.send(request("https://93.184.216.34/", Reach::Public)).await.unwrap_err().to_string();
    assert!(error.contains("trusts no certificate authorities"), "{error}");
}

#[test]
fn a_limit_is_told_in_whole_seconds_and_never_as_none() {
    let target = Target::read("https://service.example/", Reach::Public).unwrap();
    for (milliseconds, expected) in [(1, 1), (999, 1), (1_000, 1), (1_001, 2), (30_000, 30)] {
        match timed_out(&target, Duration::from_millis(milliseconds)) {
            OutError::Timeout { seconds, .. } => assert_eq!(seconds, expected),
            other => panic!("{other}"),
        }
    }
}
