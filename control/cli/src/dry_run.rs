//! The result of a dry run, for people.

use culvert_model::result::TransferResult;
use culvert_model::units::{show_bytes, show_count};
use culvert_model::would::{Direction, Would, WouldFile};
use culvert_protocol::counted::{agree, counted};

/// The line that shows an entry's outcome.
#[must_use]
pub fn line(file: &WouldFile) -> String {
    let action = match file.action.as_str() {
        "left_out" => "left out",
        "collision" => "collides",
        action => action,
    };
    let line = format!("{action:8}  {}", file.path);
    if file.text.is_empty() { line } else { format!("{line}: {}", file.text) }
}

/// A summary of what the transfer would do.
#[must_use]
pub fn text(would: &Would, result: &TransferResult) -> String {
    let mut lines = vec![sentence(would, result)];
    let counts = &would.counts;
    match (counts.new, counts.replaced, counts.resumed) {
        (Some(new), Some(replaced), Some(resumed)) => lines.push(format!(
            "  files      {} new, {} replaced, {} resumed, {} skipped (the same is there), {} {}, {} left out",
            show_count(new),
            show_count(replaced),
            show_count(resumed),
            show_count(counts.skipped),
            show_count(counts.collisions.unwrap_or(0)),
            agree(counts.collisions.unwrap_or(0), "collision", "collisions"),
            show_count(counts.left_out)
        )),
        _ => lines.push(
            "  files      the partner's version reports only these numbers; with a newer one, -v lists the files"
                .to_owned(),
        ),
    }
    match (would.needed_bytes, would.free_bytes) {
        (Some(needed), Some(free)) => lines.push(format!(
            "  room       {} needed, {} free at the destination{}",
            show_bytes(needed),
            show_bytes(free),
            if needed > free { ": it would not fit" } else { "" }
        )),
        (Some(needed), None) => {
            lines.push(format!(
                "  room       {} needed; the destination does not report its free space",
                show_bytes(needed)
            ));
        }
        (None, _) => {}
    }
    if let (Some(needed), Some(free)) = (would.needed_inodes, would.free_inodes)
        && needed > free
    {
        lines.push(format!("  inodes     {} needed, {} free: it would not fit", show_count(needed), show_count(free)));
    }
    lines.join("\n")
}

fn sentence(would: &Would, result: &TransferResult) -> String {
    let counts = &would.counts;
    let verb = match would.direction {
        Direction::Send => "send",
        Direction::Receive => "fetch",
    };
    if would.refused.is_some() {
        return format!("would {verb} nothing: the transfer would be refused");
    }
    let others = match result.others_made {
        0 => String::new(),
        made => format!(" and make {}", counted_others(made)),
    };
    let there = match counts.skipped {
        0 => String::new(),
        skipped => format!("; {} {} there already", show_count(skipped), agree(skipped, "is", "are")),
    };
    if counts.sent == 0 && others.is_empty() {
        let left_out = if counts.left_out > 0 { ", and some would be left out" } else { "" };
        return format!(
            "nothing to do: {} of {} {} there already{left_out}",
            show_count(result.files.total),
            counted(result.files.total, "file"),
            agree(result.files.total, "is", "are")
        );
    }
    format!("would {verb} {}, {}{others}{there}", counted(counts.sent, "file"), show_bytes(would.bytes))
}

/// A number of directories and symlinks.
fn counted_others(count: u64) -> String {
    format!("{} {}", show_count(count), agree(count, "directory or symlink", "directories and symlinks"))
}
