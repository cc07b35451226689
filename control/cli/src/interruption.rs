//! Signals that end a command.

use culvert_model::exit_code::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

use crate::exit::CommandError;

/// Runs a command that needs no orderly end: when interrupted, it is dropped, and the interruption
/// is its error.
///
/// # Errors
/// [`CommandError`]: the command's, or the interruption.
pub async fn or_interrupted<T>(command: impl Future<Output = Result<T, CommandError>>) -> Result<T, CommandError> {
    tokio::select! {
        answer = command => answer,
        code = interrupted() => Err(CommandError::new(code, "interrupted")),
    }
}

/// Waits for SIGINT, SIGTERM, or SIGHUP, unless the last is ignored as by `nohup`.
///
/// The handlers are installed by the call, not when the future is first polled: a command that is
/// polled before it would be killed by a signal that comes once it has begun something.
pub fn interrupted() -> impl Future<Output = ExitCode> {
    let (interrupt, terminate) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    // Installing a handler would end the ignoring.
    let hang_up = if is_hangup_ignored() { None } else { signal(SignalKind::hangup()).ok() };
    async move {
        let (Ok(mut interrupt), Ok(mut terminate)) = (interrupt, terminate) else {
            return std::future::pending().await;
        };
        let hung_up = async {
            match hang_up {
                Some(mut hang_up) => hang_up.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = interrupt.recv() => ExitCode::Interrupted,
            _ = terminate.recv() => ExitCode::Terminated,
            _ = hung_up => ExitCode::HungUp,
        }
    }
}

/// Whether this process was started with SIGHUP ignored (proc_pid_status(5), `SigIgn`).
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    // The lowest bit is signal 1, SIGHUP.
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
