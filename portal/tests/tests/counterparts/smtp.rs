//! The mail server takes messages, refuses them, and offers encryption.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use culvert_portal_tests::process::run;
use culvert_portal_tests::smtp::{Smtp, SmtpOptions, SmtpTls};

use crate::PATIENCE;

/// A conversation with the server, by hand.
struct Talk(BufReader<TcpStream>);

impl Talk {
    fn with(smtp: &Smtp) -> Self {
        let stream = TcpStream::connect(smtp.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut talk = Self(BufReader::new(stream));
        assert!(talk.hear().starts_with("220 "));
        talk
    }

    /// Says a line; returns all lines of the answer.
    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).unwrap();
        self.hear()
    }

    fn hear(&mut self) -> String {
        let mut answer = String::new();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            answer += &line;
            if line.get(3..4) != Some("-") {
                return answer;
            }
        }
    }

    /// Sends a message; returns the first answer that is a refusal, or the last.
    fn send(&mut self) -> String {
        let commands =
            ["MAIL FROM:<portal@example.com>", "RCPT TO:<alice@example.com>", "RCPT TO:<bob@example.com>", "DATA"];
        let mut answer = self.say("EHLO localhost");
        for command in commands.into_iter().chain(["Subject: hello\r\n\r\nGood morning.\r\n."]) {
            if answer.starts_with(['4', '5']) {
                break;
            }
            answer = self.say(command);
        }
        answer
    }
}

#[test]
fn messages_are_kept_refused_and_slow() {
    let Some(smtp) = Smtp::start(&SmtpOptions::default()) else { return };
    assert!(Talk::with(&smtp).send().starts_with("250 "));
    let messages = smtp.wait_for(1, PATIENCE);
    let message = &messages[0];
    assert_eq!((messages.len(), message.from.as_str(), message.encrypted), (1, "portal@example.com", false));
    assert_eq!(message.to, ["alice@example.com", "bob@example.com"]);
    assert!(message.text.starts_with("Subject: hello") && message.text.contains("Good morning."), "{message:?}");

    for (command, refusal) in
        [("RCPT", "550 no such user"), ("DATA", "451 later"), ("MAIL", "452 full"), ("EHLO", "421 no")]
    {
        smtp.refuse(command, refusal);
        assert_eq!(Talk::with(&smtp).send().trim_end(), refusal);
    }
    let delay = Duration::from_millis(200);
    smtp.be_slow(delay);
    let began = Instant::now();
    assert!(Talk::with(&smtp).send().starts_with("250 "));
    assert!(began.elapsed() >= 5 * delay, "{:?}", began.elapsed());
    smtp.take_all();
    assert!(Talk::with(&smtp).send().starts_with("250 "));
    assert_eq!(smtp.messages().len(), 3);
}

#[test]
fn encryption_and_a_login_are_offered_or_required() {
    let started = |tls, login: Option<(&str, &str)>| {
        let login = login.map(|(name, password)| (name.to_owned(), password.to_owned()));
        Smtp::start(&SmtpOptions { tls, login })
    };
    let Some(smtp) = started(SmtpTls::StartTls, None) else { return };
    assert!(Talk::with(&smtp).say("EHLO localhost").contains("STARTTLS"));
    assert!(Talk::with(&smtp).send().starts_with("250 "));
    send_encrypted(&smtp, "SMTP", "client.starttls(context=context)");
    let encrypted: Vec<bool> = smtp.wait_for(2, PATIENCE).iter().map(|message| message.encrypted).collect();
    assert_eq!(encrypted, [false, true]);

    let smtp = started(SmtpTls::Required, Some(("portal", "a secret"))).unwrap();
    assert!(Talk::with(&smtp).send().starts_with("530 "));
    send_encrypted(&smtp, "SMTP", "client.starttls(context=context); client.login('portal', 'a secret')");
    assert_eq!(smtp.wait_for(1, PATIENCE)[0].login.as_deref(), Some("portal"));

    let smtp = started(SmtpTls::None, Some(("portal", "a secret"))).unwrap();
    assert!(Talk::with(&smtp).send().starts_with("530 "));
    let mut talk = Talk::with(&smtp);
    assert!(talk.say("EHLO localhost").contains("AUTH"));
    // "\0portal\0wrong" and "\0portal\0a secret".
    assert!(talk.say("AUTH PLAIN AHBvcnRhbAB3cm9uZw==").starts_with("535 "));
    assert!(talk.say("AUTH PLAIN AHBvcnRhbABhIHNlY3JldA==").starts_with("235 "));
    assert!(talk.send().starts_with("250 "));
    assert_eq!(smtp.wait_for(1, PATIENCE)[0].login.as_deref(), Some("portal"));

    let smtp = started(SmtpTls::Implicit, None).unwrap();
    send_encrypted(&smtp, "SMTP_SSL", "pass");
    assert!(smtp.wait_for(1, PATIENCE)[0].encrypted);
}

/// Sends a message with Python's own client, which checks the certificate.
fn send_encrypted(smtp: &Smtp, class: &str, then: &str) {
    let script = format!(
        "import smtplib, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
more = dict(context=context) if '{class}' == 'SMTP_SSL' else dict()
with smtplib.{class}('localhost', int(sys.argv[2]), timeout=30, **more) as client:
    {then}
    client.sendmail('portal@example.com', ['alice@example.com'], 'Subject: hello\\r\\n\\r\\nGood morning.')"
    );
    let mut command = Command::new("python3");
    command.args(["-c", &script]).arg(smtp.authority_file()).arg(smtp.address().port().to_string());
    let _ = run("smtplib", command, PATIENCE).succeeds();
}
