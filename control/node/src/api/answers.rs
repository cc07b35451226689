//! Answers of the API to any client: an accepted submission, or an error.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use serde::{Deserialize, Serialize};

/// The answer to a submission.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Submitted {
    /// The new transfer's id.
    pub transfer: String,
}

/// An error of the API.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiError {
    /// The kind of error, for programs.
    pub code: String,
    /// The message, for people.
    pub text: String,
}

/// An error as a response.
pub fn error(status: StatusCode, code: &str, text: impl Into<String>) -> Response {
    (status, Json(ApiError { code: code.to_owned(), text: text.into() })).into_response()
}
