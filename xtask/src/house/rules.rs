//! The rules of the protocols (`docs/wire.md`, W-1 and on; `docs/path.md`, P-1 and on): code and
//! tests quote each where they carry it out and prove it, and quote it as it is written.
//!
//! A quote names its rule and repeats a part of its text:
//!
//! ```text
//! //= W-8
//! //# A number that was already accepted, or that lies below the window, is never accepted
//! //# again.
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use anyhow::Context as _;

use super::exceptions::Unquoted;
use super::finding::Finding;
use super::quotes::{Quote, quotes_of};
use super::sources::Tree;
use super::test_code::{Role, sources_with_roles};

/// Where rules are written, and the letter of their names.
const SPECIFICATIONS: &[(&str, char)] = &[("docs/wire.md", 'W'), ("docs/path.md", 'P')];

/// A shorter quote would be found in too many rules.
const WORDS_MIN: usize = 3;

/// Quotes and citations that the specifications do not bear out, rules without a quote, and
/// exceptions that nothing needs.
///
/// # Errors
/// If a specification cannot be read, or a source is not Rust.
pub fn check(tree: &Tree, unquoted: &Unquoted) -> anyhow::Result<Vec<Finding>> {
    let mut rules = BTreeMap::new();
    for &(path, letter) in SPECIFICATIONS {
        let text = fs::read_to_string(tree.root.join(path)).context(path)?;
        rules.extend(rules_of(path, letter, &text));
    }
    compare(&rules, tree, unquoted)
}

/// A rule's name: W-8.
type Name = (char, u32);

/// Elliptic curves (FIPS 186-5), whose names look like those of rules.
const CURVES: [Name; 3] = [('P', 256), ('P', 384), ('P', 521)];

/// A rule as its specification states it.
struct Rule {
    path: &'static str,
    line: usize,
    /// Its words, a space between two.
    text: String,
}

fn compare(rules: &BTreeMap<Name, Rule>, tree: &Tree, unquoted: &Unquoted) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let (mut in_code, mut in_tests) = (BTreeSet::new(), BTreeSet::new());
    for (source, roles) in sources_with_roles(tree)? {
        for (at, line) in source.text.lines().enumerate() {
            let unknown = |name: &Name| !rules.contains_key(name) && !CURVES.contains(name);
            for (letter, number) in citations_in(line).into_iter().filter(unknown) {
                let text = format!("cites {letter}-{number}, which no specification has");
                findings.push(Finding::of_line(&source.path, at + 1, text));
            }
        }
        for quote in quotes_of(&source.text) {
            match check_quote(rules, &quote) {
                Ok(name) => {
                    match roles.of(quote.line) {
                        Role::Code => in_code.insert(name),
                        Role::Test => in_tests.insert(name),
                        Role::Other => false,
                    };
                }
                Err(text) => findings.push(Finding::of_line(&source.path, quote.line, text)),
            }
        }
    }
    findings.extend(check_quoted(rules, &in_code, unquoted.in_code, "NOT_QUOTED_IN_CODE", "code"));
    findings.extend(check_quoted(rules, &in_tests, unquoted.in_tests, "NOT_QUOTED_IN_TESTS", "test"));
    Ok(findings)
}

/// The rule that a quote repeats, or what is wrong with it.
fn check_quote(rules: &BTreeMap<Name, Rule>, quote: &Quote) -> Result<Name, String> {
    let Some(rule) = &quote.rule else {
        return Err("a quote without its rule: put a line like //= W-1 above it".to_owned());
    };
    let known = name_of(rule).and_then(|name| Some((name, rules.get(&name)?)));
    let Some((name, stated)) = known else {
        return Err(format!("quotes {rule}, which no specification has"));
    };
    if quote.text.split(' ').filter(|word| !word.is_empty()).count() < WORDS_MIN {
        return Err(format!("quotes fewer than {WORDS_MIN} words of {rule}: repeat a clause of it in //# lines"));
    }
    if !has_words(&stated.text, &quote.text) {
        return Err(format!("quotes {rule} with words that {}:{} does not have", stated.path, stated.line));
    }
    Ok(name)
}

