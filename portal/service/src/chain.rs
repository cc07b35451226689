//! The chain of the audit trail: what is hashed, and what is signed.

use aws_lc_rs::digest::{SHA256, digest};

use crate::secret::hex;

/// The name of the chain's end in the database.
pub const AUDIT: &str = "audit";
/// The name of the end of the row of events.
pub const EVENTS: &str = "events";

/// The hash after an entry.
#[must_use]
pub fn chain_hash(before: &str, number: i64, body: &str) -> String {
    let text = format!("culvert audit 1\n{before}\n{number}\n{body}");
    hex(digest(&SHA256, text.as_bytes()).as_ref())
}

/// What the portal signs of the end of the chain.
#[must_use]
pub fn head_message(number: i64, hash: &str) -> Vec<u8> {
    format!("culvert audit head 1\n{number}\n{hash}").into_bytes()
}
