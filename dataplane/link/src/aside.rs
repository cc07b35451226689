//! The prefix of each line on standard error: nothing, or the time if the lines are a log that has
//! no timestamps of its own.

use std::sync::OnceLock;

static STAMP: OnceLock<fn() -> String> = OnceLock::new();

/// From now on each line of [`crate::say_aside`] begins with what this returns.
pub fn stamp_with(stamp: fn() -> String) {
    // A process is a node once.
    let _ = STAMP.set(stamp);
}

/// What the next line begins with.
#[must_use]
pub fn stamp() -> String {
    STAMP.get().map_or_else(String::new, |stamp| stamp())
}

/// A sentence as people read it: the operating system's words without its numbers, which are for
/// programs and say nothing more.
#[must_use]
pub fn without_numbers(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(" (os error ") {
        let number = after.split_once(')').filter(|(number, _)| number.bytes().all(|byte| byte.is_ascii_digit()));
        plain.push_str(before);
        match number {
            Some((_, after)) => rest = after,
            None => {
                plain.push_str(" (os error ");
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_errors_are_left_out_of_sentences() {
        let text = format!(
            "cannot look: {}; {} is full",
            std::io::Error::from_raw_os_error(13),
            std::io::Error::from_raw_os_error(28)
        );
        assert_eq!(without_numbers(&text), "cannot look: Permission denied; No space left on device is full");
        for text in ["nothing of the kind", "a file (os error x)", "cut off (os error ", ""] {
            assert_eq!(without_numbers(text), text);
        }
    }
}
