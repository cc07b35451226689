//! The client of HTTP against servers that are slow, large, false, or somebody else.

use std::path::Path;
use std::time::{Duration, Instant};

use culvert_portal_outside::HttpClient;
use culvert_portal_seams::http::{HttpOut as _, OutError, OutRequest, OutResponse, Reach};
use tokio::process::Command;

use crate::servers::{Says, http};
use crate::tls::Authority;

/// Far longer than anything here takes, far shorter than without a limit.
const LONG: Duration = Duration::from_secs(60);
/// For exchanges that must not end otherwise.
const SHORT: Duration = Duration::from_millis(700);

fn client() -> HttpClient {
    HttpClient::new(Some(&Authority::get().file())).unwrap()
}

fn get(url: &str) -> OutRequest {
    OutRequest {
        method: "GET".to_owned(),
        url: url.to_owned(),
        headers: Vec::new(),
        body: Vec::new(),
        reach: Reach::Inside,
        timeout: LONG,
        answer_bytes_max: 100_000,
    }
}

async fn asked(says: Says, change: impl FnOnce(&mut OutRequest)) -> Result<OutResponse, OutError> {
    let (port, _) = http(None, says).await;
    let mut request = get(&format!("http://127.0.0.1:{port}/"));
    change(&mut request);
    client().send(request).await
}

#[tokio::test]
async fn a_request_arrives_whole_and_its_answer_too() {
    let says = Says::answer("201 Created\r\nX-Kind: one\r\nx-kind: two\r\nX-Odd: \u{fc}", b"{\"done\":true}");
    let (port, heard) = http(Some(Authority::get().acceptor(&["localhost"])), says).await;
    let mut request = get(&format!("https://localhost:{port}/hook?x=1&y=%20"));
    request.method = "POST".to_owned();
    request.headers = vec![
        ("content-type".to_owned(), "application/json".to_owned()),
        ("x-signature".to_owned(), "abc".to_owned()),
        ("x-signature".to_owned(), "def".to_owned()),
    ];
    request.body = b"{\"event\":1}".to_vec();
    let answer = client().send(request).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (201, b"{\"done\":true}".as_slice()));
    let kinds: Vec<_> = answer.headers.iter().filter(|(name, _)| name == "x-kind").map(|(_, value)| value).collect();
    assert_eq!(kinds, ["one", "two"]);
    assert!(answer.headers.contains(&("x-odd".to_owned(), "\u{fc}".to_owned())));
    let heard = heard.all().concat();
    assert!(heard.starts_with("POST /hook?x=1&y=%20 HTTP/1.1\r\n") && heard.ends_with("{\"event\":1}"), "{heard}");
    for line in ["content-type: application/json", "x-signature: abc", "x-signature: def", "content-length: 11"] {
        assert!(heard.lines().any(|one| one == line), "{line} in {heard}");
    }
    assert!(
        heard.contains(&format!("\r\nhost: localhost:{port}\r\n")) && !heard.contains("accept-encoding"),
        "{heard}"
    );
}

#[tokio::test]
async fn an_answer_of_an_error_is_an_answer() {
    let answer = asked(Says::answer("503 Service Unavailable", b"later"), |_| ()).await.unwrap();
    assert_eq!((answer.status, answer.body.as_slice()), (503, b"later".as_slice()));
}

#[tokio::test]
async fn redirects_are_answers() {
    let (elsewhere, heard) = http(None, Says::answer("200 OK", b"")).await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let head = format!("{status}\r\nlocation: http://127.0.0.1:{elsewhere}/");
        let answer = asked(Says::answer(&head, b"moved"), |_| ()).await.unwrap();
        assert_eq!((answer.status.to_string().as_str(), answer.body.as_slice()), (&status[..3], b"moved".as_slice()));
    }
    assert_eq!(heard.all(), Vec::<String>::new());
}

