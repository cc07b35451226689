//! A node's log: the time before each line, and counts of the lines that limits suppressed.

use culvert_system::log_limit;

/// Starts each line on standard error with the time, unless standard error is the journal, which
/// records it anyway.
pub fn stamp_lines() {
    if !is_journal() {
        // To milliseconds, in UTC (RFC 3339).
        culvert_link::aside::stamp_with(|| format!("{:.3} ", jiff::Timestamp::now()));
    }
}

/// Periodically logs counts of suppressed lines, even if nothing else is logged.
pub async fn report_suppressed_lines() {
    let mut tick = tokio::time::interval(log_limit::TELL_EVERY);
    loop {
        tick.tick().await;
        log_limit::tell_what_was_left_out();
    }
}

/// Whether standard error is the journal, whose device and inode systemd passes in
/// `JOURNAL_STREAM` (systemd.exec(5)).
fn is_journal() -> bool {
    let Some(journal) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|stat| journal == format!("{}:{}", stat.st_dev, stat.st_ino))
}
