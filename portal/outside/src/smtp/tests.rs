//! With a resolver of the tests: where a connection without TLS may go.

use std::io;

use tokio::net::TcpListener;

use super::*;

/// Leads every name to these addresses.
#[derive(Debug)]
struct Leads(Vec<IpAddr>);

impl Resolver for Leads {
    fn addresses<'a>(&'a self, _host: &'a str) -> Answer<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move { Ok(self.0.clone()) })
    }
}

fn mailer(url: &str, addresses: &[&str]) -> SmtpMailer {
    let settings = SmtpSettings {
        url: url.to_owned(),
        password_file: None,
        from: "noreply@example.org".to_owned(),
        extra_ca: None,
        timeouts: SmtpTimeouts { connect: Duration::from_secs(20), ..SmtpTimeouts::default() },
    };
    let addresses = addresses.iter().map(|address| address.parse().unwrap()).collect();
    SmtpMailer::with_resolver(&settings, Arc::new(Leads(addresses))).unwrap()
}

async fn told(mailer: &SmtpMailer) -> String {
    let mail = Mail { to: "ada@example.com".to_owned(), subject: "x".to_owned(), body: "x".to_owned() };
    match mailer.send(mail).await.unwrap_err() {
        MailError::Unreachable(told) => told,
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn nothing_is_sent_to_another_host_without_tls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    for addresses in [["192.0.2.1"].as_slice(), &["127.0.0.1", "192.0.2.1"], &["127.0.0.1", "::ffff:192.0.2.1"]] {
        let told = told(&mailer(&format!("smtp+plain://relay.example:{port}"), addresses)).await;
        assert!(told.contains("relay.example") && told.contains("another host"), "{told}");
    }
    let connected = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(connected.is_err(), "not even a connection is made");
}

#[tokio::test]
async fn every_address_is_tried_and_the_last_failure_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("smtp+plain://relay.example:{port}");
    assert!(told(&mailer(&url, &["127.0.0.2", "127.0.0.1"])).await.contains("refused"));
    assert!(told(&mailer(&url, &[])).await.contains("no address"));
}

#[test]
fn debugging_shows_no_password() {
    let mailer = mailer("smtp://ada:hunter2@mail.example.org", &[]);
    let shown = format!("{mailer:?}");
    assert!(shown.contains("mail.example.org") && !shown.contains("hunter2"), "{shown}");
}
