//! The rules of the wire (`docs/wire.md`, W-1 and on): each is in some code, and code cites none
//! that is not there.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::finding::Finding;
use super::sources::Tree;

const SPECIFICATION: &str = "docs/wire.md";

/// Rules that no code cites, and citations of rules that do not exist.
pub fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let text = fs::read_to_string(tree.root.join(SPECIFICATION)).context(SPECIFICATION)?;
    Ok(compare(&text, tree))
}

fn compare(specification: &str, tree: &Tree) -> Vec<Finding> {
    let rules = rules_of(specification);
    let mut cited = BTreeSet::new();
    let mut findings = Vec::new();
    for source in tree.sources() {
        for (at, line) in source.text.lines().enumerate() {
            for number in numbers_in(line) {
                cited.insert(number);
                if !rules.contains_key(&number) {
                    let text = format!("cites W-{number}, which {SPECIFICATION} does not have");
                    findings.push(Finding::of_line(&source.path, at + 1, text));
                }
            }
        }
    }
    for (number, line) in rules.iter().filter(|(number, _)| !cited.contains(number)) {
        let text = format!("no code cites W-{number}: name the rule where it is carried out");
        findings.push(Finding::of_line(Path::new(SPECIFICATION), *line, text));
    }
    findings
}

/// The rules that a specification states, `**W-1** …`, and their lines.
fn rules_of(specification: &str) -> BTreeMap<u32, usize> {
    let stated = |line: &str| {
        let (_, rest) = line.split_once("**W-")?;
        rest.split_once("**")?.0.parse().ok()
    };
    specification.lines().enumerate().filter_map(|(at, line)| Some((stated(line)?, at + 1))).collect()
}

/// The numbers of the rules that a line names.
fn numbers_in(line: &str) -> Vec<u32> {
    let mut numbers = Vec::new();
    for (at, _) in line.match_indices("W-") {
        let is_within_word = line[..at].chars().next_back().is_some_and(char::is_alphanumeric);
        let digits: String = line[at + 2..].chars().take_while(char::is_ascii_digit).collect();
        if !is_within_word && let Ok(number) = digits.parse() {
            numbers.push(number);
        }
    }
    numbers
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::house::sources::{Crate, Source};

    #[test]
    fn rules_without_code_and_citations_without_a_rule_are_found() {
        let one = Crate {
            name: "a".to_owned(),
            library: "a".to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources: vec![Source { path: PathBuf::from("a.rs"), text: "// W-1, NEW-7\n// (W-3)".to_owned() }],
            beside: Vec::new(),
        };
        let tree = Tree { root: PathBuf::new(), crates: vec![one] };
        let found: Vec<String> =
            compare("# x\n- **W-1** a\n- **W-2** b", &tree).iter().map(ToString::to_string).collect();
        assert_eq!(
            found,
            [
                "a.rs:2: cites W-3, which docs/wire.md does not have",
                "docs/wire.md:3: no code cites W-2: name the rule where it is carried out",
            ]
        );
    }
}
