//! The real program `culvert-portal`, started by a test on a free port with its own state.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::{Answer, Client, Request, wait_for};
use crate::ports::Port;
use crate::process::{self, Process};
use crate::tls::Authority;

/// The password of everybody.
pub const PASSWORD: &str = "analytical engine one";
/// How long the portal may take to serve, on a loaded host.
const PATIENCE: Duration = Duration::from_secs(60);

/// The program: `CULVERT_PORTAL_BIN`, or the one that cargo builds beside these tests.
///
/// # Panics
/// If it cannot be built.
#[must_use]
pub fn portal() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| built("culvert-portal", "CULVERT_PORTAL_BIN"))
}

/// A program: the one that a variable names, or the one that cargo builds beside these tests.
///
/// # Panics
/// If it cannot be built.
pub(crate) fn built(package: &str, variable: &str) -> PathBuf {
    if let Some(path) = std::env::var_os(variable) {
        return path.into();
    }
    let this = std::env::current_exe().expect("a program knows its own file");
    let deps = this.parent().expect("a program lies in a directory");
    let profile = deps.parent().expect("deps lies in a profile's directory");
    let mut build = Command::new(env!("CARGO"));
    build.args(["build", "--quiet", "--package", package]);
    if profile.file_name().and_then(OsStr::to_str).is_some_and(|name| name != "debug") {
        build.arg("--release");
    }
    assert!(build.status().expect("cargo runs").success(), "the program under test does not build");
    profile.join(package)
}

/// How a portal is started.
#[derive(Debug, Clone, Default)]
pub struct PortalOptions {
    /// The database's address; SQLite in the state directory if absent.
    pub database: Option<String>,
    /// Where it listens, if a proxy in front of it must know that before; a free port if absent.
    pub listen: Option<SocketAddr>,
    /// Further arguments.
    pub arguments: Vec<String>,
    /// Variables of the environment.
    pub variables: Vec<(String, String)>,
    /// The authority of its certificate (PEM), if the arguments give it one: it is asked over TLS,
    /// as `localhost`.
    pub authority: Option<String>,
}

/// A portal that runs. It is ended when this is dropped.
#[derive(Debug)]
pub struct RunningPortal {
    /// Its process.
    pub process: Process,
    /// Its address, without a slash at the end.
    pub url: String,
    /// Where its metrics are.
    pub metrics_url: String,
    /// Its state directory.
    pub state: PathBuf,
    client: Client,
    _folder: TempDir,
}

impl RunningPortal {
    /// Starts one with an empty state, and waits until it serves.
    ///
    /// # Panics
    /// With what it printed, if it does not serve.
    #[must_use]
    pub fn start(options: &PortalOptions) -> Self {
        let state = process::folder();
        let path = state.path().join("state");
        Self::start_in(&path, options, state)
    }

    /// Starts one with an empty state on a port that was kept for it.
    ///
    /// # Panics
    /// With what it printed, if it does not serve.
    #[must_use]
    pub fn start_at(port: &Port, options: &PortalOptions) -> Self {
        let folder = process::folder();
        let path = folder.path().join("state");
        Self::start_on(port, &path, options, folder)
    }

    /// Starts another portal of the same database, which has this one's sealing key.
    ///
    /// # Panics
    /// With what it printed, if it does not serve.
    #[must_use]
    pub fn another(&self, options: &PortalOptions) -> Self {
        let mut options = options.clone();
        let key = self.state.join("sealing.key").display().to_string();
        options.arguments.extend(["--sealing-key-file".to_owned(), key]);
        Self::start(&options)
    }

    /// Starts one with a state that is there already, as after a crash.
    ///
    /// # Panics
    /// With what it printed, if it does not serve.
    #[must_use]
    pub fn start_again(state: &Path, options: &PortalOptions) -> Self {
        Self::start_in(state, options, process::folder())
    }

    /// Begins to start one with a state that may be there already, and does not wait for it: it is
    /// killed while it starts. It listens on some port.
    #[must_use]
    pub fn begin(state: &Path, options: &PortalOptions, folder: &TempDir) -> Process {
        let mut command = command(state, options);
        command.args(["--listen", "127.0.0.1:0", "--metrics", "off"]).args(&options.arguments);
        Process::spawn("portal", command, folder)
    }

    fn start_in(state: &Path, options: &PortalOptions, folder: TempDir) -> Self {
        Self::start_on(&Port::reserve(), state, options, folder)
    }

    fn start_on(port: &Port, state: &Path, options: &PortalOptions, folder: TempDir) -> Self {
        let metrics = Port::reserve();
        let (address, metrics_address) = (options.listen.unwrap_or(port.address()), metrics.address());
        let mut command = command(state, options);
        command.args(["--listen", &address.to_string(), "--metrics", &metrics_address.to_string()]);
        command.args(&options.arguments);
        let process = Process::spawn("portal", command, &folder);
        let (url, mut client) = match &options.authority {
            None => (format!("http://{address}"), Client::new()),
            Some(authority) => (format!("https://localhost:{}", port.number()), Client::trusting(authority)),
        };
        wait_for(&process, &mut client, &format!("{url}/readyz"), PATIENCE);
        let metrics_url = format!("http://{metrics_address}/metrics");
        Self { process, url, metrics_url, state: state.to_owned(), client, _folder: folder }
    }

