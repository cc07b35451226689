//! Progress on standard error: a bar on a terminal, a plain line every ten seconds elsewhere.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use culvert_model::progress::{Phase, Progress};
use culvert_model::units::{show_bytes, show_count, show_rate, show_seconds};
use culvert_protocol::counted::counted;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;

use crate::phase::phase_words;
use crate::{remedies, verbose};

/// Time between two plain lines.
const LINE_INTERVAL: Duration = Duration::from_secs(10);
/// Time between two redraws of the bar.
const DRAW_INTERVAL: Duration = Duration::from_millis(100);

/// Shows a transfer's progress until `until` resolves, and returns its result.
pub async fn show<T>(quiet: bool, mut progress: watch::Receiver<Progress>, until: impl Future<Output = T>) -> T {
    if quiet {
        return until.await;
    }
    tokio::pin!(until);
    // With --verbose, lines are printed at any time, which would disturb a bar.
    let bar = (std::io::stderr().is_terminal() && !verbose::is_set()).then(new_bar);
    let (mut last_line, mut last_phase) = (Instant::now(), Phase::Queued);
    let mut last_notice = None;
    let mut interval = tokio::time::interval(DRAW_INTERVAL);
    loop {
        tokio::select! {
            biased;
            outcome = &mut until => {
                if let Some(bar) = bar {
                    bar.finish_and_clear();
                }
                return outcome;
            }
            _ = interval.tick() => {
                let now = progress.borrow_and_update().clone();
                if now.notice != last_notice {
                    if let Some(notice) = &now.notice {
                        let notice = remedies::without_repetition(notice);
                        above_bar(bar.as_ref(), || say_aside!("culvert: {notice}"));
                    }
                    last_notice.clone_from(&now.notice);
                }
                match &bar {
                    Some(bar) => draw(bar, &now),
                    None if last_line.elapsed() >= LINE_INTERVAL || (now.phase != last_phase && now.phase == Phase::Waiting) => {
                        say_aside!("culvert: {}", line(&now));
                        last_line = Instant::now();
                    }
                    None => {}
                }
                last_phase = now.phase;
            }
        }
    }
}

/// Progress as one line. As long as nothing is known, it has no numbers.
#[must_use]
pub fn line(now: &Progress) -> String {
    let phase = phase_words(now.phase);
    if now.bytes_total == 0 && now.files_total == 0 && now.bytes_done == 0 {
        return phase.to_owned();
    }
    let percent = if now.bytes_total > 0 { now.bytes_done as f64 * 100.0 / now.bytes_total as f64 } else { 0.0 };
    let mut line = format!("{phase} {percent:.0} %: {} of {}", show_bytes(now.bytes_done), show_bytes(now.bytes_total));
    if now.files_total > 0 {
        line += &format!(", {} of {}", show_count(now.files_done), counted(now.files_total, "file"));
    }
    line += &format!(", {}", show_rate(now.rate_bits_per_second));
    match eta(now) {
        eta if eta.is_empty() => line,
        eta => format!("{line}, {eta}"),
    }
}

/// Prints something above the bar, if there is one.
fn above_bar(bar: Option<&ProgressBar>, print: impl FnOnce()) {
    match bar {
        Some(bar) => bar.suspend(print),
        None => print(),
    }
}

fn new_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    let colored = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let template = if colored {
        "{prefix} [{bar:32.cyan/blue}] {percent:>3} %  {msg}"
    } else {
        "{prefix} [{bar:32}] {percent:>3} %  {msg}"
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

fn draw(bar: &ProgressBar, now: &Progress) {
    bar.set_length(now.bytes_total.max(1));
    bar.set_position(now.bytes_done.min(now.bytes_total));
    bar.set_prefix(phase_words(now.phase));
    let files = if now.files_total > 1 {
        format!("{}/{}  ", show_count(now.files_done), counted(now.files_total, "file"))
    } else {
        String::new()
    };
    bar.set_message(format!("{files}{}  {}", show_rate(now.rate_bits_per_second), eta(now)));
    bar.tick();
}

fn eta(now: &Progress) -> String {
    let left = now.bytes_total.saturating_sub(now.bytes_done);
    if now.rate_bits_per_second == 0 || left == 0 || now.phase != Phase::Moving {
        return String::new();
    }
    format!("{} left", show_seconds(left as f64 * 8.0 / now.rate_bits_per_second as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_progress_and_remaining_time() {
        let now = Progress {
            phase: Phase::Moving,
            bytes_done: 1 << 30,
            bytes_total: 4 << 30,
            files_done: 1,
            files_total: 4,
            rate_bits_per_second: 8 << 30,
            ..Progress::default()
        };
        assert_eq!(line(&Progress { phase: Phase::Connecting, ..Progress::default() }), "connecting");
        let of_memory = Progress { files_done: 0, files_total: 0, ..now.clone() };
        assert_eq!(line(&of_memory), "moving 25 %: 1.00 GiB of 4.00 GiB, 8.59 Gb/s, 3.00 s left");
        assert_eq!(line(&now), "moving 25 %: 1.00 GiB of 4.00 GiB, 1 of 4 files, 8.59 Gb/s, 3.00 s left");
    }
}
