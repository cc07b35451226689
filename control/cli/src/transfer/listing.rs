//! Shows transfers, as a table and in detail.

use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::units::{show_bytes, show_rate};
use culvert_state::StateDirectory;

use crate::exit::CommandError;
use crate::progress;
use crate::report::{self, print_json_line, say};
use crate::transfer::lookup::records;

/// The shortest prefix that is shown on terminals: enough to stay unique for a while.
const SHOWN_CHARACTERS_MIN: usize = 12;
/// If fewer columns than this are left for paths and results, results are omitted.
const BOTH_COLUMNS_MIN: usize = 45;
/// How much of an error is shown where lines are not truncated; 'transfer show' and JSON contain
/// all of it.
const ERROR_CHARACTERS_MAX: usize = 80;

/// Lists transfers, the newest first.
pub async fn list(state: &StateDirectory, limit: usize, active: bool, json: bool) -> Result<ExitCode, CommandError> {
    let mut records = records(state).await?;
    records.retain(|record| !active || !record.state.is_final());
    records.truncate(limit);
    if json {
        for record in &records {
            print_json_line(record)?;
        }
        return Ok(ExitCode::Done);
    }
    if records.is_empty() {
        say("no transfers")?;
    } else {
        let columns = rustix::termios::tcgetwinsize(std::io::stdout()).ok().map(|size| usize::from(size.ws_col));
        say(&table(&records, columns.filter(|&columns| columns > 0)))?;
    }
    Ok(ExitCode::Done)
}

/// Describes a transfer in several lines.
#[must_use]
pub fn describe(record: &TransferRecord, state: &StateDirectory) -> String {
    let mut lines = vec![
        format!("transfer     {}", record.transfer),
        format!("what         {}", record.description),
        format!("partner      {}", record.partner),
        format!("state        {}", record.state.word()),
        format!("started      {}", time(record.created_unix_ms)),
        format!("ended        {}", record.ended_unix_ms.map_or_else(|| "not yet".to_owned(), time)),
        format!("attempts     {}", record.attempts),
    ];
    if let Some(progress) = &record.progress {
        lines.push(format!("progress     {}", progress::line(progress)));
    }
    if let Some(error) = &record.error {
        // While the transfer runs, the error is that of an earlier attempt.
        let what = if record.state.is_final() { "error" } else { "last attempt:" };
        lines.push(format!("{what:12} {}", error.text));
    }
    if let Some(result) = &record.result {
        let receipt = state.path(format!("receipts/{}.receipt", record.transfer));
        lines.push(report::text(result, &receipt.display().to_string()));
        lines.extend(result.errors.iter().map(|error| format!("  failed     {}: {}", error.path, error.text)));
        lines.extend(result.warning().map(|warning| format!("  warning    {warning}")));
    }
    lines.join("\n")
}

/// A time in UTC, because the hosts of a transfer may be in different time zones.
#[must_use]
pub fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

