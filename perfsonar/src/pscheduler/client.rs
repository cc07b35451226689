//! Requests to a pScheduler server.

use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::outcome::{Outcome, OutcomeError};
use super::task::{TestKind, TestRequest};
use crate::http::{self, Answer, HttpError};

/// Attempts at a request that may be repeated.
const TRIES: u32 = 4;
/// The first pause before another attempt; each further one is twice as long.
const PAUSE: Duration = Duration::from_millis(250);
/// How long the server may hold one request until the run ends.
const WAIT: Duration = Duration::from_secs(30);
/// The pause between requests that the server answers at once.
const POLL: Duration = Duration::from_millis(500);
/// The most entries read from a list.
const LIST_MAX: usize = 1_000;

/// Why a request or a run failed.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// HTTP.
    #[error(transparent)]
    Http(#[from] HttpError),
    /// An HTTP error status.
    #[error("{host} answers {status} to {what}: {text}{}", hint(*.status))]
    Status {
        /// The server.
        host: String,
        /// What was requested.
        what: &'static str,
        /// The status.
        status: StatusCode,
        /// The server's message.
        text: String,
    },
    /// The answer is not JSON, or not in the documented form.
    #[error("{host} does not answer as a pScheduler server: {what}: {reason}")]
    Shape {
        /// The server.
        host: String,
        /// What was requested.
        what: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The run was never scheduled, or failed.
    #[error("the run on {host} ended as '{state}': {text}")]
    Run {
        /// The server.
        host: String,
        /// The run's last state.
        state: String,
        /// Why it failed.
        text: String,
    },
    /// The run does not end.
    #[error("the run on {host} has not ended within {seconds} s (its state is '{state}'); it was aborted")]
    NeverEnds {
        /// The server.
        host: String,
        /// The time limit.
        seconds: u64,
        /// The run's last state.
        state: String,
    },
    /// The result is unusable.
    #[error("{host}: {error}")]
    Outcome {
        /// The server.
        host: String,
        /// What is wrong with it.
        error: OutcomeError,
    },
}

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Discovery {
    /// Its API level.
    pub api: u64,
    /// Its own name.
    pub hostname: String,
    /// Tests.
    pub tests: Vec<String>,
    /// Tools that can run.
    pub tools: Vec<String>,
}

/// A run of a task.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Run {
    /// Its URL.
    pub href: String,
    /// Its state.
    pub state: String,
    /// When it begins.
    pub start_time: Option<String>,
    /// When it ends.
    pub end_time: Option<String>,
    /// The participating hosts.
    pub participants: Vec<Option<String>>,
    /// Errors of the run.
    pub errors: Option<Value>,
    /// The merged result.
    pub result_merged: Option<Value>,
}

impl Run {
    fn is_final(&self) -> bool {
        matches!(self.state.as_str(), "finished" | "missed" | "failed" | "preempted" | "nonstart" | "canceled")
    }
}

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    http: http::Client,
    base: String,
    host: String,
}

impl Client {
    /// A client of `host`: a name, `name:port`, or a URL such as `http://localhost:29285`.
    #[must_use]
    pub fn new(host: &str, http: http::Client) -> Self {
        let with_scheme = if host.contains("://") { host.to_owned() } else { format!("https://{host}") };
        let root = with_scheme.trim_end_matches('/').trim_end_matches("/pscheduler");
        let name = root.split("://").nth(1).unwrap_or(root).to_owned();
        Self { http, base: format!("{root}/pscheduler"), host: name }
    }

    /// The server's name and port.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The HTTP client, for its pin.
    #[must_use]
    pub const fn http(&self) -> &http::Client {
        &self.http
    }

    async fn once(&self, method: Method, path: &str, body: Vec<u8>, wait: Duration) -> Result<Answer, HttpError> {
        let headers = [("accept", "application/json".to_owned()), ("content-type", "application/json".to_owned())];
        self.http.request(method, &format!("{}{path}", self.base), &headers, body, wait).await
    }

