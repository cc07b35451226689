//! Log lines about strangers and partners, who determine the number of these lines. Each kind has a
//! limit per minute; omitted lines are counted.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use culvert_protocol::foreign_text::is_plain;

/// The kind of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum About {
    /// Connections that did not authenticate, or whose key is unknown.
    Strangers,
    /// Strangers' keys that cannot be noted.
    Keys,
    /// Transfers that partners requested.
    Transfers,
    /// Records of those transfers that cannot be written yet.
    Records,
    /// Transfers that succeeded.
    Stored,
}

impl About {
    const ALL: [Self; 5] = [Self::Strangers, Self::Keys, Self::Transfers, Self::Records, Self::Stored];
}

/// The period over which lines are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// The interval of [`tell_what_was_left_out`].
pub const TELL_EVERY: Duration = Duration::from_secs(WINDOW.as_secs() / 4);
/// Lines of one kind per period: enough to see what happens, and at most about 100 MB per kind and
/// year.
const LINES_MAX: u32 = 20;
/// The longest line, in bytes: two foreign texts in a sentence.
const LINE_BYTES_MAX: usize = 4 << 10;

#[derive(Clone, Copy, Debug)]
struct Window {
    began: Option<Instant>,
    lines: u32,
}

/// Counts the lines of each kind.
#[derive(Debug)]
struct LogLimit {
    windows: Mutex<[Window; About::ALL.len()]>,
}

static LOG: LogLimit = LogLimit::new();

impl LogLimit {
    const fn new() -> Self {
        Self { windows: Mutex::new([Window { began: None, lines: 0 }; About::ALL.len()]) }
    }

    /// Counts a line: the report on omitted lines, if a window has just ended, and whether the line
    /// may be printed.
    fn another(&self, about: About, now: Instant) -> (Option<String>, bool) {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        let window = &mut windows[about as usize];
        let left_out = window.close_if_over(now);
        window.began.get_or_insert(now);
        window.lines = window.lines.saturating_add(1);
        (left_out, window.lines <= LINES_MAX)
    }

    /// The reports on omitted lines of all windows that have ended.
    fn over(&self, now: Instant) -> Vec<String> {
        let mut windows = self.windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.iter_mut().filter_map(|window| window.close_if_over(now)).collect()
    }
}

impl Window {
    fn close_if_over(&mut self, now: Instant) -> Option<String> {
        let is_over = self.began.is_some_and(|began| now.saturating_duration_since(began) >= WINDOW);
        if !is_over {
            return None;
        }
        let left_out = self.lines.saturating_sub(LINES_MAX);
        *self = Self { began: None, lines: 0 };
        (left_out > 0).then(|| format!("… and {left_out} more like it in the last {} s", WINDOW.as_secs()))
    }
}

/// Logs a line, unless its kind has reached its limit.
pub fn say(about: About, line: impl FnOnce() -> String) {
    let (left_out, may) = LOG.another(about, Instant::now());
    if let Some(left_out) = left_out {
        say_aside!("culvert: {left_out}");
    }
    if may {
        say_aside!("culvert: {}", one_line(&line()));
    }
}

/// Reports omitted lines of windows that have ended. Call it every [`TELL_EVERY`]: otherwise the
/// report would wait for the next line of its kind.
pub fn tell_what_was_left_out() {
    for left_out in LOG.over(Instant::now()) {
        say_aside!("culvert: {left_out}");
    }
}

static IS_QUIET: AtomicBool = AtomicBool::new(false);

/// Sets whether [`inform`] omits its lines.
pub fn set_quiet(is_quiet: bool) {
    IS_QUIET.store(is_quiet, Ordering::Relaxed);
}

/// As [`say`], for lines about success, which [`set_quiet`] omits.
pub fn inform(about: About, line: impl FnOnce() -> String) {
    if !IS_QUIET.load(Ordering::Relaxed) {
        say(about, line);
    }
}

/// Makes one bounded line of a text that may contain foreign text.
fn one_line(line: &str) -> String {
    let end = line.floor_char_boundary(LINE_BYTES_MAX);
    let cut = if end < line.len() { "…" } else { "" };
    line[..end].chars().map(|character| if is_plain(character) { character } else { '\u{fffd}' }).collect::<String>()
        + cut
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_cannot_fill_the_log_and_what_is_left_out_is_counted() {
        let (limit, now) = (LogLimit::new(), Instant::now());
        let printed = (0..1_000).filter(|_| limit.another(About::Strangers, now).1).count();
        assert_eq!(printed as u32, LINES_MAX);
        assert!(limit.another(About::Transfers, now).1, "one kind takes the lines of another");
        let later = now + WINDOW;
        let (left_out, may) = limit.another(About::Strangers, later);
        assert_eq!((left_out.as_deref(), may), (Some("… and 980 more like it in the last 60 s"), true));
        assert_eq!(limit.another(About::Strangers, later), (None, true));
    }

    #[test]
    fn what_was_left_out_is_told_also_when_nothing_more_comes() {
        let (limit, now) = (LogLimit::new(), Instant::now());
        (0..30).for_each(|_| drop(limit.another(About::Keys, now)));
        assert!(limit.over(now).is_empty());
        assert_eq!(limit.over(now + WINDOW), ["… and 10 more like it in the last 60 s"]);
        assert!(limit.over(now + 2 * WINDOW).is_empty());
    }

    #[test]
    fn a_line_is_one_line() {
        assert_eq!(one_line("a\nculvert: forged\u{1b}[2J\u{202e}"), "a\u{fffd}culvert: forged\u{fffd}[2J\u{fffd}");
        assert!(one_line(&"x".repeat(200_000)).len() <= LINE_BYTES_MAX + 3);
    }
}
