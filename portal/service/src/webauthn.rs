//! Passkeys (W3C Web Authentication, level 3): what an authenticator says is read and checked.
//!
//! ```text
//! client_data        ──▶ for which challenge, on whose page       (written by the browser)
//! authenticator_data ──▶ for which site, who was present, which key (by the authenticator)
//! public_key         ──▶ whether the key has signed both
//! ```
//!
//! No attestation is asked for: whoever registers a key registers it for themselves. The person
//! must be verified by the authenticator (a finger, a PIN) each time, so that a passkey is two
//! factors. Written here on aws-lc for the reasons of docs/decisions/0089.

pub mod authenticator_data;
pub mod cbor;
pub mod checks;
pub mod client_data;
pub mod public_key;
