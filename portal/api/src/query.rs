//! What stands behind the question mark of an address, read as strictly as contents.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use culvert_portal_model::problem::Problem;
use serde::de::DeserializeOwned;

use crate::problem::Refusal;
use crate::reading;

/// The query of a request.
#[derive(Debug)]
pub struct StrictQuery<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for StrictQuery<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let bad = |detail: &str| Refusal::new(Problem::BadRequest, detail);
        let text = parts.uri.query().unwrap_or_default();
        if text.to_ascii_lowercase().contains("%00") {
            return Err(bad("the query contains the character NUL"));
        }
        if percent_decode(text).is_none() {
            return Err(bad("the query is not UTF-8"));
        }
        let reader = serde_urlencoded::Deserializer::new(url::form_urlencoded::parse(text.as_bytes()));
        serde_path_to_error::deserialize(reader).map(Self).map_err(|error| reading::query(&error))
    }
}

/// The bytes that a query means, if they are UTF-8. Otherwise what cannot be read would be replaced
/// by other characters.
fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%').and_then(|two| std::str::from_utf8(two).ok());
        let byte = digits.filter(|two| !two.contains('+')).and_then(|two| u8::from_str_radix(two, 16).ok());
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &behind[2..] } else { behind };
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::percent_decode;

    #[test]
    fn bytes_that_are_no_text_are_found() {
        assert_eq!(percent_decode("a=%C3%A4%2b+%").as_deref(), Some("a=\u{e4}++%"));
        for bad in ["a=%ff", "%C3", "%ED%A0%80", "a=%C3&b=%A4"] {
            assert_eq!(percent_decode(bad), None, "{bad}");
        }
    }
}
