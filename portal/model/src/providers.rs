//! Identity providers (OpenID Connect), and the identities that people have there, as the API shows
//! them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::Id;
use crate::role::Role;

/// Who gets in that a provider knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum AccountPolicy {
    /// Those who have linked their identity to an account that they have here.
    LinkedOnly,
    /// Others get an account that waits for an administrator.
    Approval,
    /// Others get an account at once.
    Create,
}

impl AccountPolicy {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::LinkedOnly => "linked-only",
            Self::Approval => "approval",
            Self::Create => "create",
        }
    }

    /// The policy with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::LinkedOnly, Self::Approval, Self::Create].into_iter().find(|policy| policy.word() == word)
    }
}

/// An identity provider, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Provider {
    /// Names it for ever.
    pub id: Id,
    /// Its name in addresses.
    pub name: String,
    /// What people are shown: "Log in with …".
    pub title: String,
    /// What it calls itself; its discovery document is below this address.
    pub issuer: String,
    /// What it calls this portal.
    pub client_id: String,
    /// Whether the portal has a secret for it.
    pub has_client_secret: bool,
    /// What the portal asks it for; `openid` is always among them.
    pub scopes: Vec<String>,
    /// The claim that has a person's groups; none if it gives no roles.
    pub groups_claim: Option<String>,
    /// The roles that each group gives.
    pub roles_by_group: BTreeMap<String, Vec<Role>>,
    /// Who gets in.
    pub accounts: AccountPolicy,
    /// Whether it may be at an address that is not public, and without TLS.
    pub inside: bool,
    /// Whether people log in with it.
    pub enabled: bool,
    /// Counts changes; the `ETag` is made of it.
    pub version: i64,
}

/// What came of asking an identity provider about itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ProviderTest {
    /// Whether people could be sent there: its description and its keys were read.
    pub works: bool,
    /// What is wrong, if anything is.
    pub fault: Option<String>,
    /// The address that was asked for its description.
    pub asked: String,
    /// The redirect address to register at the provider for this portal.
    pub redirect_uri: String,
    /// Where browsers are sent.
    pub authorization_endpoint: Option<String>,
    /// Where the portal redeems codes.
    pub token_endpoint: Option<String>,
    /// Where it asks for what the ID token does not tell.
    pub userinfo_endpoint: Option<String>,
    /// How many keys it signs with that the portal can use.
    pub keys: u32,
}

/// An identity provider, as who has not logged in sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LoginProvider {
    /// Its name in addresses.
    pub name: String,
    /// What people are shown: "Log in with …".
    pub title: String,
    /// Where a browser begins: a link, not a form.
    pub url: String,
}

/// Somebody's identity at a provider, linked to their account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Identity {
    /// Names the link.
    pub id: Id,
    /// Whose account it is linked to.
    pub user: Id,
    /// The provider.
    pub provider: Id,
    /// What the provider calls itself.
    pub issuer: String,
    /// What it calls the person: with the issuer, this is the identity. Names and addresses are
    /// not.
    pub subject: String,
    /// The address of mail that the provider told, for people to recognize the identity.
    pub email: Option<String>,
    /// When it was linked.
    #[schema(value_type = String, format = DateTime)]
    pub linked_at: Timestamp,
    /// When the person last logged in with it.
    #[schema(value_type = String, format = DateTime)]
    pub last_used_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back() {
        for policy in [AccountPolicy::LinkedOnly, AccountPolicy::Approval, AccountPolicy::Create] {
            assert_eq!(AccountPolicy::of_word(policy.word()), Some(policy));
            assert_eq!(serde_json::to_value(policy).unwrap(), policy.word());
        }
    }
}
