//! OpenID Connect, the client's side: who somebody is, as an identity provider says it.
//!
//! ```text
//! discovery ──▶ where a browser goes, where a code is redeemed, where the keys are   (cached)
//! exchange  ──▶ code and verifier for an ID token
//! key_set   ──▶ whether a key of the provider has signed it                          (cached)
//! id_token  ──▶ whether it is from this provider, for this portal and this log-in, and now
//! groups    ──▶ which roles its groups give
//! ```
//!
//! Nothing of this knows accounts: `people::provider_login` does. Everything is bounded, since a
//! provider is another organization's program; docs/decisions/0089 says why this is no library.

pub mod cache;
pub mod discovery;
pub mod exchange;
pub mod groups;
pub mod id_token;
pub mod key_set;
