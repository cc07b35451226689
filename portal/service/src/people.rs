//! People: how they get in, what they are, and how they leave.

pub mod accounts;
pub mod credentials;
pub mod devices;
pub mod groups;
pub mod identities;
pub mod invitations;
pub mod login;
pub mod oneself;
pub mod passkeys;
pub mod password_rules;
pub mod passwords;
pub mod provider_login;
pub(crate) mod provider_roles;
pub mod providers;
pub mod registration;
pub mod reset;
pub mod second_factor;
pub mod sessions;
pub mod setup;
pub mod tokens;
