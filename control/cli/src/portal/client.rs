//! One request to a portal: who asks, what the answer is, and what a refusal means on this side.
//!
//! Redirects are not followed: a POST would become a GET, or a secret would go where nobody has
//! checked. Where they lead is told instead. There is no support for proxies.

use std::path::Path;
use std::time::Duration;

use culvert_engine::connection::tells_unknown_host;
use culvert_model::exit_code::ExitCode;
use culvert_perfsonar::http::{Answer, Client, HttpError, Trust};
use culvert_protocol::foreign_text::foreign_text;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::exit::{CommandError, of_http};
use crate::portal::address::PortalUrl;
use crate::portal::documents::ProblemDocument;
use crate::portal::secret::Secret;

/// How long a request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// The code of a portal that cannot do something now, in the words of its API.
const NO_PORTAL: &str = "unavailable";
const UNKNOWN_CA: &str = "its CA is not known here: name the file of its CA with --ca-file";
/// What every portal answers to everybody.
const OPEN_TO_EVERYBODY: &str = "/login/providers";

/// By what somebody is known.
#[derive(Clone, Copy, Debug)]
pub enum Credential<'a> {
    /// By nothing.
    Nothing,
    /// By an API token.
    Token(&'a Secret),
    /// By a session: its cookie.
    Session(&'a Secret),
}

/// Why a portal has not done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum PortalError {
    /// No answer.
    #[error("{0}{1}")]
    Http(HttpError, String),
    /// It leads elsewhere.
    #[error("{url} leads elsewhere (status {status}), which is not followed: {remedy}")]
    Redirect {
        /// Who answers.
        url: PortalUrl,
        /// With which status.
        status: u16,
        /// What to do.
        remedy: String,
    },
    /// Something else answers.
    #[error("{url} is not a portal of Culvert ({why}): check the address")]
    NotAPortal {
        /// Who answers.
        url: PortalUrl,
        /// What it says.
        why: String,
    },
    /// It refuses, and says why.
    #[error("{url} refuses this: {detail} ({code})")]
    Refused {
        /// Who answers.
        url: PortalUrl,
        /// The status.
        status: u16,
        /// The kind of refusal, as in `docs/portal.md`.
        code: String,
        /// Its sentence.
        detail: String,
        /// In how many seconds it may be asked again.
        retry_after_seconds: Option<u64>,
    },
}

impl PortalError {
    /// The kind of refusal, if it is one.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        if let Self::Refused { code, .. } = self { Some(code) } else { None }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.exit_code() == ExitCode::Temporary
    }

    /// In how many seconds to ask again, if the portal has said so.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u64> {
        if let Self::Refused { retry_after_seconds, .. } = self { *retry_after_seconds } else { None }
    }

    /// The error of a request with a token, which `whose` names.
    #[must_use]
    pub fn of_token(self, whose: &str) -> CommandError {
        match self {
            Self::Refused { url, status: 401, .. } => {
                let text = format!(
                    "{whose} is no longer good: it was revoked, or has expired, or its account was deactivated; log in \
                     with 'culvert login {url}'"
                );
                CommandError::new(ExitCode::NotPermitted, text)
            }
            error => error.into(),
        }
    }

    fn exit_code(&self) -> ExitCode {
        match self {
            Self::Http(HttpError::Connect { reason, .. }, _) if tells_unknown_host(reason) => ExitCode::NotFound,
            Self::Http(error, _) => of_http(error),
            Self::Redirect { .. } | Self::NotAPortal { .. } => ExitCode::Failed,
            Self::Refused { status, .. } => match status {
                401 | 403 => ExitCode::NotPermitted,
                404 => ExitCode::NotFound,
                400 | 413 | 422 => ExitCode::Usage,
                408 | 429 | 500.. => ExitCode::Temporary,
                _ => ExitCode::Failed,
            },
        }
    }
}

impl From<PortalError> for CommandError {
    fn from(error: PortalError) -> Self {
        match error {
            PortalError::Http(..) => Self::new(error.exit_code(), error),
            error => Self::from_other_process(error.exit_code(), error.to_string()),
        }
    }
}

/// A portal, as somebody asks it.
#[derive(Debug)]
pub struct PortalClient {
    url: PortalUrl,
    http: Client,
}

impl PortalClient {
    /// A client of a portal whose certificate comes from a CA that this host trusts, or from one of
    /// a file.
    ///
    /// # Errors
    /// [`CommandError`] if there is no such CA.
    pub fn new(url: PortalUrl, ca_file: Option<&Path>) -> Result<Self, CommandError> {
        // Without TLS there is nothing to verify, on a host that perhaps knows no CA at all.
        let trust = if url.is_plain() { Trust::Insecure } else { Trust::Ca(ca_file.map(Path::to_owned)) };
        let code = if ca_file.is_some() { ExitCode::Usage } else { ExitCode::BadHost };
        let http = Client::new(&trust, REQUEST_TIMEOUT).map_err(|error| CommandError::new(code, error))?;
        Ok(Self { url, http: http.with_remedy(UNKNOWN_CA) })
    }

    /// Whom it asks.
    #[must_use]
    pub const fn url(&self) -> &PortalUrl {
        &self.url
    }

