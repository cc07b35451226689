//! Versions: `ETag` of what is read, `If-Match` of what is changed (RFC 9110, section 13).

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use culvert_portal_model::problem::Problem;
use serde::Serialize;

use crate::problem::Refusal;

/// The version that a request changes.
#[derive(Debug, Clone, Copy)]
pub struct IfMatch(pub i64);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = parts.headers.get(header::IF_MATCH) else {
            let detail = "say which version you change: send the ETag that you read as If-Match, as \"v2\"";
            return Err(Refusal::new(Problem::PreconditionNeeded, detail));
        };
        // Whatever this portal has not given matches nothing.
        let changed = || {
            let given: String = String::from_utf8_lossy(value.as_bytes()).chars().take(40).collect();
            let detail = format!(
                "If-Match is {given}, which is no ETag of this portal: send the one that was read, with its quotation \
                 marks, as \"v2\""
            );
            Refusal::new(Problem::Changed, detail)
        };
        let text = value.to_str().ok().and_then(|text| text.strip_prefix('"')?.strip_suffix('"'));
        let version = text.and_then(|text| text.strip_prefix('v')?.parse().ok());
        version.filter(|version| *version >= 0).map(Self).ok_or_else(changed)
    }
}

/// A document with its version.
#[derive(Debug)]
pub struct Versioned<T> {
    /// The status.
    pub status: StatusCode,
    /// The version.
    pub version: i64,
    /// The path of what is new.
    pub location: Option<String>,
    /// The document.
    pub document: T,
}

impl<T> Versioned<T> {
    /// One that is read or changed.
    pub const fn ok(version: i64, document: T) -> Self {
        Self { status: StatusCode::OK, version, location: None, document }
    }

    /// One that is new.
    pub const fn created(version: i64, document: T) -> Self {
        Self { status: StatusCode::CREATED, version, location: None, document }
    }

    /// One that is new, at a path.
    pub fn created_at(location: String, version: i64, document: T) -> Self {
        Self { location: Some(location), ..Self::created(version, document) }
    }
}

impl<T: Serialize> IntoResponse for Versioned<T> {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.document)).into_response();
        if let Ok(tag) = HeaderValue::from_str(&format!("\"v{}\"", self.version)) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        if let Some(location) = self.location.and_then(|path| HeaderValue::try_from(path).ok()) {
            response.headers_mut().insert(header::LOCATION, location);
        }
        response
    }
}
