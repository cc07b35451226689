//! What a portal answers, as far as commands use it. Newer portals may say more: what is not known
//! here is left out.

use culvert_protocol::foreign_text;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::portal::secret::Secret;

/// Somebody.
#[derive(Clone, Debug, Deserialize)]
pub struct User {
    /// Names the account.
    pub id: String,
    /// The name to log in with.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub name: String,
    /// What others see.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub display_name: String,
    /// What the account may do.
    pub roles: Vec<String>,
}

/// An API token, without its secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Token {
    /// Names it.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub id: String,
    /// What its owner calls it.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub name: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// When it ends.
    pub expires_at: Timestamp,
    /// When it was last used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_at: Option<Timestamp>,
}

impl Token {
    /// What it may be used for, in words.
    #[must_use]
    pub fn permits(&self) -> String {
        self.scopes.join(", ")
    }

    /// Until when it is good, for people.
    #[must_use]
    pub fn until(&self) -> String {
        to_the_second(self.expires_at)
    }

    /// When it was last used, for people.
    #[must_use]
    pub fn last_used(&self) -> String {
        self.last_used_at.map_or_else(|| "never".to_owned(), to_the_second)
    }
}

/// A new token.
#[derive(Clone, Debug, Deserialize)]
pub struct NewToken {
    /// The token.
    pub token: Token,
    /// Its secret, which the portal shows this once.
    pub secret: Secret,
}

/// A page of a list.
#[derive(Clone, Debug, Deserialize)]
pub struct Page<T> {
    /// Its rows.
    pub items: Vec<T>,
}

/// What a device shows and asks with.
#[derive(Clone, Debug, Deserialize)]
pub struct DeviceCode {
    /// What it asks with whether it was let in.
    pub device_code: Secret,
    /// What it shows to its person.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub user_code: String,
    /// The page on which the person finds it, with the code entered.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub verification_uri_complete: String,
    /// The codes are good for so many seconds.
    pub expires_in: u64,
    /// It asks at most every so many seconds.
    pub interval: u64,
}

/// A refusal (RFC 9457).
#[derive(Clone, Debug, Deserialize)]
pub struct ProblemDocument {
    /// What programs look at.
    #[serde(deserialize_with = "foreign_text::deserialize")]
    pub code: String,
    /// What people read.
    #[serde(default, deserialize_with = "foreign_text::deserialize")]
    pub detail: String,
}

/// A token that somebody wants.
#[derive(Clone, Debug)]
pub struct TokenWish<'a> {
    /// What it is called.
    pub name: &'a str,
    /// What it may be used for.
    pub scopes: &'a [String],
    /// For how many days it is good; the portal decides if absent.
    pub days: Option<u32>,
}

fn to_the_second(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).unwrap_or(time).to_string()
}
