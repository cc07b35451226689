//! A mail server: PyPI's `aiosmtpd`, which keeps what it takes and refuses or dawdles when it is
//! told to.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::ports::{Port, wait_for};
use crate::process::{Process, folder};
use crate::python::Python;
use crate::tls::Authority;

const SCRIPT: &str = include_str!("../python/smtp_server.py");
const PACKAGES: &[&str] = &["aiosmtpd==1.4.6"];
const PATIENCE: Duration = Duration::from_secs(60);

/// When a connection is encrypted. The certificate is for `localhost` and `127.0.0.1`, from
/// [`Authority::shared`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SmtpTls {
    /// Never.
    #[default]
    None,
    /// After STARTTLS, which is offered.
    StartTls,
    /// After STARTTLS; before it, nothing is taken.
    Required,
    /// From the beginning.
    Implicit,
}

/// How the server is configured.
#[derive(Debug, Clone, Default)]
pub struct SmtpOptions {
    /// When a connection is encrypted.
    pub tls: SmtpTls,
    /// The name and password without which nothing is taken.
    pub login: Option<(String, String)>,
}

/// A message that was taken.
#[derive(Debug, Clone, Deserialize)]
pub struct Message {
    /// The sender of the envelope.
    pub from: String,
    /// The recipients of the envelope.
    pub to: Vec<String>,
    /// Whether it came over an encrypted connection.
    pub encrypted: bool,
    /// Who had logged in.
    pub login: Option<String>,
    /// Headers and body.
    pub text: String,
}

/// A running mail server.
#[derive(Debug)]
pub struct Smtp {
    port: Port,
    authority: PathBuf,
    process: Process,
    folder: TempDir,
}

impl Smtp {
    /// Starts it, or prints why the test is skipped.
    ///
    /// # Panics
    /// If it does not start although it can be had.
    #[must_use]
    pub fn start(options: &SmtpOptions) -> Option<Self> {
        let python = Python::with("aiosmtpd", PACKAGES)?;
        let (folder, port) = (folder(), Port::reserve());
        let path = |name: &str| folder.path().join(name);
        fs::create_dir(path("messages")).expect("a folder can be made");
        let tls = match options.tls {
            SmtpTls::None => "none",
            SmtpTls::StartTls => "starttls",
            SmtpTls::Required => "required",
            SmtpTls::Implicit => "implicit",
        };
        let [certificate, key] = Authority::shared().issue(&["localhost", "127.0.0.1"]).write(folder.path());
        let config = json!({"port": port.number(), "folder": path("messages"), "behavior": path("behavior.json"),
            "tls": tls, "certificate": certificate, "key": key, "login": options.login});
        write(&path("config.json"), &config.to_string());
        write(&path("smtp_server.py"), SCRIPT);
        behave(folder.path(), Duration::ZERO, &Map::new());
        let command = python.command([path("smtp_server.py"), path("config.json")]);
        let process = Process::spawn("aiosmtpd", command, &folder);
        wait_for(&process, port.address(), PATIENCE);
        let authority = Authority::shared().write(folder.path());
        Some(Self { port, authority, process, folder })
    }

    /// Where it takes connections.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The file with the certificate of the authority that its own comes from.
    #[must_use]
    pub fn authority_file(&self) -> &Path {
        &self.authority
    }

    /// Answers a command (`EHLO`, `MAIL`, `RCPT` or `DATA`) with a refusal from now on:
    /// `550 no such user`, or `451 try again later`.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn refuse(&self, command: &str, answer: &str) {
        let refusals = Map::from_iter([(command.to_owned(), Value::from(answer))]);
        behave(self.folder.path(), Duration::ZERO, &refusals);
    }

    /// Answers each command so much later from now on.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn be_slow(&self, delay: Duration) {
        behave(self.folder.path(), delay, &Map::new());
    }

    /// Takes everything at once again.
    ///
    /// # Panics
    /// If it cannot be told.
    pub fn take_all(&self) {
        behave(self.folder.path(), Duration::ZERO, &Map::new());
    }

    /// What it has taken, in order.
    ///
    /// # Panics
    /// If a file with a message cannot be read.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let folder = self.folder.path().join("messages");
        let files = fs::read_dir(&folder).expect("the server's folder is there").flatten().map(|entry| entry.path());
        let mut files: Vec<PathBuf> =
            files.filter(|path| path.extension().is_some_and(|name| name == "json")).collect();
        files.sort();
        let read = |path: &PathBuf| {
            let text = fs::read_to_string(path).expect("a message can be read");
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
        };
        files.iter().map(read).collect()
    }

    /// Waits until it has taken so many messages, and returns all.
    ///
    /// # Panics
    /// If they do not come in time.
    #[track_caller]
    #[must_use]
    pub fn wait_for(&self, count: usize, patience: Duration) -> Vec<Message> {
        self.process.until(&format!("taking messages: {count}"), patience, || self.messages().len() >= count);
        self.messages()
    }
}

fn behave(folder: &Path, delay: Duration, refusals: &Map<String, Value>) {
    let behavior = json!({"delay_seconds": delay.as_secs_f64(), "refusals": refusals});
    let (new, path) = (folder.join("behavior.new"), folder.join("behavior.json"));
    write(&new, &behavior.to_string());
    // The server may be reading it.
    fs::rename(&new, &path).expect("a file can be renamed");
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
