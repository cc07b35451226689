//! What stands behind the question mark of an address, read as strictly as contents.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use culvert_portal_model::problem::Problem;
use serde::de::DeserializeOwned;

use crate::problem::Refusal;

/// The query of a request.
#[derive(Debug)]
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let bad = |detail: String| Refusal::new(Problem::BadRequest, detail);
        let text = parts.uri.query().unwrap_or_default();
        if text.to_ascii_lowercase().contains("%00") {
            return Err(bad("the query contains the character NUL".to_owned()));
        }
        let query = axum::extract::Query::<T>::try_from_uri(&parts.uri);
        query
            .map(|query| Self(query.0))
            .map_err(|error| bad(format!("the query cannot be read: {}", error.body_text())))
    }
}