    /// Makes sure that a portal answers, without showing it any secret.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn check(&self) -> Result<(), PortalError> {
        let answer = self.send(Method::GET, OPEN_TO_EVERYBODY, Credential::Nothing, None).await?;
        let found: Value = self.decoded(&answer)?;
        if found["items"].is_array() { Ok(()) } else { Err(self.not_a_portal("it says something else")) }
    }

    /// Gets something below `/api/v1`.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn get<A: DeserializeOwned>(&self, path: &str, who: Credential<'_>) -> Result<A, PortalError> {
        self.decoded(&self.asked(Method::GET, path, who, None).await?)
    }

    /// Posts a document to something below `/api/v1`.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn post<A: DeserializeOwned>(
        &self,
        path: &str,
        who: Credential<'_>,
        body: &Value,
    ) -> Result<A, PortalError> {
        self.decoded(&self.asked(Method::POST, path, who, Some(body)).await?)
    }

    /// Posts a document for the sake of a cookie, `NAME=VALUE`, that the answer sets.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn post_for_cookie(&self, path: &str, body: &Value) -> Result<Secret, PortalError> {
        let answer = self.asked(Method::POST, path, Credential::Nothing, Some(body)).await?;
        let cookie = answer.header("set-cookie").and_then(|line| line.split(';').next()).map(str::to_owned);
        cookie.map(Secret::from).ok_or_else(|| self.not_a_portal("it sets no cookie"))
    }

    /// Deletes something below `/api/v1`.
    ///
    /// # Errors
    /// [`PortalError`].
    pub async fn delete(&self, path: &str, who: Credential<'_>) -> Result<(), PortalError> {
        self.asked(Method::DELETE, path, who, None).await.map(drop)
    }

    /// Sends a request with a secret. Over plain HTTP, whoever listens there has shown first that
    /// it is no redirection.
    async fn asked(
        &self,
        method: Method,
        path: &str,
        who: Credential<'_>,
        body: Option<&Value>,
    ) -> Result<Answer, PortalError> {
        if self.url.is_plain() {
            self.check().await?;
        }
        self.send(method, path, who, body).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        who: Credential<'_>,
        body: Option<&Value>,
    ) -> Result<Answer, PortalError> {
        let mut headers = vec![("accept", "application/json".to_owned())];
        match who {
            Credential::Nothing => {}
            Credential::Token(secret) => headers.push(("authorization", format!("Bearer {}", secret.text()))),
            Credential::Session(cookie) => headers.push(("cookie", cookie.text().to_owned())),
        }
        if body.is_some() {
            headers.push(("content-type", "application/json".to_owned()));
        }
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let url = self.url.with(&format!("/api/v1{path}"));
        let answer = self.http.request(method, &url, &headers, body, Duration::ZERO).await;
        let answer = answer.map_err(|error| self.unanswered(error))?;
        if answer.status.is_success() { Ok(answer) } else { Err(self.refusal(&answer)) }
    }

    fn decoded<A: DeserializeOwned>(&self, answer: &Answer) -> Result<A, PortalError> {
        serde_json::from_slice(&answer.body).map_err(|error| self.not_a_portal(&format!("its answer has {error}")))
    }

    fn refusal(&self, answer: &Answer) -> PortalError {
        let status = answer.status.as_u16();
        if answer.status.is_redirection() {
            return PortalError::Redirect { url: self.url.clone(), status, remedy: self.where_to(answer) };
        }
        let is_problem = answer.header("content-type").is_some_and(|kind| kind.starts_with("application/problem+json"));
        let document = serde_json::from_slice::<ProblemDocument>(&answer.body).ok().filter(|_| is_problem);
        let retry_after_seconds = answer.header("retry-after").and_then(|text| text.parse().ok());
        let url = self.url.clone();
        match document {
            Some(ProblemDocument { code, detail }) => {
                PortalError::Refused { url, status, code, detail, retry_after_seconds }
            }
            // A proxy whose portal is down.
            None if [502, 503, 504].contains(&status) => PortalError::Refused {
                url,
                status,
                code: NO_PORTAL.to_owned(),
                detail: "the portal behind it does not answer".to_owned(),
                retry_after_seconds,
            },
            None => self.not_a_portal(&format!("status {status}")),
        }
    }

    /// What to do about a redirection.
    fn where_to(&self, answer: &Answer) -> String {
        let target = answer.header("location").unwrap_or_default();
        match PortalUrl::of_page(target) {
            Some(found) if found != self.url => format!("log in there, culvert login {found}"),
            _ => format!("check the address; it leads to '{}'", foreign_text(target)),
        }
    }

    /// An error of the connection, with what helps here.
    fn unanswered(&self, error: HttpError) -> PortalError {
        let no_tls = matches!(&error, HttpError::Broken { reason, .. } if reason.contains("does not speak TLS"));
        let remedy = match (&error, self.url.plain_here().filter(|_| no_tls && !self.url.is_plain())) {
            (_, Some(plain)) => format!("; a portal without TLS is {plain}"),
            (HttpError::Connect { reason, .. }, _) if tells_unknown_host(reason) => "; check the name".to_owned(),
            (HttpError::Connect { .. }, _) => {
                "; check that the portal runs there, and that its port is open".to_owned()
            }
            _ => String::new(),
        };
        PortalError::Http(error, remedy)
    }

    fn not_a_portal(&self, why: &str) -> PortalError {
        PortalError::NotAPortal { url: self.url.clone(), why: foreign_text(why) }
    }
}