    /// The secret of the setup link that it printed.
    ///
    /// # Panics
    /// If it printed none.
    #[must_use]
    pub fn setup_secret(&self) -> String {
        let mut found: Option<String> = None;
        self.process.until("printing a setup link", PATIENCE, || {
            let is_of_secret = |letter: char| letter.is_ascii_alphanumeric() || "_-".contains(letter);
            let output = self.process.output();
            // Behind it is the end of a line, or of a string of JSON.
            found =
                output.split('#').nth(1).map(|rest| rest.chars().take_while(|letter| is_of_secret(*letter)).collect());
            found.as_ref().is_some_and(|secret| secret.len() == 55)
        });
        found.expect("a secret")
    }

    /// Makes the first administrator, `ada`, and logs in.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn with_admin(&self) -> Browser {
        self.make_admin(&self.url, self.client.clone())
    }

    /// The same by way of a proxy in front of the portal.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn with_admin_behind(&self, url: &str) -> Browser {
        self.make_admin(url, Client::trusting(Authority::shared().pem()))
    }

    fn make_admin(&self, url: &str, mut client: Client) -> Browser {
        let account = json!({ "name": "ada", "password": PASSWORD });
        let body = json!({ "secret": self.setup_secret(), "account": account });
        let made = client.post_json(&format!("{url}/api/v1/setup"), &body);
        assert_eq!(made.status, 201, "{}", made.text());
        log_in_at(url, client, "ada")
    }

    /// Logs somebody in.
    ///
    /// # Panics
    /// If that fails.
    #[must_use]
    pub fn log_in(&self, name: &str) -> Browser {
        log_in_at(&self.url, self.client.clone(), name)
    }

    /// Runs a command on the portal's host, beside the portal.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        options: &PortalOptions,
        arguments: impl IntoIterator<Item = S>,
    ) -> process::Ran {
        run(&self.state, options, arguments)
    }
}

/// Runs a command on a state directory, whether or not a portal serves from it.
///
/// # Panics
/// If it cannot be started, or does not end.
pub fn run<S: AsRef<OsStr>>(
    state: &Path,
    options: &PortalOptions,
    arguments: impl IntoIterator<Item = S>,
) -> process::Ran {
    let mut command = command(state, options);
    command.args(arguments);
    process::run("portal-command", command, PATIENCE)
}

/// Somebody who has logged in to a portal.
#[derive(Debug, Clone)]
pub struct Browser {
    /// The client, with its cookies.
    pub client: Client,
    base: String,
}

impl Browser {
    /// Somebody who has logged in with this client at a portal.
    #[must_use]
    pub fn with(client: Client, url: &str) -> Self {
        Self { client, base: format!("{url}/api/v1") }
    }

    /// Gets something below `/api/v1`.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn get(&mut self, path: &str) -> Answer {
        self.send("GET", path, &[], None)
    }

    /// Posts JSON to something below `/api/v1`.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn post(&mut self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[], Some(body))
    }

    /// Makes an API token with these scopes; gives its secret.
    ///
    /// # Panics
    /// If that fails.
    pub fn make_token(&mut self, scopes: &[&str]) -> String {
        let answer = self.post("/tokens", &json!({ "name": "a test", "scopes": scopes, "days": 1 }));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["secret"].as_str().expect("a secret").to_owned()
    }

    /// Sends any request to something below `/api/v1`.
    ///
    /// # Panics
    /// If nobody answers.
    #[track_caller]
    pub fn send(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Option<&Value>) -> Answer {
        self.try_send(method, path, headers, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// The same person at another portal of the same database.
    #[must_use]
    pub fn at(&self, url: &str) -> Self {
        Self::with(self.client.clone(), url)
    }

    /// As [`Browser::send`], where the portal may be gone.
    ///
    /// # Errors
    /// If nobody answers.
    pub fn try_send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&Value>,
    ) -> std::io::Result<Answer> {
        let mut request = Request::new(method, &format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.with(name, value);
        }
        if let Some(body) = body {
            request = request.with_body("application/json", body.to_string());
        }
        self.client.send(&request)
    }

    /// Makes an account with these roles and [`PASSWORD`]; gives its identifier.
    ///
    /// # Panics
    /// If that fails.
    pub fn make_person(&mut self, name: &str, roles: &[&str]) -> String {
        let answer = self.post("/users", &json!({ "name": name, "roles": roles, "password": PASSWORD }));
        assert_eq!(answer.status, 201, "{}", answer.text());
        answer.json()["id"].as_str().expect("an identifier").to_owned()
    }
}

fn log_in_at(url: &str, mut client: Client, name: &str) -> Browser {
    let body = json!({ "name": name, "password": PASSWORD });
    let answer = client.post_json(&format!("{url}/api/v1/sessions"), &body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    Browser::with(client, url)
}

/// The program with a state directory and a database; no other variable of Culvert reaches it.
fn command(state: &Path, options: &PortalOptions) -> Command {
    let mut command = Command::new(portal());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CULVERT_")) {
        command.env_remove(name);
    }
    command.envs(options.variables.iter().map(|(name, value)| (name, value)));
    command.arg("--state").arg(state);
    if let Some(database) = &options.database {
        command.args(["--database", database]);
    }
    command
}
