//! The result of a transfer, for people and for programs.

use std::io::Write as _;

use culvert_protocol::control::TransferId;
use culvert_protocol::foreign_text::{plain_json, plain_lines};

use crate::cli::exit::{CommandError, ExitCode};
use crate::state::StateDirectory;
use crate::transfer::result::{State, TransferResult};
use crate::units::{show_bytes, show_count, show_rate, show_seconds};
use culvert_tuning::counted::{agree, counted};

/// Failed files that are shown to people; JSON has all that are kept.
const ERRORS_SHOWN: usize = 10;

/// Prints a result and tells what to exit with.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn print(
    result: &TransferResult,
    json: bool,
    quiet: bool,
    state: &StateDirectory,
) -> Result<ExitCode, CommandError> {
    if json {
        print_json(result)?;
    } else if !quiet {
        say(&text(result, &state.path(format!("receipts/{}.receipt", result.transfer)).display().to_string()))?;
    }
    for error in result.errors.iter().take(if json { 0 } else { ERRORS_SHOWN }) {
        say_aside!("culvert: {}", plain_lines(&format!("{}: {}", error.path, error.text)));
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
    Ok(exit_code(result))
}

/// What a result means for the exit code.
#[must_use]
pub fn exit_code(result: &TransferResult) -> ExitCode {
    match result.state {
        State::Failed => ExitCode::Failed,
        State::Canceled => ExitCode::Interrupted,
        State::SucceededWithErrors => ExitCode::SomeFailed,
        State::Succeeded if is_nothing(result) => ExitCode::NothingToDo,
        State::Succeeded => ExitCode::Done,
    }
}

/// Whether everything was there already.
fn is_nothing(result: &TransferResult) -> bool {
    result.files.total > 0
        && result.files.stored == 0
        && result.others_made == 0
        && result.flows == 0
        && result.files.skipped == result.files.total
}

/// Prints a value as JSON.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn print_json(value: &impl serde::Serialize) -> Result<(), CommandError> {
    let text = serde_json::to_string(value).map_err(CommandError::failed)?;
    say(&plain_json(&text))
}

/// Prints a text, with nothing in it that a terminal obeys but line ends, and a line's end. A reader that has gone (`| head`) is no error.
///
/// # Errors
/// [`CommandError`] if standard output cannot be written.
pub fn say(text: &str) -> Result<(), CommandError> {
    match writeln!(std::io::stdout(), "{}", plain_lines(text)) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(CommandError::failed(format!("cannot write to standard output: {error}")))
        }
        _ => Ok(()),
    }
}

/// A result as people read it.
#[must_use]
pub fn text(result: &TransferResult, receipt: &str) -> String {
    if is_nothing(result) {
        return match result.files.total {
            1 => "nothing to do: the file is there already".to_owned(),
            total => format!("nothing to do: all {} are there already", counted(total, "file")),
        };
    }
    if result.seconds == 0.0 {
        return format!(
            "would send {}, {}; {} {} there already",
            counted(result.files.stored, "file"),
            show_bytes(result.bytes),
            show_count(result.files.skipped),
            agree(result.files.skipped, "is", "are")
        );
    }
    let mut lines = Vec::new();
    let what = if result.files.total == 0 {
        show_bytes(result.bytes)
    } else {
        format!("{}, {}", counted(result.files.stored, "file"), show_bytes(result.bytes))
    };
    lines.push(format!("{what} in {}: {}", show_seconds(result.seconds), show_rate(result.goodput_bps)));
    if result.resumed_bytes > 0 {
        lines.push(format!("  resumed    {} were there already", show_bytes(result.resumed_bytes)));
    }
    if result.files.skipped + result.files.failed > 0 {
        lines.push(format!(
            "  left out   {} skipped (there already), {} failed",
            show_count(result.files.skipped),
            show_count(result.files.failed)
        ));
    }
    if !result.root_blake3.is_empty() {
        lines.push(format!("  verified   blake3 {}", result.root_blake3));
    }
    lines.push(format!(
        "  path       {} of {}-byte segments over {}, {}; rtt {:.2} ms; {} of {} sent again ({:.3} %)",
        counted(result.flows, "flow"),
        result.segment_bytes,
        result.datapath,
        result.cipher,
        result.rtt_ms.p50,
        show_count(result.segments_resent),
        counted(result.segments_sent, "segment"),
        result.loss * 100.0
    ));
    lines.push(format!(
        "  cost       {:.2} s CPU to send, {:.2} s to receive ({:.2} and {:.2} cycles/byte)",
        result.cpu_seconds.send,
        result.cpu_seconds.receive,
        result.cycles_per_byte.send,
        result.cycles_per_byte.receive
    ));
    if result.transfer.parse::<TransferId>().is_ok() && !receipt.is_empty() {
        lines.push(format!("  receipt    {receipt}"));
    }
    lines.push(format!("  verdict    {}", result.verdict.text));
    lines.join("\n")
}
