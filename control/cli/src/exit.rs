//! Exit codes, and errors that carry one.

use culvert_engine::transfer::error::{TransferError, failure};
use culvert_model::exit_code::ExitCode;
use culvert_model::record::{Failure, RecordState};
use culvert_node::profiles::ProfileError;
use culvert_node::settings::SettingsError;
use culvert_perfsonar::http::HttpError;
use culvert_plane::DataPlaneError;
use culvert_protocol::control::RefusalCode;
use culvert_state::StateError;
use culvert_system::os_error::{self, explained, tells_shortage, without_numbers};

/// The exit code of a command that cannot use a path given to it.
#[must_use]
pub fn of_path(error: &std::io::Error) -> ExitCode {
    match os_error::code_of(error) {
        RefusalCode::NotFound => ExitCode::NotFound,
        RefusalCode::NotPermitted => ExitCode::NotPermitted,
        RefusalCode::Temporary => ExitCode::Temporary,
        _ => ExitCode::Failed,
    }
}

/// The exit code of a request over HTTP that has no answer.
#[must_use]
pub const fn of_http(error: &HttpError) -> ExitCode {
    match error {
        HttpError::PinChanged { .. } => ExitCode::KeyChanged,
        HttpError::Url(_) => ExitCode::Usage,
        HttpError::Certificate { .. } => ExitCode::Verification,
        error if error.is_temporary() => ExitCode::Temporary,
        _ => ExitCode::Failed,
    }
}

/// Why a command failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{text}")]
pub struct CommandError {
    /// The exit code.
    pub exit_code: u8,
    /// The message.
    pub text: String,
    /// The code for programs, if it is more specific than the exit code's.
    pub code: Option<String>,
    /// The transfer that failed, if there is one.
    pub transfer: Option<String>,
    /// The state of that transfer, if it continues without the command.
    pub continues_as: Option<RecordState>,
}

impl CommandError {
    /// A failure of this process. If it lacks descriptors or memory, the exit code is temporary
    /// whatever it needed them for, and the text says whose limit was reached.
    pub fn new(code: ExitCode, text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        let code = if tells_shortage(&text) { ExitCode::Temporary } else { code };
        let text = without_numbers(&explained(text));
        Self { exit_code: code as u8, text, code: None, transfer: None, continues_as: None }
    }

    /// A failure of another process, whose message is not changed.
    pub fn from_other_process(code: ExitCode, text: impl Into<String>) -> Self {
        Self { exit_code: code as u8, text: text.into(), code: None, transfer: None, continues_as: None }
    }

    /// The same error, for a transfer.
    #[must_use]
    pub fn of_transfer(mut self, transfer: impl std::fmt::Display) -> Self {
        self.transfer = Some(transfer.to_string());
        self
    }

    /// The same error, for a transfer that continues although this command has stopped waiting for
    /// it.
    #[must_use]
    pub fn of_followed(mut self, transfer: impl std::fmt::Display, state: RecordState) -> Self {
        self.continues_as = Some(state);
        self.of_transfer(transfer)
    }

    /// The error as `--json` prints it.
    #[must_use]
    pub fn answer(&self) -> Answer<'_> {
        let known = ExitCode::of(self.exit_code);
        let state = match known {
            _ if let Some(state) = self.continues_as => state.word(),
            Some(code) if code.is_interrupt() => "canceled",
            _ => "failed",
        };
        let code = self.code.as_deref().or_else(|| known.map(ExitCode::word)).unwrap_or("failed");
        let error = AnswerError { code, text: &self.text, exit_code: self.exit_code };
        Answer { transfer: self.transfer.as_deref(), state, error }
    }

    /// A failure with exit code 1.
    pub fn failed(text: impl std::fmt::Display) -> Self {
        Self::new(ExitCode::Failed, text)
    }

    /// A usage error.
    pub fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(ExitCode::Usage, text)
    }

    /// An error of clap: its message and tips, without the usage text that follows on a terminal.
    #[must_use]
    pub fn misspelled(error: &clap::Error) -> Self {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text);
        let ends = ["\n\nUsage: ", "\n\nFor more information"].iter().filter_map(|end| text.find(end)).min();
        Self::from_other_process(ExitCode::Usage, text.get(..ends.unwrap_or(text.len())).unwrap_or(text).trim())
    }
}

