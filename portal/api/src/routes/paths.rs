//! What stands in a path.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use culvert_portal_model::id::Id;
use culvert_portal_model::problem::Problem;

use crate::problem::Refusal;

/// An identifier in a path. What is none names nothing.
#[derive(Debug, Clone, Copy)]
pub struct PathId(pub Id);

impl<S: Send + Sync> FromRequestParts<S> for PathId {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let nothing = || Refusal::new(Problem::NotFound, "there is no such thing");
        let Path(text) = Path::<String>::from_request_parts(parts, state).await.map_err(|_| nothing())?;
        text.parse().map(Self).map_err(|_| nothing())
    }
}

/// A name in a path. What is no text names nothing.
#[derive(Debug, Clone)]
pub struct PathName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let found = Path::<String>::from_request_parts(parts, state).await;
        found.map(|Path(text)| Self(text)).map_err(|_| Refusal::new(Problem::NotFound, "there is no such thing"))
    }
}
