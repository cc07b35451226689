//! Waits for transfers that a node runs, and shows their progress and end.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use culvert_model::exit_code::ExitCode;
use culvert_model::progress::Progress;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_state::StateDirectory;
use tokio::sync::watch;

use crate::api_client::ApiClient;
use crate::exit::CommandError;
use crate::report::{self, ReportOptions, print_json, print_json_line};
use crate::{progress, verbose};

/// How often the node is asked for the transfer.
const POLL: Duration = Duration::from_millis(150);

/// The last known state of a transfer that a command waits for. The command may end before the
/// transfer does.
#[derive(Debug, Default)]
pub struct FollowedTransfer(RefCell<Option<(String, RecordState)>>);

impl FollowedTransfer {
    /// Notes the last known record.
    pub fn note(&self, record: &TransferRecord) {
        self.0.replace(Some((record.transfer.clone(), record.state)));
    }

    /// Adds to an error that the transfer continues, if it does.
    pub fn explain(&self, error: CommandError) -> CommandError {
        let Some((id, state)) = self.0.take().filter(|(_, state)| !state.is_final()) else { return error };
        let is_interrupt = ExitCode::of(error.exit_code).is_some_and(ExitCode::is_interrupt);
        let error = if is_interrupt {
            let text = format!("interrupted: only the waiting has ended; transfer {id} {}", state.predicate());
            CommandError { text, ..error }
        } else {
            error
        };
        error.of_followed(id, state)
    }
}

/// Shows a transfer's progress until it has ended, and then its result.
pub async fn follow(
    api: &ApiClient,
    id: &str,
    report_options: ReportOptions,
    state: &StateDirectory,
    followed: &FollowedTransfer,
) -> Result<ExitCode, CommandError> {
    let (shown, receiver) = watch::channel(Progress::default());
    let waiting = verbose::with_phases(receiver.clone(), wait(api, id, None, Some(&shown), followed));
    let record = progress::show(report_options.quiet, receiver, waiting).await?;
    match &record.result {
        Some(result) => report::print(result, report_options, state),
        None => ended(&record, report_options.error_on_no_transfer),
    }
}

/// Prints a line of JSON for each change of a transfer, and at the end its result, or its record if
/// it has none.
pub async fn follow_as_json(api: &ApiClient, id: &str, followed: &FollowedTransfer) -> Result<ExitCode, CommandError> {
    let mut shown = None;
    loop {
        let record = api.transfer(id).await?;
        followed.note(&record);
        if record.state.is_final() {
            match &record.result {
                Some(result) => print_json(result)?,
                None => print_json(&record)?,
            }
            return ended(&record, false);
        }
        let now = Some((record.state, record.progress.clone()));
        if shown != now {
            print_json_line(&serde_json::json!({
                "transfer": record.transfer,
                "state": record.state,
                "attempts": record.attempts,
                "progress": record.progress,
            }))?;
            shown = now;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until a transfer has ended, for at most `timeout`, and passes its progress to `shown`.
pub async fn wait(
    api: &ApiClient,
    id: &str,
    timeout: Option<Duration>,
    shown: Option<&watch::Sender<Progress>>,
    followed: &FollowedTransfer,
) -> Result<TransferRecord, CommandError> {
    let began = Instant::now();
    loop {
        let record = api.transfer(id).await?;
        followed.note(&record);
        if record.state.is_final() {
            return Ok(record);
        }
        if let (Some(shown), Some(progress)) = (shown, record.progress) {
            shown.send_replace(progress);
        }
        if timeout.is_some_and(|timeout| began.elapsed() >= timeout) {
            return Err(CommandError::new(
                ExitCode::TimedOut,
                format!("transfer {id} has not ended within {} s", began.elapsed().as_secs()),
            ));
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The exit code or error of a transfer that has ended.
pub fn ended(record: &TransferRecord, error_on_no_transfer: bool) -> Result<ExitCode, CommandError> {
    if let Some(result) = &record.result {
        return Ok(report::exit_code(result, error_on_no_transfer));
    }
    let error = match record.error.clone() {
        Some(failure) => failure.into(),
        None => CommandError::failed("it failed"),
    };
    Err(error.of_transfer(&record.transfer))
}