/// The JSON of a failed command.
#[derive(Debug, serde::Serialize)]
pub struct Answer<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    transfer: Option<&'a str>,
    state: &'static str,
    error: AnswerError<'a>,
}

#[derive(Debug, serde::Serialize)]
struct AnswerError<'a> {
    code: &'a str,
    text: &'a str,
    exit_code: u8,
}

impl From<TransferError> for CommandError {
    fn from(error: TransferError) -> Self {
        let failure = failure(&error);
        Self {
            exit_code: error.exit_code(),
            text: error.text(),
            code: Some(failure.code),
            transfer: None,
            continues_as: None,
        }
    }
}

impl From<Failure> for CommandError {
    fn from(failure: Failure) -> Self {
        Self {
            exit_code: failure.exit_code,
            text: failure.text,
            code: Some(failure.code),
            transfer: None,
            continues_as: None,
        }
    }
}

impl From<SettingsError> for CommandError {
    fn from(error: SettingsError) -> Self {
        let code = if error.is_of_command_line() { ExitCode::Usage } else { ExitCode::BadHost };
        Self::new(code, error)
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        // A full disk has the same code on either side, and is no fault of the host's setup.
        if error.code() == RefusalCode::NoSpace {
            return Self { code: Some("no_space".to_owned()), ..Self::failed(error) };
        }
        let code = if error.is_not_permitted() { ExitCode::NotPermitted } else { ExitCode::BadHost };
        Self::new(code, error)
    }
}

impl From<ProfileError> for CommandError {
    fn from(error: ProfileError) -> Self {
        let code = match error {
            ProfileError::State(error) => return error.into(),
            ProfileError::NotFound { .. } | ProfileError::NotPending(_) | ProfileError::NotPermitted { .. } => {
                ExitCode::NotFound
            }
            ProfileError::Ambiguous { .. } | ProfileError::BadName(_) | ProfileError::RelativeRoot(_) => {
                ExitCode::Usage
            }
            ProfileError::Exists(_) | ProfileError::KeyTaken(_) => ExitCode::Failed,
        };
        Self::new(code, error)
    }
}

impl From<DataPlaneError> for CommandError {
    fn from(error: DataPlaneError) -> Self {
        let code = match &error {
            DataPlaneError::CannotStart(_)
            | DataPlaneError::Prepare(_)
            | DataPlaneError::Spawn { .. }
            | DataPlaneError::Attach { .. } => ExitCode::BadHost,
            DataPlaneError::Died(_)
            | DataPlaneError::PortsInUse(_)
            | DataPlaneError::NoRoom(_)
            | DataPlaneError::NoDescriptor { .. }
            | DataPlaneError::Overrun
            | DataPlaneError::Nonsense(_) => ExitCode::Temporary,
        };
        Self::new(code, error)
    }
}

#[cfg(test)]
mod tests {
    use culvert_protocol::control::Refusal;

    use super::*;

    /// It was `bad_host` on this side and `no_space` on the partner's.
    #[test]
    fn a_full_disk_has_the_same_code_on_either_side() {
        let full = || {
            let error = std::io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error());
            StateError::Os { what: "make", path: "/state/x".into(), error }
        };
        let theirs = TransferError::Partner(Refusal::new(RefusalCode::NoSpace, "full"));
        for error in [full().into(), ProfileError::State(full()).into(), CommandError::from(theirs)] {
            assert_eq!((error.exit_code, error.code.as_deref()), (1, Some("no_space")), "{error}");
        }
    }

    /// This process's limit was added to a far end's message about its own.
    #[test]
    fn a_limit_is_added_to_messages_of_this_process_only() {
        let words = "cannot use /there: Too many open files (os error 24)";
        let theirs = TransferError::Partner(Refusal::new(RefusalCode::NotFound, words));
        for told in [CommandError::from(theirs), CommandError::from_other_process(ExitCode::NotFound, words)] {
            assert_eq!(
                (told.exit_code, told.text.as_str()),
                (3, words),
                "the message of the other side is not changed"
            );
        }
        let ours = CommandError::new(ExitCode::NotFound, words);
        assert!(ours.exit_code == 5 && ours.text.contains("ulimit -n"), "{ours}");
        let here = TransferError::os(rustix::io::Errno::MFILE, words.to_owned());
        let ours = CommandError::from(here);
        assert!(ours.exit_code == 5 && ours.text.contains("ulimit -n"), "{ours}");
    }
}