/// The transfers as a table. For a terminal with `columns`, ids are shortened and lines truncated.
#[must_use]
pub fn table(records: &[TransferRecord], columns: Option<usize>) -> String {
    let ids = columns.map_or(usize::MAX, |_| prefix_length(records));
    let mut rows = vec![["ID", "STATE", "STARTED", "ENDED", "WHAT", "RESULT"].map(str::to_owned)];
    rows.extend(records.iter().map(|record| row(record, ids, columns.is_some())));
    let mut widths = [0usize; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // Paths get two thirds of the remaining columns, results the rest.
    if let Some(columns) = columns {
        let taken: usize = widths[..4].iter().map(|width| width + 2).sum();
        let left = columns.saturating_sub(taken);
        if left < BOTH_COLUMNS_MIN {
            rows.iter_mut().for_each(|row| row[5].clear());
        } else {
            widths[4] = widths[4].min(left * 2 / 3);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells: Vec<String> = row.iter().zip(widths).map(|(cell, width)| pad(cell, width)).collect();
        cut(cells.join("  ").trim_end(), columns.unwrap_or(usize::MAX))
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// Like [`time`], for terminals: without the year.
fn short_time(unix_ms: u64) -> String {
    let time = time(unix_ms);
    time.get(5..19).map_or(time.clone(), |time| time.replace('T', " "))
}

fn row(record: &TransferRecord, characters: usize, is_short: bool) -> [String; 6] {
    let when = |unix_ms| if is_short { short_time(unix_ms) } else { time(unix_ms) };
    let state = match record.state {
        RecordState::SucceededWithErrors if is_short => "with errors",
        state => state.word(),
    };
    let how = match (&record.result, &record.progress) {
        (Some(result), _) if result.dry_run => "dry run".to_owned(),
        (Some(result), _) => format!("{}, {}", show_bytes(result.bytes), show_rate(result.goodput_bps)),
        (None, Some(progress)) => progress::line(progress),
        (None, None) => {
            let error = record.error.as_ref().and_then(|error| error.text.lines().next());
            error.map_or_else(|| waits_for(record.state).to_owned(), |error| cut(error, ERROR_CHARACTERS_MAX))
        }
    };
    [
        record.transfer.chars().take(characters).collect(),
        state.to_owned(),
        when(record.created_unix_ms),
        record.ended_unix_ms.map_or_else(|| "-".to_owned(), when),
        record.description.clone(),
        how,
    ]
}

/// What a transfer without a result, progress or an error waits for.
const fn waits_for(state: RecordState) -> &'static str {
    match state {
        RecordState::Paused => "waits for 'culvert transfer resume'",
        RecordState::Queued => "waits for other transfers to end",
        _ => "-",
    }
}

/// The length of the shortest prefixes that distinguish all ids.
fn prefix_length(records: &[TransferRecord]) -> usize {
    let mut ids: Vec<&str> = records.iter().map(|record| record.transfer.as_str()).collect();
    ids.sort_unstable();
    let common = |pair: &[&str]| match pair {
        [a, b] => a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count(),
        _ => 0,
    };
    ids.windows(2).map(|pair| common(pair) + 1).max().unwrap_or(0).max(SHOWN_CHARACTERS_MIN)
}

fn pad(cell: &str, width: usize) -> String {
    let cell = cut(cell, width);
    let missing = width.saturating_sub(cell.chars().count());
    cell + &" ".repeat(missing)
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use culvert_model::record::{Failure, Role};

    use super::*;

    fn record(id: &str) -> TransferRecord {
        TransferRecord {
            transfer: id.to_owned(),
            role: Role::Send,
            partner: "lab".to_owned(),
            description: format!("/data/{} → lab:in", "long/".repeat(60)),
            state: RecordState::Succeeded,
            created_unix_ms: 1_790_000_000_000,
            ended_unix_ms: None,
            attempts: 1,
            result: None,
            error: None,
            request: None,
            progress: None,
        }
    }

    #[test]
    fn lines_fit_the_terminal_and_are_complete_elsewhere() {
        let all = ["01JD3V5K6A0000000000000000", "01JD3V5K6B0000000000000000"].map(record);
        let narrow = table(&all, Some(80));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.starts_with("ID            STATE") && narrow.contains("01JD3V5K6A00  "), "{narrow}");
        let whole = table(&all, None);
        assert!(whole.contains(&all[0].transfer) && whole.contains(&all[0].description), "{whole}");
        assert!(whole.contains("2026-09-21T"), "{whole}");
        // Except errors, which may name every port and rule of a firewall.
        let mut failed = record("01JD3V5K6C0000000000000000");
        let text = format!("UDP does not pass: {}", "open it ".repeat(90));
        failed.error = Some(Failure { code: "temporary".to_owned(), text, exit_code: 5 });
        let whole = table(&[failed], None);
        assert!(whole.contains("  UDP does not pass: open it") && whole.ends_with('…'), "{whole}");
        let row = whole.lines().last().unwrap().chars().count();
        assert!(row < whole.lines().next().unwrap().chars().count() + 80, "{whole}");
    }

    /// Regression: the column of a paused transfer was empty but for a dash.
    #[test]
    fn a_transfer_that_waits_says_for_what() {
        for (state, told) in
            [(RecordState::Paused, "culvert transfer resume"), (RecordState::Queued, "other transfers")]
        {
            let mut waiting = record("01JD3V5K6D0000000000000000");
            waiting.state = state;
            let row = table(std::slice::from_ref(&waiting), None);
            assert!(row.contains(state.word()) && row.contains(told), "{row}");
            // The error of an earlier attempt says more.
            let text = "the partner restarts".to_owned();
            waiting.error = Some(Failure { code: "temporary".to_owned(), text, exit_code: 5 });
            assert!(table(&[waiting], None).ends_with("the partner restarts"));
        }
    }
}
