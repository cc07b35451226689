//! The answer that says no, and the end of a transfer that cannot continue.

use serde::{Deserialize, Serialize};

use crate::foreign_text::foreign_text;

/// Why something is refused or given up; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    //= W-34
    //# If a node receives a `Hello` under an unknown key, it records the key as pending (in a table
    //# of fixed size, with a share per host) and refuses with `unknown_key`.
    /// The partner does not know this key, or has not approved it yet.
    UnknownKey,
    /// The partner's profile does not permit this.
    NotPermitted,
    /// A source or destination does not exist.
    NotFound,
    /// A destination file exists already.
    Collision,
    /// The destination has not enough room.
    NoSpace,
    /// The two programs have no protocol version in common.
    Version,
    /// A message or request that the protocol does not allow.
    Protocol,
    /// Something that may work later.
    Temporary,
    /// A user canceled the transfer.
    Canceled,
    /// Hashes do not agree.
    Verification,
    /// Anything else: disk errors and the like.
    Failed,
    /// There is nothing to send.
    NothingToDo,
    /// The requester has paused the transfer. Only to partners of version
    /// [`PAUSES_ARE_TOLD_SINCE`]; others receive [`RefusalCode::Canceled`].
    ///
    /// [`PAUSES_ARE_TOLD_SINCE`]: super::PAUSES_ARE_TOLD_SINCE
    Interrupted,
}

impl RefusalCode {
    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::NotPermitted => "not_permitted",
            Self::NotFound => "not_found",
            Self::Collision => "collision",
            Self::NoSpace => "no_space",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Temporary => "temporary",
            Self::Canceled => "canceled",
            Self::Verification => "verification",
            Self::Failed => "failed",
            Self::NothingToDo => "nothing_to_do",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A refusal, or the end of a transfer that cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// What failed, on what, why, and what to do next.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub text: String,
}

impl Refusal {
    /// A refusal. Its text may quote foreign text, so it is sanitized, and short enough for a
    /// message, a log or a record.
    #[must_use]
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: foreign_text(&text.into()) }
    }
}
