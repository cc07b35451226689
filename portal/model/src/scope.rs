//! What an API token may be used for.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A part of what its owner may do. A token does what both its scopes and its owner's roles allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Scope {
    /// See transfers, profiles and events.
    #[serde(rename = "transfers:read")]
    TransfersRead,
    /// Start and change transfers.
    #[serde(rename = "transfers:write")]
    TransfersWrite,
    /// See people and groups.
    #[serde(rename = "people:read")]
    PeopleRead,
    /// Change people and groups.
    #[serde(rename = "people:write")]
    PeopleWrite,
    /// See settings, webhooks and identity providers.
    #[serde(rename = "settings:read")]
    SettingsRead,
    /// Change settings, webhooks and identity providers.
    #[serde(rename = "settings:write")]
    SettingsWrite,
    /// Read the audit trail.
    #[serde(rename = "audit:read")]
    AuditRead,
}

impl Scope {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::TransfersRead,
        Self::TransfersWrite,
        Self::PeopleRead,
        Self::PeopleWrite,
        Self::SettingsRead,
        Self::SettingsWrite,
        Self::AuditRead,
    ];

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::TransfersRead => "transfers:read",
            Self::TransfersWrite => "transfers:write",
            Self::PeopleRead => "people:read",
            Self::PeopleWrite => "people:write",
            Self::SettingsRead => "settings:read",
            Self::SettingsWrite => "settings:write",
            Self::AuditRead => "audit:read",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.word())
    }
}

/// There is no such scope.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a scope; the scopes are transfers:read, transfers:write, people:read, people:write, settings:read, \
     settings:write and audit:read"
)]
pub struct NoScope(pub String);

impl FromStr for Scope {
    type Err = NoScope;

    fn from_str(text: &str) -> Result<Self, NoScope> {
        let found = Self::ALL.into_iter().find(|scope| scope.word() == text);
        found.ok_or_else(|| NoScope(text.chars().take(64).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_the_error_names_them_all() {
        let error = "all".parse::<Scope>().unwrap_err().to_string();
        for scope in Scope::ALL {
            assert_eq!(scope.word().parse(), Ok(scope));
            assert_eq!(serde_json::to_value(scope).unwrap(), scope.word());
            assert!(error.contains(scope.word()), "{error}");
        }
    }
}
