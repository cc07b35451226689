//! People, their sessions, tokens, groups and invitations, as the API shows them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::Id;
use crate::role::Role;
use crate::scope::Scope;

/// Whether an account can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum AccountState {
    /// Registered, and waits for an administrator.
    Pending,
    /// In use.
    Active,
    /// Nobody gets in any more; what it made remains.
    Deactivated,
}

impl AccountState {
    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Deactivated => "deactivated",
        }
    }

    /// The state with that word.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        [Self::Pending, Self::Active, Self::Deactivated].into_iter().find(|state| state.word() == word)
    }
}

/// A person's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct User {
    /// Names it for ever.
    pub id: Id,
    /// What the person logs in with.
    pub name: String,
    /// What others see.
    pub display_name: String,
    /// Where mail goes.
    pub email: Option<String>,
    /// Whether the account can be used.
    pub state: AccountState,
    /// What the person may do: given by hand and by identity providers together.
    pub roles: Vec<Role>,
    /// Of these, which were given by hand.
    pub roles_by_hand: Vec<Role>,
    /// Whether a second factor is set up.
    pub second_factor: bool,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When the person last logged in.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_login_at: Option<Timestamp>,
    /// Counts changes; the `ETag` is made of it.
    pub version: i64,
}

/// Somebody is logged in somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Names it; it is not the secret in the cookie.
    pub id: Id,
    /// Whose it is.
    pub user: Id,
    /// When the person logged in.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it was last used, to the minute.
    #[schema(value_type = String, format = DateTime)]
    pub last_seen_at: Timestamp,
    /// When it ends however much it is used.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// The address that it was last used from.
    pub address: String,
    /// What the browser calls itself.
    pub agent: String,
    /// Whether it is the one that asks.
    pub current: bool,
}

/// An API token, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    /// Names it.
    pub id: Id,
    /// Whose rights it has.
    pub user: Id,
    /// What its owner calls it.
    pub name: String,
    /// The beginning of the secret, by which its owner recognizes it.
    pub prefix: String,
    /// What it may be used for.
    pub scopes: Vec<Scope>,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it was last used, to the minute.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// The address that it was last used from.
    pub last_used_address: Option<String>,
}

/// A new token: the only time that its secret is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NewToken {
    /// The token.
    pub token: Token,
    /// What to send as `Authorization: Bearer …`.
    pub secret: String,
}

/// People who belong together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Names it for ever.
    pub id: Id,
    /// Its name.
    pub name: String,
    /// What it is for.
    pub description: String,
    /// Who is in it, in the order of their identifiers.
    pub members: Vec<Id>,
    /// Counts changes; the `ETag` is made of it.
    pub version: i64,
}

/// A link by which somebody makes an account, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Invitation {
    /// Names it.
    pub id: Id,
    /// The roles that the account gets.
    pub roles: Vec<Role>,
    /// Where it was mailed to.
    pub email: Option<String>,
    /// Who made it.
    pub created_by: Id,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When it was used.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub used_at: Option<Timestamp>,
    /// The account that was made with it.
    pub used_by: Option<Id>,
}

/// A secret link: the only time that it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SecretLink {
    /// The address to open in a browser.
    pub url: String,
    /// The secret in it, for commands.
    pub secret: String,
    /// When it ends.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
