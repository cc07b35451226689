//! Refusals and failures as `application/problem+json` (RFC 9457).

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use culvert_portal_model::problem::Problem;
use culvert_portal_service::fault::Fault;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The content of an answer that is a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProblemDocument {
    /// A URI for the kind of problem: `urn:culvert:problem:` and its code.
    #[serde(rename = "type")]
    pub kind: String,
    /// The kind in a few words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable code: what programs look at.
    pub code: String,
    /// What, where, why, and what helps.
    pub detail: String,
    /// The field that is wrong; within another, as `account.name` or `roles[0]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
}

/// What handlers give.
pub type Answer<T> = Result<T, Refusal>;

/// A refusal or failure on its way out.
#[derive(Debug, Clone)]
pub struct Refusal(pub Fault);

impl Refusal {
    /// A problem with a sentence.
    #[must_use]
    pub fn new(problem: Problem, detail: impl Into<String>) -> Self {
        Self(Fault::new(problem, detail))
    }
}

impl<T: Into<Fault>> From<T> for Refusal {
    fn from(fault: T) -> Self {
        Self(fault.into())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let fault = self.0;
        let problem = fault.problem;
        if let Some(cause) = &fault.log {
            tracing::error!(code = problem.code(), cause, "a request failed");
        }
        let document = ProblemDocument {
            kind: format!("urn:culvert:problem:{}", problem.code()),
            title: problem.title().to_owned(),
            status: problem.status(),
            code: problem.code().to_owned(),
            detail: fault.detail,
            field: fault.field.map(str::to_owned).or(fault.place),
        };
        let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_vec(&document).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = fault.retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if problem == Problem::NotLoggedIn {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        headers.insert(CODE, HeaderValue::from_static(problem.code()));
        response
    }
}

/// By which the log and the metrics know the code. It is also for clients that see only headers.
pub const CODE: HeaderName = HeaderName::from_static("culvert-problem");