/// Rules that are not quoted, and exceptions that are, or that are no rules.
fn check_quoted(
    rules: &BTreeMap<Name, Rule>,
    quoted: &BTreeSet<Name>,
    excepted: &[&str],
    list: &str,
    place: &str,
) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (&(letter, number), rule) in rules {
        let name = format!("{letter}-{number}");
        let is_excepted = excepted.contains(&name.as_str());
        let text = match (quoted.contains(&(letter, number)), is_excepted) {
            (false, false) => format!("no {place} quotes {name} (//= {name})"),
            (true, true) => format!("{name} is quoted: remove it from {list} in xtask/src/house/exceptions.rs"),
            _ => continue,
        };
        findings.push(Finding::of_line(rule.path, rule.line, text));
    }
    for name in excepted.iter().filter(|name| name_of(name).is_none_or(|name| !rules.contains_key(&name))) {
        let text = format!("{name} of {list} is not a rule: remove it");
        findings.push(Finding::of_file("xtask/src/house/exceptions.rs", text));
    }
    findings
}

/// The rules that a specification states, as a list's entries (`- **W-1** …`) or a table's rows
/// (`| P-1 | … |`), each on one line.
fn rules_of(path: &'static str, letter: char, specification: &str) -> BTreeMap<Name, Rule> {
    let stated = |line: &str| {
        let (name, text) = match line.strip_prefix("- **") {
            Some(entry) => entry.split_once("**")?,
            None => line.strip_prefix("| ")?.strip_suffix('|')?.split_once(" | ")?,
        };
        let name = name_of(name).filter(|name| name.0 == letter)?;
        Some((name, text.split_whitespace().collect::<Vec<_>>().join(" ")))
    };
    let rules = specification.lines().enumerate().filter_map(|(at, line)| Some((at + 1, stated(line)?)));
    rules.map(|(line, (name, text))| (name, Rule { path, line, text })).collect()
}

/// The name that a text is and nothing else.
fn name_of(text: &str) -> Option<Name> {
    let (letter, number) = text.split_once('-')?;
    let mut letters = letter.chars();
    Some((letters.next()?, number.parse().ok()?)).filter(|_| letters.next().is_none())
}

/// The names of rules that a line has.
fn citations_in(line: &str) -> Vec<Name> {
    let mut names = Vec::new();
    for &(_, letter) in SPECIFICATIONS {
        for (at, mark) in line.match_indices(&format!("{letter}-")) {
            let is_within_word = line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '-');
            let digits: String = line[at + mark.len()..].chars().take_while(char::is_ascii_digit).collect();
            if !is_within_word && let Ok(number) = digits.parse() {
                names.push((letter, number));
            }
        }
    }
    names
}

