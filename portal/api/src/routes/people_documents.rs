//! What requests about people contain.

use culvert_portal_model::role::Role;
use culvert_portal_service::people::accounts::NewUser;
use serde::Deserialize;
use utoipa::ToSchema;

/// An account that somebody makes for themselves.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OwnAccount {
    /// What to log in with: letters a to z, digits, dots, hyphens, underscores.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: String,
    /// What others see; the name if absent.
    #[schema(max_length = 128, format = "line")]
    pub display_name: Option<String>,
    /// Where mail goes.
    #[schema(min_length = 3, max_length = 254, format = "mail-address")]
    pub email: Option<String>,
    /// At least twelve characters.
    #[schema(min_length = 12, max_length = 1024)]
    pub password: String,
}

impl OwnAccount {
    /// The account; its roles come from elsewhere.
    pub fn wish(self) -> NewUser {
        NewUser {
            name: self.name,
            display_name: self.display_name.unwrap_or_default(),
            email: self.email,
            roles: Vec::new(),
            password: Some(self.password),
        }
    }
}

/// An account that somebody makes with a link.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountByLink {
    /// The link's secret.
    #[schema(pattern = "^culvert_(inv|lnk)_[A-Za-z0-9_-]{43}$")]
    pub secret: String,
    /// The account.
    pub account: OwnAccount,
}

/// An account that an administrator makes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AccountForSomebody {
    /// What to log in with: letters a to z, digits, dots, hyphens, underscores.
    #[schema(min_length = 1, max_length = 64, pattern = "^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    pub name: String,
    /// What others see; the name if absent.
    #[schema(max_length = 128, format = "line")]
    pub display_name: Option<String>,
    /// Where mail goes.
    #[schema(min_length = 3, max_length = 254, format = "mail-address")]
    pub email: Option<String>,
    /// What the person may do.
    #[schema(max_items = 5)]
    pub roles: Vec<Role>,
    /// A first password; without one, make a reset link.
    #[schema(min_length = 12, max_length = 1024)]
    pub password: Option<String>,
}

impl AccountForSomebody {
    /// The account.
    pub fn wish(self) -> NewUser {
        NewUser {
            name: self.name,
            display_name: self.display_name.unwrap_or_default(),
            email: self.email,
            roles: self.roles,
            password: self.password,
        }
    }
}