#[tokio::test]
async fn who_has_no_certificate_for_its_name_is_not_talked_to() {
    let other_name = Authority::get().acceptor(&["other.example"]);
    let own_name = Authority::get().acceptor(&["localhost"]);
    for (acceptor, extra_ca) in [(other_name, Some(Authority::get().file())), (own_name, None)] {
        let (port, heard) = http(Some(acceptor), Says::answer("200 OK", b"")).await;
        let client = HttpClient::new(extra_ca.as_deref().map(Path::new)).unwrap();
        let error = client.send(get(&format!("https://localhost:{port}/"))).await.unwrap_err();
        assert!(matches!(error, OutError::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        assert_eq!(heard.all(), Vec::<String>::new());
    }
    // Not TLS at all.
    let (port, _) = http(None, Says::answer("200 OK", b"")).await;
    let mut request = get(&format!("https://localhost:{port}/"));
    request.timeout = SHORT;
    client().send(request).await.unwrap_err();
}

#[tokio::test]
async fn nobody_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let error = client().send(get(&format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
    assert!(matches!(error, OutError::Unreachable { .. }) && error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_slow_server_has_as_long_as_the_request_and_no_longer() {
    let head = b"HTTP/1.1 200 OK\r\ncontent-length: 90000\r\n\r\n".to_vec();
    for says in [
        Says::Stalls(Vec::new()),
        Says::Stalls(head.clone()),
        Says::Drips(head),
        Says::Drips(b"HTTP/1.1 200 OK\r\nx-header: ".to_vec()),
        Says::Drips(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n".to_vec()),
        // Interim answers are none.
        Says::Stalls(b"HTTP/1.1 100 Continue\r\n\r\n".repeat(3)),
    ] {
        let begun = Instant::now();
        let error = asked(says.clone(), |request| request.timeout = SHORT).await.unwrap_err();
        assert_eq!(error, OutError::Timeout { host: "127.0.0.1".to_owned(), seconds: 1 }, "{says:?}");
        assert!(begun.elapsed() >= SHORT && begun.elapsed() < LONG, "{says:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_speak_tls_is_waited_for_as_long_as_the_request() {
    let port = crate::servers::serve(|stream| async move {
        tokio::time::sleep(LONG).await;
        drop(stream);
    })
    .await;
    let mut request = get(&format!("https://localhost:{port}/"));
    request.timeout = SHORT;
    let error = client().send(request).await.unwrap_err();
    assert!(matches!(error, OutError::Timeout { seconds: 1, .. }), "{error}");
}

#[tokio::test]
async fn an_answer_is_read_up_to_its_limit() {
    let expected = OutError::TooLarge { host: "127.0.0.1".to_owned(), bytes_max: 1_000 };
    let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    let chunk = [b"100\r\n".as_slice(), &[b'x'; 256], b"\r\n"].concat();
    for says in [
        Says::answer("200 OK", &[b'x'; 1_001]),
        // It says so, and is not waited for.
        Says::Stalls(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n".to_vec()),
        Says::Stalls(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", u64::MAX - 2).into_bytes()),
        Says::Floods(chunked, chunk),
        Says::Floods(b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), vec![b'x'; 4_096]),
        Says::Floods(b"HTTP/1.0 200 OK\r\n\r\n".to_vec(), vec![b'x']),
    ] {
        let error = asked(says.clone(), |request| request.answer_bytes_max = 1_000).await.unwrap_err();
        assert_eq!(error, expected, "{says:?}");
    }
    let whole = asked(Says::answer("200 OK", &[b'x'; 1_000]), |request| request.answer_bytes_max = 1_000).await;
    assert_eq!(whole.unwrap().body.len(), 1_000);
    let none = asked(Says::answer("200 OK", b""), |request| request.answer_bytes_max = 0).await;
    assert_eq!(none.unwrap().body, b"");
}

#[tokio::test]
async fn an_answer_to_head_is_as_large_as_nothing() {
    let says = Says::Once(b"HTTP/1.1 200 OK\r\ncontent-length: 5000\r\n\r\n".to_vec());
    let change = |request: &mut OutRequest| {
        request.method = "HEAD".to_owned();
        request.answer_bytes_max = 10;
    };
    assert_eq!(asked(says, change).await.unwrap().body, b"");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_or_none_is_an_error() {
    for says in [
        Says::Once(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort".to_vec()),
        Says::Once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n".to_vec()),
        Says::Once(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n".to_vec()),
        Says::Once(b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n".to_vec()),
        Says::Once(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nshort".to_vec()),
        Says::Once(b"220 mail.example.org ESMTP\r\n".to_vec()),
        Says::Once(Vec::new()),
        Says::Floods(b"HTTP/1.1 200 OK\r\n".to_vec(), b"x: y\r\n".to_vec()),
        Says::Floods(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), b"y".repeat(1_000)),
    ] {
        let error = asked(says.clone(), |_| ()).await.unwrap_err();
        assert!(matches!(error, OutError::Unreachable { .. }), "{error} {says:?}");
    }
}

#[tokio::test]
async fn a_compressed_answer_stays_as_it_is() {
    // A small archive of a large file would be a way around the limit.
    let packed = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let answer = asked(Says::answer("200 OK\r\ncontent-encoding: gzip", &packed), |_| ()).await.unwrap();
    assert_eq!(answer.body, packed);
    assert!(answer.headers.contains(&("content-encoding".to_owned(), "gzip".to_owned())));
}

#[tokio::test]
async fn what_cannot_be_sent_is_refused() {
    for change in [
        |request: &mut OutRequest| request.reach = Reach::Public,
        |request: &mut OutRequest| request.url = "https://user:secret@localhost/".to_owned(),
        |request: &mut OutRequest| request.method = "GET /x HTTP/1.1\r\nhost: y\r\n\r\n".to_owned(),
        |request: &mut OutRequest| request.method = String::new(),
        |request: &mut OutRequest| request.headers.push(("x y".to_owned(), "z".to_owned())),
        |request: &mut OutRequest| request.headers.push(("x".to_owned(), "y\r\nz: 1".to_owned())),
        |request: &mut OutRequest| request.headers.push(("host".to_owned(), "other.example".to_owned())),
        |request: &mut OutRequest| request.headers.push(("content-length".to_owned(), "7".to_owned())),
        |request: &mut OutRequest| request.headers.push(("Transfer-Encoding".to_owned(), "chunked".to_owned())),
    ] {
        let (port, heard) = http(None, Says::answer("200 OK", b"")).await;
        let mut request = get(&format!("http://localhost:{port}/"));
        change(&mut request);
        let error = client().send(request).await.unwrap_err();
        assert!(matches!(error, OutError::BadUrl { .. }) && !error.to_string().contains("secret"), "{error}");
        assert_eq!(heard.all(), Vec::<String>::new());
    }
}

/// Run by the test below, with proxies in its environment.
#[tokio::test]
#[ignore = "run by proxies_of_the_environment_are_not_used"]
async fn asks_a_server() {
    assert_eq!(asked(Says::answer("200 OK", b"direct"), |_| ()).await.unwrap().body, b"direct");
}

#[tokio::test]
async fn proxies_of_the_environment_are_not_used() {
    let (proxy, heard) = http(None, Says::answer("200 OK", b"proxy")).await;
    let mut test = Command::new(std::env::current_exe().unwrap());
    test.args(["--exact", "http::asks_a_server", "--ignored"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        test.env(name, format!("http://127.0.0.1:{proxy}"));
    }
    for name in ["no_proxy", "NO_PROXY"] {
        test.env_remove(name);
    }
    let ran = test.output().await.unwrap();
    let told = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success() && told.contains("1 passed"), "{told}");
    assert_eq!(heard.all(), Vec::<String>::new());
}
