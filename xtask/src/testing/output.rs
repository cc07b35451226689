//! What libtest prints, read as it comes: what CI keeps of a long log is its end, so the end must
//! say which tests failed and why.
//!
//! With `--show-output` the output of tests that passed is printed too, because `skipped: why` is
//! in it. Thousands of lines of it would bury the failures: of the tests that passed only those
//! lines go on.

/// The number of lines of a failed test's output to repeat at the end: the first ones say what it
/// did, and the panic is among the last.
const FIRST_LINES: usize = 10;
const LAST_LINES: usize = 40;

/// Which part of a test program's output a line is in.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Section {
    /// Its list of results, or anything that is not libtest's.
    #[default]
    Results,
    /// What tests that passed had printed.
    Successes,
    /// What tests that failed had printed.
    Failures,
}

/// A test that failed.
#[derive(Debug)]
pub struct Failure {
    /// As libtest calls it.
    pub name: String,
    lines: Vec<String>,
}

/// Reads the output of `cargo test`, line by line.
#[derive(Debug, Default)]
pub struct TestOutput {
    section: Section,
    /// Lines that begin with `skipped: `, each once.
    pub skipped: Vec<String>,
    /// In the order in which they were printed.
    pub failures: Vec<Failure>,
    /// How many tests passed, failed or were ignored.
    pub counted: usize,
    /// The lines that are to be printed.
    pub shown: Vec<String>,
}

impl TestOutput {
    /// Takes a line.
    pub fn take(&mut self, line: String) {
        if self.is_shown(&line) && !line.is_empty() {
            self.shown.push(line);
        }
    }

    fn is_shown(&mut self, line: &str) -> bool {
        let was = self.section;
        match line {
            "successes:" => self.section = Section::Successes,
            "failures:" => self.section = Section::Failures,
            _ if line.starts_with("test result: ") => {
                self.section = Section::Results;
                self.counted += counted(line);
            }
            _ if line.starts_with("running ") => self.section = Section::Results,
            _ => {}
        }
        if line.starts_with("skipped: ") {
            if !self.skipped.iter().any(|known| known == line) {
                self.skipped.push(line.to_owned());
            }
            return true;
        }
        if self.section == Section::Failures && was == Section::Failures {
            self.note_failure(line);
        }
        self.section != Section::Successes
    }

    fn note_failure(&mut self, line: &str) {
        let named = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----"));
        match (named, self.failures.last_mut()) {
            (Some(name), _) => self.failures.push(Failure { name: name.to_owned(), lines: Vec::new() }),
            (None, Some(failure)) => failure.lines.push(line.to_owned()),
            (None, None) => {}
        }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(formatter, "---- {} ----", self.name)?;
        let lines: Vec<&String> = self.lines.iter().filter(|line| !is_of_backtrace(line)).collect();
        let left_out = lines.len().saturating_sub(FIRST_LINES + LAST_LINES);
        for (at, line) in lines.iter().enumerate() {
            if at < FIRST_LINES || at >= FIRST_LINES + left_out {
                writeln!(formatter, "{line}")?;
            } else if at == FIRST_LINES {
                writeln!(formatter, "[{left_out} lines, above]")?;
            }
        }
        Ok(())
    }
}

/// The tests that a line with a program's result counts, `test result: ok. 2 passed; 1 failed; 0
/// ignored; …`.
fn counted(line: &str) -> usize {
    let number = |kind: &str| {
        let (before, _) = line.split_once(kind)?;
        before.rsplit(' ').next()?.parse::<usize>().ok()
    };
    [" passed", " failed", " ignored"].iter().filter_map(|kind| number(kind)).sum()
}

/// Frames of a backtrace: `  12: some::function` and `             at some/file.rs:1:2`.
fn is_of_backtrace(line: &str) -> bool {
    let rest = line.trim_start();
    let number = rest.split(':').next().unwrap_or_default();
    let is_frame = !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit());
    line.starts_with(' ') && (is_frame || rest.starts_with("at "))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "\
running 3 tests
test ways::over ... ok
test ways::under ... FAILED
test ways::around ... ok

successes:

---- ways::over stdout ----
much
skipped: over: no bridge here
skipped: over: no bridge here

successes:
    ways::over
    ways::around

failures:

---- ways::under stdout ----
seed 7

thread 'ways::under' panicked at tests/ways.rs:3:5:
too low
stack backtrace:
   0: std::panicking::begin_panic
             at /rustc/library/std/src/panicking.rs:1:2

failures:
    ways::under

test result: FAILED. 2 passed; 1 failed
";

    #[test]
    fn a_failure_is_repeated_without_its_backtrace_and_what_passed_is_not_printed() {
        let mut output = TestOutput::default();
        PRINTED.lines().for_each(|line| output.take(line.to_owned()));
        let printed = &output.shown;
        assert_eq!(output.counted, 3);
        assert_eq!(output.skipped, ["skipped: over: no bridge here"]);
        assert_eq!(output.failures.len(), 1);
        let said = output.failures[0].to_string();
        assert!(said.starts_with("---- ways::under ----\nseed 7\n") && said.contains("too low"), "{said}");
        assert!(!said.contains("begin_panic") && !said.contains("rustc"), "{said}");
        assert!(
            !printed.iter().any(|line| line == "much") && printed.iter().any(|line| line == "test ways::over ... ok"),
            "{printed:?}"
        );
        assert!(
            printed.iter().any(|line| line == "too low")
                && printed.last().unwrap() == "test result: FAILED. 2 passed; 1 failed"
        );
    }

    #[test]
    fn of_a_long_failure_the_beginning_and_the_end_are_repeated() {
        let lines: Vec<String> = (0..1_000).map(|number| format!("line {number}")).collect();
        let said = Failure { name: "long".to_owned(), lines }.to_string();
        assert!(said.contains("line 9\n[950 lines, above]\nline 960\n") && said.ends_with("line 999\n"), "{said}");
    }
}
