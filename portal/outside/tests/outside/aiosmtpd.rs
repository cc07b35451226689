//! The mailer against an independent implementation: aiosmtpd, from PyPI, in a virtual environment
//! that the test makes. Skipped where Python or the registry is not to be had.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_portal_outside::{SmtpMailer, SmtpSettings};
use culvert_portal_seams::mail::{Mail, MailError, Mailer as _};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

use crate::mail::{mail, settings};
use crate::tls::Authority;

/// The aiosmtpd that the tests were written for.
const AIOSMTPD: &str = "aiosmtpd==1.4.6";

/// A server. Each message that it takes is a line of JSON.
const SERVER: &str = r#"
import asyncio, email, email.policy, json, logging, ssl, sys, warnings
from aiosmtpd.smtp import SMTP, AuthResult
mode, folder = sys.argv[1], sys.argv[2]
logging.disable()
warnings.simplefilter("ignore")

class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody@"):
            return "550 5.1.1 no such user"
        if address.startswith("later@"):
            return "450 4.2.1 try again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"
    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        print(json.dumps(dict(
            sender=envelope.mail_from, recipients=envelope.rcpt_tos, subject=message["subject"],
            to=str(message["to"]), author=str(message["from"]), body=message.get_content().replace("\r\n", "\n"),
            defects=[str(d) for d in message.defects], user=session.auth_data and session.auth_data.decode(),
            tls=session.ssl is not None, keys=message.keys())), flush=True)
        return "250 taken"

def authenticate(server, session, envelope, mechanism, data):
    if data.login == b"ada" and data.password == "hunter2 \u00fc".encode():
        return AuthResult(success=True, auth_data=data.login)
    return AuthResult(success=False, handled=False)

async def main():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder + "/server.pem", folder + "/server.key")
    options = dict(hostname="mail.example.org", enable_SMTPUTF8=True)
    if mode == "starttls":
        options.update(tls_context=context, require_starttls=True, authenticator=authenticate, auth_required=True)
    if mode == "login":
        options.update(authenticator=authenticate, auth_required=True, auth_require_tls=False,
            auth_exclude_mechanism=["PLAIN"])
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Handler(), loop=loop, **options), "127.0.0.1", 0,
        ssl=context if mode == "tls" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"#;

/// A Python with aiosmtpd, made once and kept beside the build.
fn python() -> Option<PathBuf> {
    use std::sync::OnceLock;
    static PYTHON: OnceLock<Option<PathBuf>> = OnceLock::new();
    PYTHON.get_or_init(make_python).clone()
}

fn make_python() -> Option<PathBuf> {
    let environment = Path::new(env!("CARGO_TARGET_TMPDIR")).join("mail");
    let python = environment.join("bin/python");
    let succeeds = |command: &mut Command| command.output().is_ok_and(|ran| ran.status.success());
    let has_it = || succeeds(Command::new(&python).args(["-c", "import aiosmtpd.smtp"]));
    if has_it() {
        return Some(python);
    }
    let installed = succeeds(Command::new("python3").args(["-m", "venv"]).arg(&environment))
        && succeeds(Command::new(&python).args(["-m", "pip", "install", "--quiet", AIOSMTPD]));
    if installed && has_it() {
        return Some(python);
    }
    eprintln!("skipped: a Python environment with {AIOSMTPD} cannot be made");
    None
}

/// A running server, which ends with the test.
struct Server {
    port: u16,
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
    _folder: TempDir,
}

