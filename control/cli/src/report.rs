//! Prints results of transfers, for people and as JSON.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_model::exit_code::ExitCode;
use culvert_model::result::{ResultError, State, TransferResult};
use culvert_model::units::{show_bytes, show_count, show_rate, show_seconds};
use culvert_model::would::Would;
use culvert_protocol::control::TransferId;
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::foreign_text::{plain_json, plain_lines};
use culvert_state::StateDirectory;
use culvert_system::os_error;

use crate::dry_run;
use crate::exit::CommandError;

/// Failed files that are shown to people; JSON lists all that are recorded.
const ERRORS_SHOWN: usize = 10;

/// How a result is printed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReportOptions {
    /// As JSON.
    pub json: bool,
    /// Errors only.
    pub quiet: bool,
    /// With details.
    pub verbose: bool,
    /// Whether "nothing to do" has an exit code of its own.
    pub error_on_no_transfer: bool,
}

/// Prints a result and returns the exit code.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn print(
    result: &TransferResult,
    options: ReportOptions,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    let ReportOptions { json, quiet, verbose, error_on_no_transfer } = options;
    if json {
        print_json(result)?;
    } else if !quiet {
        if let Some(would) = result.would.as_ref().filter(|_| verbose) {
            say_dry_run(would)?;
        }
        // A measurement's receipt was removed with its directory.
        let receipt = state.path(format!("receipts/{}.receipt", result.transfer));
        let receipt = if receipt.exists() { receipt.display().to_string() } else { String::new() };
        say(&text(result, &receipt))?;
    }
    if let Some(refused) = result.would.as_ref().and_then(|would| would.refused.as_ref()) {
        say_aside!("culvert: {}", plain_lines(&refused.text));
    }
    for error in result.errors.iter().take(if json { 0 } else { ERRORS_SHOWN }) {
        say_aside!("culvert: {}", plain_lines(&sentence(error)));
    }
    let shown = result.errors.len().min(ERRORS_SHOWN) as u64;
    if !json && result.error_count > shown {
        let listed = result.errors.len() as u64;
        let hint =
            if listed == result.error_count { "them".to_owned() } else { format!("the first {}", show_count(listed)) };
        say_aside!("culvert: and {} more; --json lists {hint}", show_count(result.error_count - shown));
    }
    if let Some(warning) = result.warning().filter(|_| !json) {
        say_aside!("culvert: warning: {}", plain_lines(&warning));
    }
    Ok(exit_code(result, error_on_no_transfer))
}

/// The exit code for a result. Files left out have their own code even if nothing else was to be
/// done, because the copy is incomplete.
#[must_use]
pub fn exit_code(result: &TransferResult, error_on_no_transfer: bool) -> ExitCode {
    match result.state {
        State::Failed => ExitCode::Failed,
        State::Canceled => ExitCode::Interrupted,
        State::SucceededWithErrors => ExitCode::SomeFailed,
        State::Succeeded if error_on_no_transfer && is_nothing(result) => ExitCode::NothingToDo,
        State::Succeeded => ExitCode::Done,
    }
}

/// Whether this process has printed its JSON document.
static HAS_ANSWERED: AtomicBool = AtomicBool::new(false);

/// Whether the JSON document has been printed. There is exactly one, even if the command fails
/// afterwards.
#[must_use]
pub fn has_answered() -> bool {
    HAS_ANSWERED.load(Ordering::Relaxed)
}

/// Notes that the JSON document has been printed by other means than [`print_json`].
pub fn note_answer() {
    HAS_ANSWERED.store(true, Ordering::Relaxed);
}

/// Prints one of several lines of JSON. A failure after them is reported in another line.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn print_json_line(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(CommandError::failed)?;
    say(&plain_json(&text))
}

/// Prints the JSON document of a command.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    print_json_line(value)?;
    note_answer();
    Ok(())
}

/// Prints a text and a line end, without control characters other than line ends. A closed pipe
/// (`| head`) is no error.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn say(text: &str) -> Result<(), CommandError> {
    outcome(writeln!(std::io::stdout(), "{}", plain_lines(text)))
}

/// Writes what standard output still holds back, before the process ends.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn finish() -> Result<(), CommandError> {
    outcome(std::io::stdout().flush())
}

/// The outcome of writing to standard output. A closed pipe (`| head`) is no error.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn outcome(written: std::io::Result<()>) -> Result<(), CommandError> {
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            let words = os_error::words_or_hint(&error, "send it somewhere else");
            Err(CommandError::failed(format!("cannot write to standard output: {words}")))
        }
        _ => Ok(()),
    }
}

/// For fewer bytes, the cycles would be mostly those of starting and ending.
const CYCLES_SHOWN_FROM_BYTES: u64 = 1 << 20;

