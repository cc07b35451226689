//! What ssh and the far end print on standard error: shown to the user, and searched for the reason
//! why ssh failed.
//!
//! It is foreign text: bounded, and shown line by line without control characters.

use std::time::Duration;

use culvert_model::exit_code::ExitCode;
use culvert_protocol::foreign_text::foreign_text;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};

use crate::exit::CommandError;

/// The longest line that is kept in memory.
const LINE_BYTES_MAX: u64 = 4 << 10;
/// The number of lines that are shown.
const LINES_MAX: usize = 1_000;

/// What was printed, as far as it matters when ssh has ended.
#[derive(Debug, Default)]
pub struct SshStderr {
    /// Why ssh failed.
    pub failure: SshFailure,
    /// The last line, unless it was shown already.
    pub last: String,
}

impl SshStderr {
    /// Shows the last line.
    pub fn show(&mut self) {
        let last = std::mem::take(&mut self.last);
        if !last.is_empty() {
            say_aside!("{last}");
        }
    }
}

/// Why ssh itself failed, according to its messages: its exit status is always 255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SshFailure {
    /// None of its messages is known.
    #[default]
    Unknown,
    /// The host name does not resolve.
    NoSuchHost,
    /// It could not connect, or lost the connection before the login.
    NoConnection,
    /// It could not log in, or does not trust the host's key.
    NoLogin,
}

impl SshFailure {
    /// The failure that a line from OpenSSH reports. Its messages have not changed in twenty years
    /// and are not localized.
    fn of(line: &str) -> Option<Self> {
        let has = |words: &[&str]| words.iter().any(|words| line.contains(words));
        if has(&["Could not resolve hostname"]) {
            let is_temporary = has(&["Temporary failure", "Try again"]);
            return Some(if is_temporary { Self::NoConnection } else { Self::NoSuchHost });
        }
        if has(&["Permission denied (", "Host key verification failed", "Too many authentication failures"]) {
            return Some(Self::NoLogin);
        }
        let lost = [
            "connect to host ",
            "kex_exchange_identification",
            "banner exchange",
            "Connection closed by ",
            "Connection reset by ",
        ];
        has(&lost).then_some(Self::NoConnection)
    }

    /// The error for the user, after `no_profile`.
    pub fn explain(self, host: &str, no_profile: &str) -> CommandError {
        let (code, text) = match self {
            Self::NoSuchHost => (
                ExitCode::NotFound,
                format!("ssh knows no host of this name: check the spelling of '{host}'; its message is above"),
            ),
            Self::NoConnection => (
                ExitCode::Temporary,
                format!(
                    "ssh could not connect to {host}: is the host up, and does its ssh server listen? Its message is above"
                ),
            ),
            Self::NoLogin => (
                ExitCode::NotPermitted,
                format!(
                    "ssh could not log in to {host}: 'ssh {host}' must work without a prompt; its message is above"
                ),
            ),
            Self::Unknown => (
                ExitCode::Failed,
                format!("ssh could not reach {host} or log in there: try 'ssh {host}'; its message, if any, is above"),
            ),
        };
        CommandError::new(code, format!("{no_profile}{text}"))
    }
}

/// Shows what ssh and the far end print, until they close standard error.
///
/// A line of the far end itself is held back for a moment: if it is the last one, and the far end
/// has ended without an answer, it becomes part of the error message.
pub async fn forward(stderr: impl AsyncRead + Unpin) -> SshStderr {
    /// Longer than a process takes to exit after its last message.
    const HELD: Duration = Duration::from_millis(500);
    let mut output = SshStderr::default();
    let mut lines = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut count = 0usize;
    loop {
        line.clear();
        let mut bounded = (&mut lines).take(LINE_BYTES_MAX);
        let mut reading = std::pin::pin!(bounded.read_until(b'\n', &mut line));
        let read = match tokio::time::timeout(HELD, &mut reading).await {
            Ok(read) => read,
            Err(_) => {
                output.show();
                reading.await
            }
        };
        if !read.is_ok_and(|bytes| bytes > 0) {
            return output;
        }
        output.show();
        if let Some(known) = SshFailure::of(&String::from_utf8_lossy(&line)) {
            output.failure = known;
        }
        count = count.saturating_add(1);
        if count <= LINES_MAX {
            output.last = foreign_text(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n'])).to_string();
            if !output.last.starts_with("culvert: ") {
                output.show();
            }
        } else if count == LINES_MAX + 1 {
            say_aside!("culvert: the far end printed more than {LINES_MAX} lines; the rest is omitted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// ssh exits with 255 for all of these, and all of them were reported as "not permitted".
    #[test]
    fn the_messages_of_ssh_tell_why_it_failed() {
        for (line, code) in [
            ("ssh: Could not resolve hostname nohost: Name or service not known\r", ExitCode::NotFound),
            ("ssh: Could not resolve hostname h: Temporary failure in name resolution", ExitCode::Temporary),
            ("ssh: connect to host 192.0.2.1 port 22: Connection refused\r", ExitCode::Temporary),
            ("ssh: connect to host h port 22: Connection timed out", ExitCode::Temporary),
            ("kex_exchange_identification: Connection closed by remote host", ExitCode::Temporary),
            ("u@h: Permission denied (publickey,password).", ExitCode::NotPermitted),
            ("Host key verification failed.", ExitCode::NotPermitted),
            ("something else", ExitCode::Failed),
        ] {
            let error = SshFailure::of(line).unwrap_or_default().explain("u@h", "");
            assert_eq!(error.exit_code, code as u8, "{line}: {error}");
        }
    }
}
