//! Transfers as a table, and the ids by which people name them.

use culvert_model::exit_code::ExitCode;
use culvert_model::record::{RecordState, TransferRecord};
use culvert_model::units::{show_bytes, show_rate};
use culvert_protocol::control::TransferId;
use culvert_protocol::counted::counted;

use crate::exit::CommandError;
use crate::progress;

/// The shortest beginning of an id that is shown and understood: its first ten characters are a
/// time.
const ID_CHARACTERS_MIN: usize = 4;
/// Shown on terminals at least: enough to stay unique for a while.
const SHOWN_CHARACTERS_MIN: usize = 12;
/// Paths and results are not both shown where fewer columns are left for them.
const BOTH_COLUMNS_MIN: usize = 45;
/// Of an error so much is shown where lines are not cut; 'transfer show' and JSON have all of it.
const ERROR_CHARACTERS_MAX: usize = 80;
/// Transfers that are named where a beginning stands for several.
const NAMED_MAX: usize = 3;

/// The id that `typed` stands for: itself, or the only one of `records` that begins so.
///
/// # Errors
/// [`CommandError`]: none begins so, or several do.
pub fn id_of(typed: &str, records: &[TransferRecord]) -> Result<String, CommandError> {
    let id = typed.to_ascii_uppercase();
    let begins = |record: &&TransferRecord| id.len() >= ID_CHARACTERS_MIN && record.transfer.starts_with(&id);
    let found: Vec<&str> = records.iter().filter(begins).map(|record| record.transfer.as_str()).collect();
    match found.as_slice() {
        [one] => Ok((*one).to_owned()),
        // It may have been forgotten, or be of a node whose records cannot be read here.
        [] if id.parse::<TransferId>().is_ok() => Ok(id),
        [] => Err(CommandError::new(
            ExitCode::NotFound,
            format!("there is no transfer {typed}; 'culvert transfer list' lists all"),
        )),
        several => {
            let named = several.get(..NAMED_MAX).unwrap_or(several).join(", ");
            Err(CommandError::usage(format!(
                "{} begin with {typed} ({named}{}): write more of the id",
                counted(several.len(), "transfer"),
                if several.len() > NAMED_MAX { ", …" } else { "" }
            )))
        }
    }
}

/// A time as people and programs read it, in UTC: hosts of one transfer are in different zones.
#[must_use]
pub fn time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).map_or_else(|_| "unknown".to_owned(), |time| time.to_string())
}

/// The table. On a terminal of so many columns ids are as short as they may be, and lines are cut.
#[must_use]
pub fn table(records: &[TransferRecord], columns: Option<usize>) -> String {
    let ids = columns.map_or(usize::MAX, |_| characters(records));
    let mut rows = vec![["ID", "STATE", "STARTED", "ENDED", "WHAT", "RESULT"].map(str::to_owned)];
    rows.extend(records.iter().map(|record| row(record, ids, columns.is_some())));
    let mut widths = [0usize; 6];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    // Of the paths so much that something is left for the result, where there is room for both.
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

/// As [`time`], for terminals: without the year.
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
            error.map_or_else(|| "-".to_owned(), |error| cut(error, ERROR_CHARACTERS_MAX))
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

/// This many characters distinguish all ids.
fn characters(records: &[TransferRecord]) -> usize {
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
    fn any_beginning_that_is_only_one_transfers_names_it() {
        let all = ["01JD3V5K6A0000000000000000", "01JD3V5K6B0000000000000000"].map(record);
        assert_eq!(id_of("01jd3v5k6b", &all).unwrap(), all[1].transfer);
        assert_eq!(id_of(&all[0].transfer, &all).unwrap(), all[0].transfer);
        let several = id_of("01JD3V", &all).unwrap_err();
        assert!(several.exit_code == 2 && several.text.contains(&all[1].transfer), "{several}");
        // Too short, though it would be the only one.
        assert_eq!(id_of("01J", &all[..1]).unwrap_err().exit_code, 3);
        assert_eq!(id_of("nonsense", &all).unwrap_err().exit_code, 3);
        // What is not known here may be known to the node.
        assert_eq!(id_of("01JD3V5K6C0000000000000000", &all).unwrap(), "01JD3V5K6C0000000000000000");
    }

    #[test]
    fn lines_fit_the_terminal_and_are_whole_elsewhere() {
        let all = ["01JD3V5K6A0000000000000000", "01JD3V5K6B0000000000000000"].map(record);
        let narrow = table(&all, Some(80));
        assert!(narrow.lines().all(|line| line.chars().count() <= 80), "{narrow}");
        assert!(narrow.starts_with("ID            STATE") && narrow.contains("01JD3V5K6A00  "), "{narrow}");
        let whole = table(&all, None);
        assert!(whole.contains(&all[0].transfer) && whole.contains(&all[0].description), "{whole}");
        assert!(whole.contains("2026-09-21T"), "{whole}");
        // But for errors, which may name every port and rule of a firewall.
        let mut failed = record("01JD3V5K6C0000000000000000");
        let text = format!("UDP does not pass: {}", "open it ".repeat(90));
        failed.error = Some(Failure { code: "temporary".to_owned(), text, exit_code: 5 });
        let whole = table(&[failed], None);
        assert!(whole.contains("  UDP does not pass: open it") && whole.ends_with('…'), "{whole}");
        let row = whole.lines().last().unwrap().chars().count();
        assert!(row < whole.lines().next().unwrap().chars().count() + 80, "{whole}");
    }
}
