//! Why a transfer ended without a result, and what follows from it.

use culvert_connection::ConnectionError;
use culvert_model::record::Failure;
use culvert_plane::DataPlaneError;
use culvert_protocol::control::{FileError, Refusal, RefusalCode};
use culvert_protocol::foreign_text::foreign_text;
use culvert_system::os_error::{self, SHORTAGE, explained, without_numbers};

/// Why a transfer ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The partner refuses or gives up.
    #[error("{0}")]
    Partner(Refusal),
    /// This side refuses or gives up; the partner is notified.
    #[error("{0}")]
    Here(Refusal),
    /// One protocol does not pass between the two hosts where another does: somebody has to open a
    /// firewall, so that a retry at once is useless. The partner is notified.
    #[error("{0}")]
    Closed(String),
    /// The partner's key is not the one that its profile names.
    #[error("{0}")]
    KeyChanged(String),
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The data plane.
    #[error(transparent)]
    DataPlane(DataPlaneError),
}

impl TransferError {
    /// This side gives up.
    #[must_use]
    pub fn here(code: RefusalCode, text: impl Into<String>) -> Self {
        Self::Here(Refusal::new(code, text))
    }

    /// This side gives up because of an error of the operating system, with whose words the text
    /// ends.
    #[must_use]
    pub fn os(errno: rustix::io::Errno, text: String) -> Self {
        Self::Here(os_error::refusal(errno, text))
    }

    /// What ends the transfer, if an error with a file is a shortage of this host and not the
    /// file's.
    #[must_use]
    pub fn of_shortage(error: &FileError) -> Option<Self> {
        (error.code == SHORTAGE).then(|| Self::here(RefusalCode::Temporary, error.text.clone()))
    }

    /// The refusal for the partner, if this side ends the transfer.
    #[must_use]
    pub fn told(&self) -> Option<Refusal> {
        match self {
            Self::Here(refusal) => Some(refusal.clone()),
            Self::Closed(text) => Some(Refusal::new(RefusalCode::Temporary, text.clone())),
            _ => None,
        }
    }

    /// The message for the user. The partner's words stay as they are: whatever they ask for has to
    /// be done there.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::DataPlane(error) => without_numbers(&explained(error.to_string())),
            Self::Partner(_) => self.to_string(),
            Self::Here(_) | Self::Closed(_) | Self::KeyChanged(_) | Self::Connection(_) => {
                without_numbers(&self.to_string())
            }
        }
    }

    /// The partner did something that the protocol does not allow.
    #[must_use]
    pub fn protocol(text: impl Into<String>) -> Self {
        Self::here(RefusalCode::Protocol, format!("the partner broke the protocol: {}", text.into()))
    }

    /// The kind, for exit codes and retries.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Partner(refusal) | Self::Here(refusal) => refusal.code,
            Self::KeyChanged(_) => RefusalCode::UnknownKey,
            Self::Connection(ConnectionError::Frame(_)) => RefusalCode::Protocol,
            Self::Connection(ConnectionError::UnknownHost { .. }) => RefusalCode::NotFound,
            Self::Closed(_)
            | Self::Connection(_)
            | Self::DataPlane(
                DataPlaneError::Died(_)
                | DataPlaneError::PortsInUse(_)
                | DataPlaneError::NoRoom(_)
                | DataPlaneError::NoDescriptor { .. }
                | DataPlaneError::Overrun
                | DataPlaneError::Nonsense(_),
            ) => RefusalCode::Temporary,
            Self::DataPlane(_) => RefusalCode::Failed,
        }
    }

    /// What `culvert send` exits with (the contract's exit codes).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(self, Self::KeyChanged(_)) {
            return 12;
        }
        // What does not fit this host, or how the data plane is set up on it, fits no other
        // transfer either.
        if let Self::DataPlane(
            DataPlaneError::CannotStart(_)
            | DataPlaneError::Prepare(_)
            | DataPlaneError::Spawn { .. }
            | DataPlaneError::Attach { .. },
        ) = self
        {
            return 7;
        }
        match self.code() {
            RefusalCode::UnknownKey | RefusalCode::NotPermitted => 4,
            RefusalCode::NotFound => 3,
            RefusalCode::Temporary | RefusalCode::Interrupted => 5,
            RefusalCode::Canceled => 130,
            RefusalCode::Verification => 11,
            RefusalCode::NothingToDo => 9,
            RefusalCode::Collision
            | RefusalCode::NoSpace
            | RefusalCode::Version
            | RefusalCode::Protocol
            | RefusalCode::Failed => 1,
        }
    }

    /// Whether another try may succeed by itself.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        self.code() == RefusalCode::Temporary && !matches!(self, Self::Closed(_))
    }
}

impl From<DataPlaneError> for TransferError {
    fn from(error: DataPlaneError) -> Self {
        match error {
            // The partner is notified: it is not disconnected without a reason, and will come back.
            DataPlaneError::NoRoom(_) | DataPlaneError::NoDescriptor { .. } | DataPlaneError::Overrun => {
                Self::here(RefusalCode::Temporary, error.to_string())
            }
            error => {
                let text = error.to_string();
                if os_error::tells_shortage(&text) {
                    return Self::here(RefusalCode::Temporary, explained(text));
                }
                Self::DataPlane(error)
            }
        }
    }
}

impl From<culvert_connection::Closed> for TransferError {
    fn from(closed: culvert_connection::Closed) -> Self {
        Self::here(RefusalCode::Temporary, closed.to_string())
    }
}

/// A transfer's error, as it is kept and shown.
#[must_use]
pub fn failure(error: &TransferError) -> Failure {
    let code = serde_json::to_value(error.code()).ok().and_then(|value| value.as_str().map(str::to_owned));
    let code = if matches!(error, TransferError::KeyChanged(_)) { Some("key_changed".to_owned()) } else { code };
    // It may quote the partner, and stays in the record forever.
    let text = foreign_text(&error.text());
    Failure { code: code.unwrap_or_default(), text, exit_code: error.exit_code() }
}
