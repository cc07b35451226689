//! The lines of a node's log as a whole: the time before each, and what the limits left out.

use culvert_system::log_limit;

/// Lets each line on standard error begin with the time, unless standard error is the journal,
/// which notes it by itself.
pub fn stamp_lines() {
    if !is_journal() {
        // To milliseconds, in UTC (RFC 3339).
        culvert_link::aside::stamp_with(|| format!("{:.3} ", jiff::Timestamp::now()));
    }
}

/// Tells from time to time what was left out, also when nothing more comes.
pub async fn tell_what_was_left_out() {
    let mut tick = tokio::time::interval(log_limit::TELL_EVERY);
    loop {
        tick.tick().await;
        log_limit::tell_what_was_left_out();
    }
}

/// Whether standard error is the journal: systemd says which device and inode that is
/// (systemd.exec(5), `JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Some(told) = std::env::var("JOURNAL_STREAM").ok() else { return false };
    rustix::fs::fstat(rustix::stdio::stderr()).is_ok_and(|stat| told == format!("{}:{}", stat.st_dev, stat.st_ino))
}
