//! The record of a transfer.

use culvert_protocol::control::TransferId;
use serde::{Deserialize, Serialize};

use crate::progress::Progress;
use crate::request::TransferRequest;
use crate::result::{State, TransferResult};

/// This node's part in a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Sender.
    Send,
    /// Receiver.
    Receive,
}

/// The state of a transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordState {
    /// Waiting for its turn or for the next attempt.
    Queued,
    /// Under way.
    Active,
    /// Stopped by this node's user until they resume it, across restarts of the node.
    Paused,
    /// See [`State`].
    Succeeded,
    /// See [`State`].
    SucceededWithErrors,
    /// See [`State`].
    Failed,
    /// See [`State`].
    Canceled,
}

impl RecordState {
    /// Whether the transfer has ended for good.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Queued | Self::Active | Self::Paused)
    }

    /// Whether some process is carrying it out.
    #[must_use]
    pub const fn is_under_way(self) -> bool {
        matches!(self, Self::Queued | Self::Active)
    }

    /// All of them, for metrics.
    pub const ALL: [Self; 7] = [
        Self::Queued,
        Self::Active,
        Self::Paused,
        Self::Succeeded,
        Self::SucceededWithErrors,
        Self::Failed,
        Self::Canceled,
    ];

    /// The predicate of a sentence about a transfer in this state.
    #[must_use]
    pub const fn predicate(self) -> &'static str {
        match self {
            Self::Queued => "is queued",
            Self::Active => "is under way",
            Self::Paused => "is paused",
            Self::Succeeded => "has succeeded",
            Self::SucceededWithErrors => "has ended, and some of its files failed",
            Self::Failed => "has failed",
            Self::Canceled => "was canceled",
        }
    }

    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Active => "active",
            Self::Paused => "paused",
            Self::Succeeded => "succeeded",
            Self::SucceededWithErrors => "succeeded_with_errors",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

impl From<State> for RecordState {
    fn from(state: State) -> Self {
        match state {
            State::Succeeded => Self::Succeeded,
            State::SucceededWithErrors => Self::SucceededWithErrors,
            State::Failed => Self::Failed,
            State::Canceled => Self::Canceled,
        }
    }
}

/// Why a transfer failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The word for programs.
    pub code: String,
    /// The sentence for users.
    pub text: String,
    /// The exit code of `culvert send`.
    pub exit_code: u8,
}

/// The record of a transfer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransferRecord {
    /// Its id.
    pub transfer: String,
    /// This node's part.
    pub role: Role,
    /// The partner, by profile name, address or fingerprint.
    pub partner: String,
    /// Source and destination, for users.
    pub description: String,
    /// Its state.
    pub state: RecordState,
    /// When it was requested, in milliseconds since 1970.
    pub created_unix_ms: u64,
    /// When it ended, in milliseconds since 1970.
    pub ended_unix_ms: Option<u64>,
    /// Attempts so far.
    pub attempts: u32,
    /// Its result, if it has one.
    pub result: Option<TransferResult>,
    /// Why it failed, or why it waits for the next attempt.
    pub error: Option<Failure>,
    /// The request of this node's user; `None` if the partner requested the transfer.
    pub request: Option<TransferRequest>,
    /// Its progress; only in answers of a running node.
    #[serde(default)]
    pub progress: Option<Progress>,
}

impl TransferRecord {
    /// The record of a new transfer. It counts as the partner's until its `request` is set.
    #[must_use]
    pub fn new(
        transfer: TransferId,
        role: Role,
        partner: &str,
        description: String,
        state: RecordState,
        created_unix_ms: u64,
    ) -> Self {
        Self {
            transfer: transfer.to_string(),
            role,
            partner: partner.to_owned(),
            description,
            state,
            created_unix_ms,
            ended_unix_ms: None,
            attempts: 0,
            result: None,
            error: None,
            request: None,
            progress: None,
        }
    }

    /// As [`TransferRecord::new`], for a request of this node's user.
    #[must_use]
    pub fn of_request(
        transfer: TransferId,
        request: &TransferRequest,
        state: RecordState,
        created_unix_ms: u64,
    ) -> Self {
        let role = if request.is_sender() { Role::Send } else { Role::Receive };
        let partner = request.target.to_string();
        Self::new(transfer, role, &partner, request.description(), state, created_unix_ms)
    }

    /// The record when its transfer is requested again.
    #[must_use]
    pub fn again(self) -> Self {
        Self { ended_unix_ms: None, result: None, error: None, progress: None, ..self }
    }
}
