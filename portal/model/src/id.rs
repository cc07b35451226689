//! Identifiers of things in the database.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::openapi::schema::{ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};
use uuid::Uuid;

/// Names one row. A UUID of version 7 (RFC 9562): those made later sort later, and nobody can guess
/// one, though nothing relies on that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct Id(Uuid);

impl Id {
    /// A new one, from the time and ten random bytes.
    #[must_use]
    pub fn new(at: Timestamp, random: &[u8; 10]) -> Self {
        let milliseconds = u64::try_from(at.as_millisecond()).unwrap_or(0);
        Self(uuid::Builder::from_unix_timestamp_millis(milliseconds, random).into_uuid())
    }

    /// Its text as the database keeps it.
    #[must_use]
    pub fn text(self) -> String {
        self.0.hyphenated().to_string()
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(formatter)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

impl PartialSchema for Id {
    fn schema() -> RefOr<Schema> {
        let format = SchemaFormat::Custom("uuid".to_owned());
        ObjectBuilder::new().schema_type(Type::String).format(Some(format)).into()
    }
}

impl ToSchema for Id {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("Id")
    }
}

/// The text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an identifier")]
pub struct NoId(pub String);

impl FromStr for Id {
    type Err = NoId;

    /// Takes the hyphenated form in lower case only, so that each row has one name.
    fn from_str(text: &str) -> Result<Self, NoId> {
        let id = Uuid::try_parse(text).map_err(|_| NoId(text.chars().take(64).collect()))?;
        if id.hyphenated().to_string() == text { Ok(Self(id)) } else { Err(NoId(text.chars().take(64).collect())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_ones_sort_later() {
        let early = Id::new(Timestamp::from_second(1_000).unwrap(), &[255; 10]);
        let late = Id::new(Timestamp::from_second(1_001).unwrap(), &[0; 10]);
        assert!(early < late && early.text() < late.text());
    }

    #[test]
    fn it_has_one_spelling() {
        let id = Id::new(Timestamp::UNIX_EPOCH, &[7; 10]);
        assert_eq!(id.text().parse::<Id>().unwrap(), id);
        for other in [id.text().to_uppercase(), id.text().replace('-', ""), format!("{{{id}}}"), String::new()] {
            assert!(other.parse::<Id>().is_err() || other == id.text(), "{other}");
            assert!(serde_json::from_value::<Id>(other.clone().into()).is_err() || other == id.text(), "{other}");
        }
    }
}
