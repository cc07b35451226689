//! The shipped systemd units, as tests read them: their lines, and the system calls that their
//! filters allow.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A unit file.
#[derive(Clone, Debug)]
pub struct Unit {
    lines: Vec<(String, String)>,
}

/// Where the shipped units are.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/systemd")
}

impl Unit {
    /// A shipped unit.
    ///
    /// # Panics
    /// If it cannot be read.
    #[must_use]
    pub fn shipped(name: &str) -> Self {
        let text = std::fs::read_to_string(folder().join(name)).expect("a unit can be read");
        let settings = text.lines().filter(|line| !line.starts_with(['#', ';', '[']));
        let pairs = settings.filter_map(|line| line.split_once('='));
        Self { lines: pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect() }
    }

    /// The values of a setting, in order.
    #[must_use]
    pub fn all(&self, key: &str) -> Vec<&str> {
        self.lines.iter().filter(|(name, _)| name == key).map(|(_, value)| &**value).collect()
    }

    /// The value of a setting that occurs once.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn one(&self, key: &str) -> &str {
        let values = self.all(key);
        assert_eq!(values.len(), 1, "{key} does not occur once");
        values[0]
    }

    /// The system calls that `SystemCallFilter=` allows, according to the sets of the installed
    /// systemd (systemd.exec(5)). `@default` is always in an allow list.
    ///
    /// # Panics
    /// If systemd-analyze does not run, or the first line is not an allow list.
    #[must_use]
    pub fn allowed_system_calls(&self) -> BTreeSet<String> {
        let mut allowed = calls_of("@default");
        for (number, line) in self.all("SystemCallFilter").into_iter().enumerate() {
            let (is_denied, names) = line.strip_prefix('~').map_or((false, line), |names| (true, names));
            assert!(number > 0 || !is_denied, "the filter is not an allow list");
            for call in names.split_whitespace().flat_map(calls_of) {
                if is_denied {
                    allowed.remove(&call);
                } else {
                    allowed.insert(call);
                }
            }
        }
        allowed
    }
}

/// The system calls of a set, or the single one of that name.
fn calls_of(name: &str) -> BTreeSet<String> {
    if !name.starts_with('@') {
        return BTreeSet::from([name.to_owned()]);
    }
    let output = Command::new("systemd-analyze").args(["syscall-filter", name]).output().expect("systemd-analyze runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let members = text.lines().filter_map(|line| line.strip_prefix("    ")).map(str::trim);
    members.filter(|member| !member.is_empty() && !member.starts_with('#')).flat_map(calls_of).collect()
}
