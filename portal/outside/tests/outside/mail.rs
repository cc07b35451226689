//! The mailer against servers that refuse, delay, lie, or are in somebody else's hands.

use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_portal_outside::{SmtpMailer, SmtpSettings, SmtpTimeouts};
use culvert_portal_seams::mail::{Mail, MailError, Mailer as _};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::servers::{Heard, serve};
use crate::tls::Authority;

/// Far longer than anything here takes, far shorter than without a limit.
const LONG: Duration = Duration::from_secs(60);
/// For waits that must end by their limit.
const SHORT: Duration = Duration::from_millis(700);
const PATIENT: SmtpTimeouts = SmtpTimeouts { connect: LONG, command: LONG, total: LONG };

/// Settings for a server of the tests.
pub fn settings(url: String) -> SmtpSettings {
    let from = "Culvert <noreply@example.org>".to_owned();
    SmtpSettings { url, password_file: None, from, extra_ca: Some(Authority::get().file()), timeouts: PATIENT }
}

/// A message.
pub fn mail(to: &str) -> Mail {
    Mail { to: to.to_owned(), subject: "Hello".to_owned(), body: "One\nTwo\n".to_owned() }
}

/// What a server does upon a line.
#[derive(Debug)]
enum Does {
    Says(&'static str),
    /// Sends this over and over, slowly or as fast as it can.
    Drips(&'static str),
    Floods(&'static str),
    /// Sends this and begins TLS.
    Protects(&'static str),
    Hangs,
    Leaves,
}

/// What a server does upon each line; `""` is the beginning, `"."` the end of a message.
type Manners = Arc<dyn Fn(&str) -> Does + Send + Sync>;

/// A server that takes everything, but for what `changed` says.
fn manners(changed: impl Fn(&str) -> Option<Does> + Send + Sync + 'static) -> Manners {
    Arc::new(move |line| {
        changed(line).unwrap_or_else(|| match line.split(' ').next().unwrap_or_default() {
            "" => Does::Says("220 mail.example.org ESMTP"),
            "EHLO" => Does::Says("250-mail.example.org\r\n250-STARTTLS\r\n250 AUTH PLAIN"),
            "STARTTLS" => Does::Protects("220 go ahead"),
            "AUTH" => Does::Says("235 welcome"),
            "MAIL" | "RCPT" | "." => Does::Says("250 fine"),
            "DATA" => Does::Says("354 go on"),
            "QUIT" => Does::Says("221 bye"),
            _ => Does::Says("500 what?"),
        })
    })
}

/// A server that does this upon a command, and takes everything else.
fn upon(command: &'static str, does: fn() -> Does) -> Manners {
    let is_meant = move |line: &str| if command.is_empty() { line.is_empty() } else { line.starts_with(command) };
    manners(move |line| is_meant(line).then(does))
}

/// Serves with these manners, and TLS from the start if told so.
async fn server(manners: Manners, is_protected: bool) -> (u16, Heard) {
    let heard = Heard::default();
    let noted = heard.clone();
    let acceptor = Authority::get().acceptor(&["localhost"]);
    let port = serve(move |stream| {
        let (manners, acceptor, noted) = (Arc::clone(&manners), acceptor.clone(), noted.clone());
        async move {
            let _ = if is_protected {
                match acceptor.accept(stream).await {
                    Ok(stream) => talk(BufReader::new(stream), &manners, &noted, "").await.map(|_| ()),
                    Err(error) => Err(error),
                }
            } else {
                talk_and_protect(stream, &manners, &noted, acceptor).await
            };
        }
    })
    .await;
    (port, heard)
}

async fn talk_and_protect(
    stream: tokio::net::TcpStream,
    manners: &Manners,
    heard: &Heard,
    acceptor: TlsAcceptor,
) -> std::io::Result<()> {
    if let Some(stream) = talk(BufReader::new(stream), manners, heard, "").await? {
        heard.note("(TLS)");
        let stream = acceptor.accept(stream.into_inner()).await?;
        talk(BufReader::new(stream), manners, heard, "(TLS)").await?;
    }
    Ok(())
}

/// Talks until the end, or until TLS is to begin.
async fn talk<S>(
    mut stream: BufReader<S>,
    manners: &Manners,
    heard: &Heard,
    first: &str,
) -> std::io::Result<Option<BufReader<S>>>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut line = first.to_owned();
    loop {
        let does = if line == "(TLS)" { None } else { Some((manners)(&line)) };
        let mut is_message = false;
        match does {
            None => {}
            Some(Does::Says(text)) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                is_message = text.starts_with("354");
            }
            Some(Does::Drips(text)) => loop {
                stream.write_all(text.as_bytes()).await?;
                stream.flush().await?;
                tokio::time::sleep(Duration::from_millis(20)).await;
            },
            Some(Does::Floods(text)) => loop {
                stream.write_all(text.repeat(1_000).as_bytes()).await?;
            },
            Some(Does::Protects(text)) => {
                stream.write_all(format!("{text}\r\n").as_bytes()).await?;
                return Ok(Some(stream));
            }
            Some(Does::Hangs) => std::future::pending().await,
            Some(Does::Leaves) => return Ok(None),
        }
        stream.flush().await?;
        line = if is_message { read_message(&mut stream, heard).await? } else { read_line(&mut stream).await? };
        if line.is_empty() {
            return Ok(None);
        }
        heard.note(&line);
    }
}

async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> std::io::Result<String> {
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

async fn read_message(stream: &mut (impl AsyncBufRead + Unpin), heard: &Heard) -> std::io::Result<String> {
    let mut text = String::new();
    while !text.ends_with("\r\n.\r\n") {
        if stream.read_line(&mut text).await? == 0 {
            return Ok(String::new());
        }
    }
    heard.note(&text);
    Ok(".".to_owned())
}

/// Sends a message to a server with these manners.
async fn sent(scheme: &str, timeouts: SmtpTimeouts, manners: Manners) -> (Result<(), MailError>, Vec<String>) {
    let (port, heard) = server(manners, scheme == "smtps").await;
    let mailer =
        SmtpMailer::new(&SmtpSettings { timeouts, ..settings(format!("{scheme}://ada:hunter2@localhost:{port}")) });
    let result = mailer.unwrap().send(mail("bob@example.com")).await;
    (result, heard.all())
}

fn is_refused(result: &Result<(), MailError>, words: &str) -> bool {
    matches!(result, Err(MailError::Refused(told)) if told.contains(words) && told.contains("localhost"))
}

fn is_no_login(result: &Result<(), MailError>, words: &str) -> bool {
    matches!(result, Err(MailError::LoginRefused(told)) if told.contains(words) && told.contains("localhost"))
}

fn is_unreachable(result: &Result<(), MailError>, words: &str) -> bool {
    matches!(result, Err(MailError::Unreachable(told)) if told.contains(words) && told.contains("localhost"))
}

#[tokio::test]
async fn a_message_is_handed_over_in_each_way() {
    for scheme in ["smtp", "smtps", "smtp+plain"] {
        let (result, heard) = sent(scheme, PATIENT, manners(|_| None)).await;
        result.unwrap();
        // The address of this end, as IPv4 or IPv6.
        assert!(heard[0].starts_with("EHLO ["), "{heard:?}");
        let at = heard.iter().position(|line| line.starts_with("AUTH PLAIN ")).unwrap();
        assert_eq!(heard[..at].contains(&"(TLS)".to_owned()), scheme == "smtp", "{heard:?}");
        assert_eq!(heard[at + 1..at + 4], ["MAIL FROM:<noreply@example.org>", "RCPT TO:<bob@example.com>", "DATA"]);
        assert!(heard[at + 4].ends_with("\r\n\r\nOne\r\nTwo\r\n\r\n.\r\n"), "{heard:?}");
        assert_eq!(heard[at + 5..], [".", "QUIT"]);
    }
}

#[tokio::test]
async fn an_answer_for_good_is_a_refusal_and_any_other_is_none() {
    for (command, step) in [
        ("", "the greeting"),
        ("AUTH", "the login"),
        ("MAIL", "the sender"),
        ("RCPT", "the recipient"),
        ("DATA", "the request to send"),
        (".", "the message"),
    ] {
        let (result, heard) =
            sent("smtp+plain", PATIENT, upon(command, || Does::Says("550-5.7.1 not\r\n550 5.7.1 you"))).await;
        // A login that is refused is a fault of the configuration, and the message goes later.
        let is_as_expected = if command == "AUTH" { is_no_login } else { is_refused };
        assert!(is_as_expected(&result, &format!("answered {step} with 550 5.7.1 not you")), "{result:?}");
        assert!(command.is_empty() || heard.last().is_some_and(|line| line == "QUIT"), "{heard:?}");
        let (result, _) = sent("smtp+plain", PATIENT, upon(command, || Does::Says("451 4.7.1 later"))).await;
        assert!(is_unreachable(&result, &format!("answered {step} with 451 4.7.1 later")), "{result:?}");
        for does in [|| Does::Leaves, || Does::Says("nonsense"), || Does::Says("250 caf\u{e9} 999\r\n\u{0}")] {
            let (result, _) = sent("smtp+plain", PATIENT, upon(command, does)).await;
            assert!(!matches!(result, Err(MailError::Refused(_))), "{result:?}");
        }
        let (result, _) = sent("smtp+plain", PATIENT, upon(command, || Does::Leaves)).await;
        assert!(is_unreachable(&result, step), "{result:?}");
    }
}

#[tokio::test]
async fn a_server_that_wants_a_login_first_is_told_from_one_that_refuses_the_message() {
    for words in ["530 5.7.0 Authentication required", "534 too weak", "535 no", "538 needs encryption"] {
        for command in ["MAIL", "RCPT"] {
            let says = manners(move |line| line.starts_with(command).then_some(Does::Says(words)));
            let (result, _) = sent("smtp+plain", PATIENT, says).await;
            assert!(is_no_login(&result, &words[..3]), "{result:?}");
        }
    }
    let (result, _) = sent("smtp+plain", PATIENT, upon("AUTH", || Does::Says("454 4.7.0 later"))).await;
    assert!(is_unreachable(&result, "the login with 454"), "{result:?}");
}

#[tokio::test]
async fn a_server_that_repeats_the_password_is_not_quoted() {
    for words in ["535 wrong password hunter2", "535 wrong: aHVudGVyMg==", "535 AUTH PLAIN AGFkYQBodW50ZXIy"] {
        let (result, _) =
            sent("smtp+plain", PATIENT, manners(move |line| line.starts_with("AUTH").then_some(Does::Says(words))))
                .await;
        assert!(is_no_login(&result, "the login with 535"), "{result:?}");
        assert!(!format!("{result:?}").contains(&words[words.len() - 7..]), "{result:?}");
    }
}

#[tokio::test]
async fn a_server_without_what_is_needed_gets_nothing() {
    let without = || Does::Says("250 mail.example.org");
    let (result, heard) = sent("smtp", PATIENT, upon("EHLO", without)).await;
    assert!(is_unreachable(&result, "STARTTLS"), "{result:?}");
    assert!(!heard.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{heard:?}");
    let (result, heard) = sent("smtp+plain", PATIENT, upon("EHLO", without)).await;
    assert!(is_unreachable(&result, "the login"), "{result:?}");
    assert!(!heard.iter().any(|line| line.starts_with("MAIL")), "{heard:?}");
    let (result, _) = sent("smtp", PATIENT, upon("STARTTLS", || Does::Says("454 not now"))).await;
    assert!(is_unreachable(&result, "STARTTLS with 454"), "{result:?}");
}

#[tokio::test]
async fn a_server_that_is_not_the_one_gets_no_password() {
    for scheme in ["smtp", "smtps"] {
        // The certificate is for localhost, or its authority not trusted.
        for (host, extra_ca) in [("127.0.0.1", Some(Authority::get().file())), ("localhost", None)] {
            let (port, heard) = server(manners(|_| None), scheme == "smtps").await;
            let url = format!("{scheme}://ada:hunter2@{host}:{port}");
            let mailer = SmtpMailer::new(&SmtpSettings { extra_ca, ..settings(url) }).unwrap();
            let result = mailer.send(mail("bob@example.com")).await;
            assert!(matches!(&result, Err(MailError::Unreachable(told)) if told.contains("certificate")), "{result:?}");
            assert!(!heard.all().iter().any(|line| line.starts_with("AUTH")), "{:?}", heard.all());
        }
    }
}

#[tokio::test]
async fn what_somebody_wrote_before_tls_is_no_answer_under_it() {
    // Whoever is on the way answers the commands to come as well.
    const INJECTED: &str =
        "220 go ahead\r\n250 AUTH PLAIN\r\n235 in\r\n250 ok\r\n250 ok\r\n354 go\r\n250 taken\r\n221 bye";
    let (result, heard) = sent("smtp", PATIENT, upon("STARTTLS", || Does::Protects(INJECTED))).await;
    assert!(is_unreachable(&result, "STARTTLS"), "{result:?}");
    assert!(!heard.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{heard:?}");
}

#[tokio::test]
async fn a_slow_server_has_its_time_and_no_longer() {
    let hasty = SmtpTimeouts { command: SHORT, ..PATIENT };
    let hasty_in_all = SmtpTimeouts { total: SHORT, ..PATIENT };
    let begun = Instant::now();
    let mut waiting = JoinSet::new();
    for timeouts in [hasty, hasty_in_all] {
        for command in ["", "EHLO", "STARTTLS", "AUTH", "MAIL", "RCPT", "DATA", "."] {
            for does in [|| Does::Hangs, || Does::Drips("x"), || Does::Drips("250-still here\r\n")] {
                waiting.spawn(sent("smtp", timeouts, upon(command, does)));
            }
        }
    }
    while let Some(done) = waiting.join_next().await {
        let (result, heard) = done.unwrap();
        assert!(matches!(result, Err(MailError::Unreachable(_))), "{result:?} {heard:?}");
    }
    assert!(begun.elapsed() < LONG);
    let (result, _) = sent("smtp", hasty, upon("", || Does::Hangs)).await;
    assert!(is_unreachable(&result, "no answer within 0.7 s"), "{result:?}");
    // Not even TLS.
    let port = serve(|stream| async move {
        tokio::time::sleep(LONG).await;
        drop(stream);
    })
    .await;
    let timeouts = SmtpTimeouts { connect: SHORT, ..PATIENT };
    let mailer = SmtpMailer::new(&SmtpSettings { timeouts, ..settings(format!("smtps://localhost:{port}")) });
    let result = mailer.unwrap().send(mail("bob@example.com")).await;
    assert!(is_unreachable(&result, "TLS: no answer"), "{result:?}");
}

#[tokio::test]
async fn a_server_that_never_says_goodbye_has_taken_the_message() {
    let (result, _) = sent("smtps", PATIENT, upon("QUIT", || Does::Hangs)).await;
    result.unwrap();
}

#[tokio::test]
async fn an_endless_answer_ends() {
    for scheme in ["smtp", "smtps"] {
        for does in [|| Does::Floods("x"), || Does::Floods("250-more\r\n"), || Does::Floods("\r\n")] {
            let (result, _) = sent(scheme, PATIENT, upon("", does)).await;
            assert!(matches!(result, Err(MailError::Unreachable(_))), "{result:?}");
        }
    }
}

#[tokio::test]
async fn a_message_that_cannot_be_sent_reaches_nobody() {
    let (port, heard) = server(manners(|_| None), false).await;
    let mailer = SmtpMailer::new(&settings(format!("smtp+plain://localhost:{port}"))).unwrap();
    assert!(mailer.is_configured());
    let injecting = Mail { subject: "x\r\nBcc: eve@example.com".to_owned(), ..mail("bob@example.com") };
    for mail in [injecting, mail("bob"), mail("bob@example.com>\r\nRCPT TO:<eve@example.com")] {
        assert!(matches!(mailer.send(mail).await, Err(MailError::Refused(_))));
    }
    assert_eq!(heard.all(), Vec::<String>::new());
    // A server without SMTPUTF8.
    let result = mailer.send(mail("j\u{fc}rgen@example.com")).await;
    assert!(is_refused(&result, "letters beyond ASCII"), "{result:?}");
    mailer.send(mail("bob@b\u{fc}cher.example")).await.unwrap();
    assert!(heard.all().contains(&"RCPT TO:<bob@xn--bcher-kva.example>".to_owned()), "{:?}", heard.all());
}

#[tokio::test]
async fn nobody_is_unreachable() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let mailer = SmtpMailer::new(&settings(format!("smtp+plain://127.0.0.1:{port}"))).unwrap();
    let result = mailer.send(mail("bob@example.com")).await;
    assert!(matches!(&result, Err(MailError::Unreachable(told)) if told.contains("refused")), "{result:?}");
}
