//! The audit trail: what was changed, by whom, from where.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::Id;

/// Who did something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Who {
    /// A person who had logged in.
    Session {
        /// Their account.
        user: Id,
        /// The session.
        session: Id,
    },
    /// A program with somebody's token.
    Token {
        /// The token's owner.
        user: Id,
        /// The token.
        token: Id,
    },
    /// Somebody on the portal's host, by a command.
    Host,
    /// The portal itself.
    Portal,
    /// Somebody who has not logged in.
    Nobody,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It was done.
    Done,
    /// It was refused.
    Refused,
}

/// One entry. Its text in JSON, with its number and the hash of the entry before, is what is
/// hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEntry {
    /// When.
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who.
    pub who: Who,
    /// From which address, if over the network.
    pub address: Option<String>,
    /// The request, as the log names it.
    pub request: Option<String>,
    /// What was done: a word of the table of actions in `docs/portal.md`.
    pub action: String,
    /// On what kind of thing.
    pub object: String,
    /// On which one.
    pub id: Option<String>,
    /// What it was before, without secrets.
    pub before: Option<serde_json::Value>,
    /// What it is now, without secrets.
    pub after: Option<serde_json::Value>,
    /// How it ended.
    pub outcome: Outcome,
}

/// An entry in its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChainedEntry {
    /// Its number, from 1, without gaps.
    pub number: i64,
    /// The entry.
    pub entry: AuditEntry,
    /// Its hash, in hexadecimal: SHA-256 over the hash before, the number, and the entry's text, as
    /// `docs/portal-operations.md` writes it down byte by byte.
    pub hash: String,
}

/// The end of the chain, signed: what is kept elsewhere to prove later that nothing was cut off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditHead {
    /// The number of the last entry; 0 if there is none.
    pub number: i64,
    /// Its hash.
    pub hash: String,
    /// The portal's signature (Ed25519) over number and hash, in hexadecimal: see `ChainedEntry`.
    pub signature: String,
    /// The portal's public key, in hexadecimal.
    pub key: String,
}
