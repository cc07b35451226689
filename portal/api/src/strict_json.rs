//! JSON of requests, read strictly: one meaning, or a refusal that says where.
//!
//! Refused are: another content type, more than [`BYTES_MAX`], bad UTF-8, a key that comes twice,
//! deep nesting, the character NUL (which PostgreSQL cannot keep), and unknown fields (by the types
//! themselves).

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use culvert_portal_model::problem::Problem;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::de::{self, DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor};

use crate::problem::Refusal;
use crate::reading;

/// The largest content of a request.
pub const BYTES_MAX: usize = 256 * 1024;
/// How long a content may take to come.
const CONTENT_TIMEOUT: Duration = Duration::from_secs(20);
/// The deepest nesting.
const DEPTH_MAX: usize = 16;

/// The content of a request.
#[derive(Debug)]
pub struct StrictJson<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for StrictJson<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, _: &S) -> Result<Self, Refusal> {
        check_type(request.headers())?;
        Ok(Self(parse(&content(request.into_body()).await?)?))
    }
}

impl<T: serde::Serialize> IntoResponse for StrictJson<T> {
    fn into_response(self) -> Response {
        Json(self.0).into_response()
    }
}

/// The bytes of a content.
///
/// # Errors
/// [`Refusal`] if there are too many, they end early, or they come too slowly.
pub async fn content(body: Body) -> Result<Bytes, Refusal> {
    let read = tokio::time::timeout(CONTENT_TIMEOUT, Limited::new(body, BYTES_MAX).collect()).await;
    let slow = || {
        let detail = format!("the content did not come within {} s", CONTENT_TIMEOUT.as_secs());
        Refusal::new(Problem::SlowRequest, detail)
    };
    match read.map_err(|_| slow())? {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(Refusal::new(Problem::TooLarge, format!("the content has more than {BYTES_MAX} bytes")))
        }
        Err(_) => Err(Refusal::new(Problem::BadRequest, "the content was cut off")),
    }
}

/// Reads a value.
///
/// # Errors
/// [`Refusal`] that says what is wrong and where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let bad = |error: serde_json::Error| {
        Refusal::new(Problem::BadRequest, format!("the content is not the JSON that is expected: {error}"))
    };
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    Strict { depth: 0 }.deserialize(&mut reader).map_err(bad)?;
    reader.end().map_err(bad)?;
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    serde_path_to_error::deserialize(&mut reader).map_err(|error| reading::content(&error))
}

fn check_type(headers: &HeaderMap) -> Result<(), Refusal> {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let given = if essence.is_empty() { "nothing" } else { essence };
    let detail = format!("the content must be application/json, not {}", given.chars().take(100).collect::<String>());
    Err(Refusal::new(Problem::UnsupportedMediaType, detail))
}

/// Looks at a value without keeping it.
#[derive(Clone, Copy)]
struct Strict {
    depth: usize,
}

impl Strict {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(format!("it is nested more than {DEPTH_MAX} deep")));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') { Err(E::custom("a text contains the character NUL")) } else { Ok(()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        while items.next_element_seed(deeper)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let deeper = self.deeper()?;
        let mut seen = BTreeSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            deeper.visit_str::<A::Error>(&name)?;
            if seen.contains(&name) {
                return Err(de::Error::custom(format!("the field '{}' comes twice", name.escape_debug())));
            }
            seen.insert(name);
            fields.next_value_seed(deeper)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn detail(text: &[u8]) -> String {
        parse::<Value>(text).unwrap_err().0.detail
    }

    #[test]
    fn what_has_two_meanings_is_refused() {
        assert!(detail(br#"{"a": 1, "b": {"c": 1, "c": 2}}"#).contains("'c' comes twice"));
        assert!(detail(br#"{"a": "x\u0000y"}"#).contains("NUL"));
        assert!(detail(br#"{"a\u0000": 1}"#).contains("NUL"));
        assert!(detail(b"{\"a\": \"\xff\"}").contains("line 1"));
        assert!(detail(b"{} {}").contains("trailing"));
        assert!(detail(b"").contains("EOF"));
        assert!(parse::<Value>(br#"{"a": [1, -1, 1.5, null, true, "\u00e4"]}"#).is_ok());
    }

    #[test]
    fn deep_nesting_is_refused_before_it_costs_anything() {
        let nested = |depth: usize| format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse::<Value>(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(detail(nested(DEPTH_MAX + 1).as_bytes()).contains("nested"));
        assert!(detail("[".repeat(200_000).as_bytes()).contains("nested"));
    }
}
