//! The lines of the configuration file that make settings, for errors: the parser reports lines of
//! what it refuses itself, and values are checked after it.

use std::collections::HashMap;
use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The line of each key, counted from 1. Keys of tables are `table.key`, as `culvert config show`
/// prints them.
#[derive(Debug, Default)]
pub(super) struct Lines(HashMap<String, usize>);

impl Lines {
    /// Those of a text; none if it is no TOML.
    pub(super) fn of(text: &str) -> Self {
        let mut lines = HashMap::new();
        let Ok(table) = DeTable::parse(text) else { return Self::default() };
        for (key, value) in table.get_ref() {
            if let DeValue::Table(section) = value.get_ref() {
                for name in section.keys() {
                    lines.insert(format!("{}.{}", key.get_ref(), name.get_ref()), line_at(text, &Spanned::span(name)));
                }
            }
            lines.insert(key.get_ref().to_string(), line_at(text, &key.span()));
        }
        Self(lines)
    }

    /// The line of a key.
    pub(super) fn line(&self, key: &str) -> Option<usize> {
        self.0.get(key).copied()
    }
}

fn line_at(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or_default();
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_lines() {
        let lines = Lines::of("# A comment.\nname = 'x'\n\n[path]\nport = 1\nrefuse = [\n 'a',\n]\nseconds = 2\n");
        let found = ["name", "path", "path.port", "path.refuse", "path.seconds", "port"].map(|key| lines.line(key));
        assert_eq!(found, [Some(2), Some(4), Some(5), Some(6), Some(9), None]);
        assert_eq!(Lines::of("= nonsense").line("name"), None);
    }
}