/// Whether a text has these words, none of them cut.
fn has_words(text: &str, words: &str) -> bool {
    text.match_indices(words).any(|(at, found)| {
        let is_cut_before = found.starts_with(char::is_alphanumeric) && text[..at].ends_with(char::is_alphanumeric);
        let after = &text[at + found.len()..];
        let is_cut_after = found.ends_with(char::is_alphanumeric) && after.starts_with(char::is_alphanumeric);
        !is_cut_before && !is_cut_after
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::house::sources::{Crate, Source};

    const WIRE: &str = "# x\n\n- **W-1** A datagram has a `kind`: one of four.\n- **W-2** It is never sent twice.\n";
    const PATH: &str = "| rule | |\n|---|---|\n| P-1 | A probe has 112 bytes. |\n";
    const NONE: Unquoted = Unquoted { in_code: &[], in_tests: &[] };
    /// Quotes of all rules.
    const QUOTES: &str = concat!(
        "//= W-1\n//# A datagram has a `kind`:\n  //#  one of four.\n",
        "//= W-2\n//# It is never sent twice\n",
        "//= P-1\n//# A probe has 112 bytes.\n",
    );

    fn found(code: &str, tests: &str, unquoted: &Unquoted) -> Vec<String> {
        let source = |path: &str, text: &str| Source { path: PathBuf::from(path), text: text.to_owned() };
        let one = Crate {
            name: "a".to_owned(),
            library: "a".to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources: vec![source("a/src/lib.rs", code)],
            beside: vec![source("a/tests/all.rs", tests)],
        };
        let tree = Tree { root: PathBuf::new(), crates: vec![one] };
        let mut rules = rules_of("wire.md", 'W', WIRE);
        rules.extend(rules_of("path.md", 'P', PATH));
        let mut found = compare(&rules, &tree, unquoted).unwrap();
        found.sort();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn verbatim_quotes_of_every_rule_in_code_and_tests_are_no_findings() {
        assert_eq!(found(QUOTES, QUOTES, &NONE), Vec::<String>::new());
        let both = format!("{QUOTES}#[cfg(test)]\nmod tests {{\n{QUOTES}}}\n");
        assert_eq!(found(&both, "", &NONE), Vec::<String>::new());
    }

    #[test]
    fn rules_without_a_quote_are_found_and_a_bare_citation_is_none() {
        let code = "// (W-1)\n//= W-2\n//# It is never sent twice.\n";
        assert_eq!(
            found(code, QUOTES, &NONE),
            ["path.md:3: no code quotes P-1 (//= P-1)", "wire.md:3: no code quotes W-1 (//= W-1)"]
        );
        assert_eq!(
            found(QUOTES, code, &NONE),
            ["path.md:3: no test quotes P-1 (//= P-1)", "wire.md:3: no test quotes W-1 (//= W-1)"]
        );
    }

    #[test]
    fn a_quote_that_is_not_verbatim_is_found() {
        for words in ["It is never sent again.", "It is never sent tw", "A datagram has a `kind`"] {
            let code = format!("{QUOTES}//= W-2\n//# {words}\n");
            let text = "a/src/lib.rs:8: quotes W-2 with words that wire.md:4 does not have";
            assert_eq!(found(&code, QUOTES, &NONE), [text], "{words}");
        }
    }

    #[test]
    fn quotes_without_a_rule_or_words_are_found() {
        let code = format!("{QUOTES}//= W-3\n//# It is sent.\n//= W-2\nfn f() {{}}\n//# It is never\n");
        assert_eq!(
            found(&code, QUOTES, &NONE),
            [
                "a/src/lib.rs:8: cites W-3, which no specification has",
                "a/src/lib.rs:8: quotes W-3, which no specification has",
                "a/src/lib.rs:10: quotes fewer than 3 words of W-2: repeat a clause of it in //# lines",
                "a/src/lib.rs:12: a quote without its rule: put a line like //= W-1 above it",
            ]
        );
    }

    #[test]
    fn citations_of_rules_that_do_not_exist_are_found() {
        let code = format!("{QUOTES}// W-1, NEW-7, SHA-P-9, the curve P-256\n// (P-3)\n");
        assert_eq!(found(&code, QUOTES, &NONE), ["a/src/lib.rs:9: cites P-3, which no specification has"]);
    }

    #[test]
    fn an_exception_is_passed_over_and_one_that_nothing_needs_is_found() {
        let excepted = Unquoted { in_code: &["P-1", "W-1", "W-2"], in_tests: &[] };
        assert_eq!(found("", QUOTES, &excepted), Vec::<String>::new());
        let excepted = Unquoted { in_code: &["P-1", "W-9", "all"], in_tests: &[] };
        assert_eq!(
            found(QUOTES, QUOTES, &excepted),
            [
                "path.md:3: P-1 is quoted: remove it from NOT_QUOTED_IN_CODE in xtask/src/house/exceptions.rs",
                "xtask/src/house/exceptions.rs: W-9 of NOT_QUOTED_IN_CODE is not a rule: remove it",
                "xtask/src/house/exceptions.rs: all of NOT_QUOTED_IN_CODE is not a rule: remove it",
            ]
        );
    }
}
