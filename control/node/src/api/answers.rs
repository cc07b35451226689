//! What the API says to every client alike: that a transfer was taken, or what went wrong.

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
    /// A word for programs.
    pub code: String,
    /// A sentence for people.
    pub text: String,
}

/// An answer that says what went wrong.
pub fn error(status: StatusCode, code: &str, text: impl Into<String>) -> Response {
    (status, Json(ApiError { code: code.to_owned(), text: text.into() })).into_response()
}