    /// A request that may be repeated, which it is after network errors and 5xx.
    async fn get(&self, path: &str, what: &'static str, wait: Duration) -> Result<Value, SchedulerError> {
        let mut pause = PAUSE;
        for attempt in 1..=TRIES {
            let answer = self.once(Method::GET, path, Vec::new(), wait).await;
            let again = match &answer {
                Ok(answer) => answer.status.is_server_error() && answer.status != StatusCode::NOT_IMPLEMENTED,
                Err(error) => error.is_temporary(),
            };
            if !again || attempt == TRIES {
                return self.json(&answer?, what);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        unreachable!("the last attempt returns")
    }

    fn json(&self, answer: &Answer, what: &'static str) -> Result<Value, SchedulerError> {
        if !answer.status.is_success() {
            let text = if answer.body.is_empty() { "nothing more".to_owned() } else { answer.text() };
            return Err(SchedulerError::Status { host: self.host.clone(), what, status: answer.status, text });
        }
        serde_json::from_slice(&answer.body)
            .map_err(|error| self.shape(what, format!("not JSON ({error}): {}", answer.text())))
    }

    fn shape(&self, what: &'static str, reason: impl Into<String>) -> SchedulerError {
        let mut reason: String = reason.into();
        reason.truncate(reason.floor_char_boundary(300));
        SchedulerError::Shape { host: self.host.clone(), what, reason }
    }

    fn names(&self, list: &Value, what: &'static str) -> Result<Vec<String>, SchedulerError> {
        let list = list.as_array().ok_or_else(|| self.shape(what, "not a list"))?;
        let name = |entry: &Value| {
            // A name is the end of a URL, or in `name`, or since API 6 within `tool` next to
            // `can-run`.
            let can_run = entry.pointer("/can-run/can-run").and_then(Value::as_bool).unwrap_or(true);
            let text = entry
                .as_str()
                .or_else(|| entry.get("name")?.as_str())
                .or_else(|| entry.pointer("/tool/name")?.as_str())?;
            can_run.then(|| text.rsplit('/').next().unwrap_or(text).to_owned())
        };
        Ok(list.iter().take(LIST_MAX).filter_map(name).collect())
    }

    /// What the server offers.
    ///
    /// # Errors
    /// [`SchedulerError`].
    pub async fn discover(&self) -> Result<Discovery, SchedulerError> {
        let api = self.get("/api", "its API level", Duration::ZERO).await?;
        let api = api.as_u64().ok_or_else(|| self.shape("its API level", "not a number"))?;
        let hostname = self.get("/hostname", "its name", Duration::ZERO).await?;
        let hostname = hostname.as_str().ok_or_else(|| self.shape("its name", "not a text"))?.to_owned();
        let tests = self.names(&self.get("/tests", "its tests", Duration::ZERO).await?, "its tests")?;
        let tools = self.names(&self.get("/tools", "its tools", Duration::ZERO).await?, "its tools")?;
        Ok(Discovery { api, hostname, tests, tools })
    }

    /// Submits a task; returns its path on the server.
    ///
    /// # Errors
    /// [`SchedulerError`]. A task is submitted once: after a broken connection there is no second
    /// attempt, because the task may have arrived.
    pub async fn submit(&self, request: &TestRequest) -> Result<String, SchedulerError> {
        let body = serde_json::to_vec(&request.task()).map_err(|error| self.shape("the task", error.to_string()))?;
        let answer = self.once(Method::POST, "/tasks", body, Duration::from_secs(30)).await?;
        let task = self.json(&answer, "the task")?;
        let task = task.as_str().ok_or_else(|| self.shape("the task", "its answer is not the task's address"))?;
        self.path_of(task, "the task")
    }

    /// The path of a URL on this server. Servers write their own name, under which they may not be
    /// reachable; only the path is used, so nothing is ever fetched from another host.
    fn path_of(&self, address: &str, what: &'static str) -> Result<String, SchedulerError> {
        let path = address.split_once("/pscheduler/").map(|(_, path)| path);
        let is_plain = |path: &&str| {
            path.starts_with("tasks/")
                && !path.contains("..")
                && path.chars().all(|character| character.is_ascii_alphanumeric() || "/-_".contains(character))
        };
        match path.filter(is_plain) {
            Some(path) => Ok(format!("/{path}")),
            None => Err(self.shape(what, format!("'{address}' is not the address of a task"))),
        }
    }

    /// Waits for the first run of a task until it has ended. A run that does not end within `limit`
    /// is aborted.
    ///
    /// # Errors
    /// [`SchedulerError`].
    pub async fn follow(&self, task: &str, limit: Duration, mut tell: impl FnMut(&Run)) -> Result<Run, SchedulerError> {
        let until = Instant::now() + limit;
        let ended = self.follow_until(task, until, limit, &mut tell).await;
        if ended.is_err() {
            // Whatever the error, none of our tasks keeps running there.
            let _ = self.abort(task).await;
        }
        ended
    }

    async fn follow_until(
        &self,
        task: &str,
        until: Instant,
        limit: Duration,
        tell: &mut impl FnMut(&Run),
    ) -> Result<Run, SchedulerError> {
        let detail = self.get(&format!("{task}?detail=1"), "the task", Duration::ZERO).await?;
        let href = detail.pointer("/detail/first-run-href").and_then(Value::as_str);
        let href = href.ok_or_else(|| self.shape("the task", "it names no first run"))?;
        let path = self.path_of(href, "the first run")?;
        let mut state = String::new();
        let mut run_path = path;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (host, seconds) = (self.host.clone(), limit.as_secs());
                return Err(SchedulerError::NeverEnds {
                    host,
                    seconds,
                    state: if state.is_empty() { "unknown".to_owned() } else { state },
                });
            }
            let wait = WAIT.min(left);
            let asked = Instant::now();
            let question = format!("{run_path}?wait-merged=1&wait={}", wait.as_secs().max(1));
            let run = match self.get(&question, "the run", wait).await {
                // Not scheduled yet: the server finds a slot within seconds.
                Err(SchedulerError::Status { status: StatusCode::NOT_FOUND, .. }) if state.is_empty() => None,
                Err(error) => return Err(error),
                Ok(value) => Some(
                    serde_json::from_value::<Run>(value).map_err(|error| self.shape("the run", error.to_string()))?,
                ),
            };
            if let Some(run) = run {
                if run.state != state {
                    tell(&run);
                    state.clone_from(&run.state);
                }
                // The task names its first run "first"; from here on the run's own URL is known.
                if let Ok(own) = self.path_of(&run.href, "the run") {
                    run_path = own;
                }
                if run.is_final() && (run.result_merged.is_some() || run.state != "finished") {
                    return self.ended(run);
                }
            }
            if asked.elapsed() < POLL {
                tokio::time::sleep(POLL.min(left)).await;
            }
        }
    }

