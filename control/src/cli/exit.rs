//! Exit codes, and errors that carry one.

use culvert_protocol::control::RefusalCode;

use crate::dataplane::DataPlaneError;
use crate::os_error::{self, explained, tells_shortage};
use crate::profiles::ProfileError;
use crate::settings::SettingsError;
use crate::state::StateError;
use crate::transfer::TransferError;

/// The contract's exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ExitCode {
    /// Done.
    Done = 0,
    /// Failed.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A source or destination was not found.
    NotFound = 3,
    /// Not permitted by the partner, or an unknown key.
    NotPermitted = 4,
    /// Temporary: try again.
    Temporary = 5,
    /// Done, but some files failed.
    SomeFailed = 6,
    /// Bad configuration or host.
    BadHost = 7,
    /// There was nothing to do.
    NothingToDo = 9,
    /// Waiting timed out.
    TimedOut = 10,
    /// Verification failed.
    Verification = 11,
    /// The partner's key changed.
    KeyChanged = 12,
    /// Interrupted (SIGINT).
    Interrupted = 130,
    /// The terminal was closed (SIGHUP).
    HungUp = 129,
    /// Terminated (SIGTERM).
    Terminated = 143,
}

impl ExitCode {
    /// The code of this number.
    #[must_use]
    pub fn of(code: u8) -> Option<Self> {
        const ALL: [ExitCode; 15] = [
            ExitCode::Done,
            ExitCode::Failed,
            ExitCode::Usage,
            ExitCode::NotFound,
            ExitCode::NotPermitted,
            ExitCode::Temporary,
            ExitCode::SomeFailed,
            ExitCode::BadHost,
            ExitCode::NothingToDo,
            ExitCode::TimedOut,
            ExitCode::Verification,
            ExitCode::KeyChanged,
            ExitCode::Interrupted,
            ExitCode::HungUp,
            ExitCode::Terminated,
        ];
        ALL.into_iter().find(|known| *known as u8 == code)
    }
}

/// What a command exits with that could not use a path which was named to it.
#[must_use]
pub fn of_path(error: &std::io::Error) -> ExitCode {
    match os_error::code_of(error) {
        RefusalCode::NotFound => ExitCode::NotFound,
        RefusalCode::NotPermitted => ExitCode::NotPermitted,
        RefusalCode::Temporary => ExitCode::Temporary,
        _ => ExitCode::Failed,
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct CommandError {
    /// What to exit with.
    pub exit_code: u8,
    /// What to say.
    pub text: String,
}

impl CommandError {
    /// A failure of this process with a code. Where it only lacks descriptors or memory, whatever it wanted them for, that
    /// is temporary, and the text says whose they are.
    pub fn new(code: ExitCode, text: impl std::fmt::Display) -> Self {
        let text = text.to_string();
        let code = if tells_shortage(&text) { ExitCode::Temporary } else { code };
        Self { exit_code: code as u8, text: explained(text) }
    }

    /// A failure in the words of another process, to which nothing of this one is added.
    pub fn told(code: ExitCode, text: impl Into<String>) -> Self {
        Self { exit_code: code as u8, text: text.into() }
    }

    /// A plain failure.
    pub fn failed(text: impl std::fmt::Display) -> Self {
        Self::new(ExitCode::Failed, text)
    }

    /// A wrong command line.
    pub fn usage(text: impl std::fmt::Display) -> Self {
        Self::new(ExitCode::Usage, text)
    }
}

impl From<TransferError> for CommandError {
    fn from(error: TransferError) -> Self {
        Self { exit_code: error.exit_code(), text: error.text() }
    }
}

impl From<SettingsError> for CommandError {
    fn from(error: SettingsError) -> Self {
        Self::new(ExitCode::BadHost, error)
    }
}

impl From<StateError> for CommandError {
    fn from(error: StateError) -> Self {
        Self::new(ExitCode::BadHost, error)
    }
}

impl From<ProfileError> for CommandError {
    fn from(error: ProfileError) -> Self {
        let code = match &error {
            ProfileError::NotFound(_) | ProfileError::NotPending(_) => ExitCode::NotFound,
            ProfileError::BadName(_) | ProfileError::RelativeRoot(_) => ExitCode::Usage,
            ProfileError::State(_) => ExitCode::BadHost,
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
    use super::*;
    use culvert_protocol::control::Refusal;

    /// This process's limit was added to what a far end said of its own.
    #[test]
    fn a_limit_is_added_to_words_of_this_process_and_not_to_those_of_another() {
        let words = "cannot use /there: Too many open files (os error 24)";
        let theirs = TransferError::Partner(Refusal::new(RefusalCode::NotFound, words));
        for told in [CommandError::from(theirs), CommandError::told(ExitCode::NotFound, words)] {
            assert_eq!((told.exit_code, told.text.as_str()), (3, words), "neither is it this side's to judge");
        }
        let ours = CommandError::new(ExitCode::NotFound, words);
        assert!(ours.exit_code == 5 && ours.text.contains("ulimit -n"), "{ours}");
        let here = TransferError::os(rustix::io::Errno::MFILE, words.to_owned());
        let ours = CommandError::from(here);
        assert!(ours.exit_code == 5 && ours.text.contains("ulimit -n"), "{ours}");
    }
}