/// A result for people.
#[must_use]
pub fn text(result: &TransferResult, receipt: &str) -> String {
    if let Some(would) = &result.would {
        return crate::dry_run::text(would, result);
    }
    if let Some(text) = text_of_nothing(result) {
        return text;
    }
    let mut lines = Vec::new();
    let what = if result.files.total == 0 {
        show_bytes(result.bytes)
    } else {
        format!("{}, {}", counted(result.files.stored, "file"), show_bytes(result.bytes))
    };
    let rate = match result.goodput_bps {
        0 => String::new(),
        rate => format!(": {}", show_rate(rate)),
    };
    lines.push(format!("{what} in {}{rate}", show_seconds(result.seconds)));
    if result.resumed_bytes > 0 {
        lines.push(format!("  resumed    {} were there already", show_bytes(result.resumed_bytes)));
    }
    let left_out = [(result.files.skipped, "skipped (there already)"), (result.files.failed, "failed")];
    let left_out = left_out.iter().filter(|(count, _)| *count > 0);
    let left_out: Vec<_> = left_out.map(|(count, how)| format!("{} {how}", show_count(*count))).collect();
    if !left_out.is_empty() {
        lines.push(format!("  left out   {}", left_out.join(", ")));
    }
    if !result.root_blake3.is_empty() {
        lines.push(format!("  verified   blake3 {}", result.root_blake3));
    }
    // Without flows, nothing was moved over a path.
    if result.flows > 0 {
        lines.push(path_line(result));
    }
    lines.push(cost_line(result));
    if result.transfer.parse::<TransferId>().is_ok() && !receipt.is_empty() {
        lines.push(format!("  receipt    {receipt}"));
    }
    if result.bytes > result.resumed_bytes {
        lines.push(format!("  verdict    {}", result.verdict.text));
    }
    lines.join("\n")
}

/// The message about a failed file, with its name exactly once.
fn sentence(error: &ResultError) -> String {
    let ResultError { path, text, .. } = error;
    if text.starts_with(&format!("'{path}'")) { text.clone() } else { format!("{path}: {text}") }
}

/// Prints a line for each entry of a dry run.
fn say_dry_run(would: &Would) -> Result<(), CommandError> {
    for file in &would.files {
        say(&dry_run::line(file))?;
    }
    let more = would.file_count.saturating_sub(would.files.len() as u64);
    if more > 0 && would.counts.new.is_some() {
        say(&format!("… and {} more", show_count(more)))?;
    }
    Ok(())
}

/// Whether everything was at the destination already.
fn is_nothing(result: &TransferResult) -> bool {
    let would_send = result.would.as_ref().is_some_and(|would| would.counts.sent > 0);
    result.files.total > 0
        && result.files.stored == 0
        && result.others_made == 0
        && !would_send
        && result.files.skipped == result.files.total
}

/// The message for a transfer that stored nothing; none if it stored something.
fn text_of_nothing(result: &TransferResult) -> Option<String> {
    let (total, failed) = (result.files.total, result.files.failed);
    if is_nothing(result) {
        let are_there = match total {
            1 => "the file is there already".to_owned(),
            total => format!("all {} are there already", counted(total, "file")),
        };
        return Some(match failed {
            0 => format!("nothing to do: {are_there}"),
            failed => {
                let left_out = format!("{} {} left out", counted(failed, "other"), agree(failed, "was", "were"));
                format!("nothing was sent: {are_there}, and {left_out}")
            }
        });
    }
    let has_nothing = failed > 0 && result.files.stored == 0 && result.others_made == 0;
    has_nothing.then(|| {
        let skipped = match result.files.skipped {
            0 => String::new(),
            skipped => format!(", {} {} there already", show_count(skipped), agree(skipped, "is", "are")),
        };
        format!("nothing was stored: {} failed{skipped}", counted(failed, "file"))
    })
}

/// The line about the path and its losses.
fn path_line(result: &TransferResult) -> String {
    format!(
        "  path       {} of {}-byte segments over {}, {}; rtt {:.2} ms; {} of {} sent again ({:.3} %)",
        counted(result.flows, "flow"),
        result.segment_bytes,
        result.datapath,
        result.cipher,
        result.rtt_ms.p50,
        show_count(result.segments_resent),
        counted(result.segments_sent, "segment"),
        result.loss * 100.0
    )
}

/// The line about processor time on both ends.
fn cost_line(result: &TransferResult) -> String {
    let (seconds, cycles) = (&result.cpu_seconds, &result.cycles_per_byte);
    let cycles = if result.bytes.saturating_sub(result.resumed_bytes) >= CYCLES_SHOWN_FROM_BYTES {
        format!(" ({:.2} and {:.2} cycles/byte)", cycles.send, cycles.receive)
    } else {
        String::new()
    };
    format!("  cost       {:.2} s CPU to send, {:.2} s to receive{cycles}", seconds.send, seconds.receive)
}