    fn ended(&self, run: Run) -> Result<Run, SchedulerError> {
        if run.state == "finished" {
            return Ok(run);
        }
        let text = run.errors.as_ref().map_or("it does not say why".to_owned(), |errors| {
            errors.as_str().map_or_else(|| errors.to_string(), str::to_owned)
        });
        Err(SchedulerError::Run { host: self.host.clone(), state: run.state, text: text.chars().take(600).collect() })
    }

    /// The result of a run.
    ///
    /// # Errors
    /// [`SchedulerError::Outcome`].
    pub fn outcome(&self, kind: TestKind, run: &Run) -> Result<Outcome, SchedulerError> {
        let result = run.result_merged.as_ref().unwrap_or(&Value::Null);
        Outcome::read(kind, result).map_err(|error| SchedulerError::Outcome { host: self.host.clone(), error })
    }

    /// Aborts a task.
    ///
    /// # Errors
    /// [`SchedulerError`].
    pub async fn abort(&self, task: &str) -> Result<(), SchedulerError> {
        let answer = self.once(Method::DELETE, task, Vec::new(), Duration::ZERO).await?;
        if answer.status.is_success() {
            return Ok(());
        }
        Err(SchedulerError::Status {
            host: self.host.clone(),
            what: "the end of the task",
            status: answer.status,
            text: answer.text(),
        })
    }
}

fn hint(status: StatusCode) -> &'static str {
    match status.as_u16() {
        403 => "; its limits do not permit it for this host: ask its admin, or request less",
        404 => "; it does not exist there (or no longer does)",
        422 => "; no tool there can run this test, or the participants have no tool in common",
        501 => "; its pScheduler is too old for this request",
        500..=599 => "; it is in trouble: try again later",
        _ => "",
    }
}