impl Server {
    async fn start(mode: &str) -> Option<Self> {
        let python = tokio::task::spawn_blocking(python).await.unwrap()?;
        let folder = TempDir::new().unwrap();
        Authority::get().write(&["localhost"], folder.path());
        let mut command = tokio::process::Command::new(python);
        command.args(["-c", SERVER, mode]).arg(folder.path()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port = lines.next_line().await.unwrap().expect("the server starts").parse().unwrap();
        Some(Self { port, lines, _process: process, _folder: folder })
    }

    fn mailer(&self, scheme: &str, login: &str) -> SmtpMailer {
        SmtpMailer::new(&settings(format!("{scheme}://{login}localhost:{}", self.port))).unwrap()
    }

    async fn taken(&mut self) -> Value {
        serde_json::from_str(&self.lines.next_line().await.unwrap().unwrap()).unwrap()
    }
}

#[tokio::test]
async fn aiosmtpd_takes_a_message_after_starttls_and_login() {
    let Some(mut server) = Server::start("starttls").await else { return };
    let mailer = server.mailer("smtp", "ada:hunter2%20%C3%BC@");
    mailer.send(mail("bob@example.com")).await.unwrap();
    let taken = server.taken().await;
    assert_eq!((&taken["user"], &taken["tls"]), (&Value::from("ada"), &Value::from(true)), "{taken}");
    assert_eq!((&taken["sender"], &taken["recipients"][0]), (&"noreply@example.org".into(), &"bob@example.com".into()));
    assert_eq!((&taken["to"], &taken["author"]), (&"bob@example.com".into(), &"Culvert <noreply@example.org>".into()));
    assert_eq!((&taken["subject"], &taken["body"]), (&"Hello".into(), &"One\nTwo\n\n".into()), "{taken}");
    assert_eq!(taken["defects"], serde_json::json!([]));
    for header in ["Date", "Message-ID", "Auto-Submitted", "MIME-Version"] {
        assert!(taken["keys"].as_array().unwrap().contains(&header.into()), "{taken}");
    }
}

#[tokio::test]
async fn aiosmtpd_reads_letters_beyond_ascii() {
    let Some(mut server) = Server::start("tls").await else { return };
    let mailer = server.mailer("smtps", "");
    let subject = "Gr\u{fc}\u{df}e \u{2014} \u{43f}\u{440}\u{438}\u{432}\u{435}\u{442} \u{1f44b} ".repeat(8);
    let body = format!("Gr\u{fc}\u{df}e,\n.\n..dots\n{}\n\u{4f60}\u{597d}\n", "\u{fc}".repeat(2_000));
    for to in ["bob@example.com", "j\u{fc}rgen@example.com"] {
        let sent = Mail { to: to.to_owned(), subject: subject.trim().to_owned(), body: body.clone() };
        mailer.send(sent).await.unwrap();
        let taken = server.taken().await;
        assert_eq!((&taken["recipients"][0], &taken["subject"]), (&to.into(), &subject.trim().into()), "{taken}");
        assert_eq!(taken["body"].as_str().unwrap().trim_end(), body.trim_end());
    }
}

#[tokio::test]
async fn aiosmtpd_refuses_who_it_does_not_know_and_who_nobody_is() {
    let Some(server) = Server::start("starttls").await else { return };
    let result = server.mailer("smtp", "ada:wrong@").send(mail("bob@example.com")).await;
    assert!(matches!(&result, Err(MailError::LoginRefused(told)) if told.contains("the login with 535")), "{result:?}");
    let result = server.mailer("smtp", "").send(mail("bob@example.com")).await;
    assert!(
        matches!(&result, Err(MailError::LoginRefused(told)) if told.contains("the sender with 530")),
        "{result:?}"
    );
    let mailer = server.mailer("smtp", "ada:hunter2%20%C3%BC@");
    let result = mailer.send(mail("nobody@example.com")).await;
    assert!(matches!(&result, Err(MailError::Refused(told)) if told.contains("550 5.1.1 no such user")), "{result:?}");
    let result = mailer.send(mail("later@example.com")).await;
    assert!(matches!(&result, Err(MailError::Unreachable(told)) if told.contains("450 4.2.1")), "{result:?}");
}

#[tokio::test]
async fn aiosmtpd_takes_the_password_of_a_file_by_login() {
    let Some(mut server) = Server::start("login").await else { return };
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "hunter2 \u{fc}\n").unwrap();
    let url = format!("smtp+plain://ada@localhost:{}", server.port);
    let mailer = SmtpMailer::new(&SmtpSettings { password_file: Some(file), ..settings(url) }).unwrap();
    mailer.send(mail("bob@example.com")).await.unwrap();
    assert_eq!(server.taken().await["user"], "ada");
}
