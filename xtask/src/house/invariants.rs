//! The index of invariants, `docs/invariants.md`: what the code asserts, from the lines
//! `// Invariant I-…: …` above the assertions.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context as _;

use super::finding::Finding;
use super::sources::{Source, Tree};

/// The index, from the root of the repository.
const PAGE: &str = "docs/invariants.md";

const HEAD: &str = "\
# Invariants

Conditions that the code asserts and that no input may break. `cargo xtask house --write` makes this page from \
the `// Invariant` lines above the assertions; `cargo xtask house` fails if the two differ.

| invariant | sentence | where |
|---|---|---|
";

const MARK: &str = "// Invariant ";

/// An assertion stands at most this many lines below the comment.
const ASSERTION_LINES: usize = 3;

/// Invariants that are not written as such, and a stale index.
///
/// # Errors
/// If the index cannot be read.
pub fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let (invariants, mut findings) = collect(tree);
    let path = tree.root.join(PAGE);
    let written = if path.exists() { fs::read_to_string(path).context(PAGE)? } else { String::new() };
    if written != page(&invariants) {
        findings.push(Finding::of_file(PAGE, "differs from the sources: run cargo xtask house --write"));
    }
    Ok(findings)
}

/// Writes the index.
///
/// # Errors
/// If it cannot be written.
pub fn write(tree: &Tree) -> anyhow::Result<()> {
    fs::write(tree.root.join(PAGE), page(&collect(tree).0)).context(PAGE)
}

#[derive(Debug)]
struct Invariant {
    sentence: String,
    path: String,
}

/// The invariants of all sources by their names, and what is wrong with them.
fn collect(tree: &Tree) -> (BTreeMap<String, Invariant>, Vec<Finding>) {
    let mut invariants: BTreeMap<String, Invariant> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in tree.sources() {
        let lines: Vec<&str> = source.text.lines().map(str::trim).collect();
        for at in (0..lines.len()).filter(|&at| lines[at].starts_with(MARK)) {
            let mut find = |text: &str| findings.push(Finding::of_line(&source.path, at + 1, text));
            let Some((name, sentence, length)) = read(&lines[at..]) else {
                find("not an invariant's line: // Invariant I-area-name: a sentence that ends with a period.");
                continue;
            };
            if !lines[at + length..].iter().take(ASSERTION_LINES).any(|line| asserts(line)) {
                find(&format!("no assertion below {name}"));
            }
            if let Some(other) = invariants.get(&name) {
                find(&format!("{name} is in {} too: give one another name", other.path));
                continue;
            }
            invariants.insert(name, Invariant { sentence, path: path_of(source) });
        }
    }
    (invariants, findings)
}

/// The name and the sentence of an invariant that begins with the first of these lines, and how
/// many lines it has.
fn read(lines: &[&str]) -> Option<(String, String, usize)> {
    let (name, first) = lines[0].strip_prefix(MARK)?.split_once(": ")?;
    let is_name = |rest: &str| {
        let parts: Vec<&str> = rest.split('-').collect();
        let is_word =
            |part: &&str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        parts.len() > 1 && parts.iter().all(is_word)
    };
    name.strip_prefix("I-").filter(|rest| is_name(rest))?;
    let is_continued = |line: &&&str| line.starts_with("// ") && !line.starts_with(MARK);
    let rest: Vec<&str> = lines[1..].iter().take_while(is_continued).map(|line| line[3..].trim()).collect();
    let sentence = [&[first.trim()], rest.as_slice()].concat().join(" ");
    sentence.ends_with('.').then(|| (name.to_owned(), sentence, rest.len() + 1))
}

fn asserts(line: &str) -> bool {
    ["assert", "invariant!", "unreachable!", "panic!", ".expect("].iter().any(|word| line.contains(word))
        && !line.starts_with("//")
}

fn path_of(source: &Source) -> String {
    Path::new(&source.path).display().to_string()
}

fn page(invariants: &BTreeMap<String, Invariant>) -> String {
    let mut page = HEAD.to_owned();
    for (name, Invariant { sentence, path }) in invariants {
        let sentence = sentence.replace('|', "\\|");
        writeln!(page, "| {name} | {sentence} | `{path}` |").expect("a string takes everything");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::house::sources::Crate;

    fn tree(root: &Path, files: &[(&str, &str)]) -> Tree {
        let source = |(path, text): &(&str, &str)| Source { path: PathBuf::from(path), text: (*text).to_owned() };
        let one = Crate {
            name: "a".to_owned(),
            library: "a".to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources: files.iter().map(source).collect(),
            beside: Vec::new(),
        };
        Tree { root: root.to_owned(), crates: vec![one] }
    }

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        collect(&tree(Path::new(""), files)).1.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn sentences_of_several_lines_become_rows_in_the_order_of_names() {
        let one = "    // Invariant I-b-one: A window\n    // never | moves back.\n    debug_assert!(true);\n";
        let two =
            "// Invariant I-a-two: A part has a name.\n// Invariant I-a-three: It is short.\nassert!(\n    true);\n";
        let (invariants, findings) = collect(&tree(Path::new(""), &[("a.rs", one), ("b.rs", two)]));
        assert_eq!(findings, []);
        assert_eq!(
            page(&invariants).strip_prefix(HEAD).unwrap(),
            "| I-a-three | It is short. | `b.rs` |\n\
             | I-a-two | A part has a name. | `b.rs` |\n\
             | I-b-one | A window never \\| moves back. | `a.rs` |\n"
        );
    }

    #[test]
    fn lines_that_are_not_invariants_are_found() {
        for line in ["I-one: No area.", "I-a-one A colon.", "I-a-One: A capital.", "I-a-one: No period", "a-b: No I."] {
            let text = format!("{MARK}{line}\nassert!(true);");
            assert!(found(&[("a.rs", &text)])[0].starts_with("a.rs:1: not an invariant's line"), "{line}");
        }
    }

    #[test]
    fn names_are_unique_and_stand_above_an_assertion() {
        let text = "// Invariant I-a-one: A.\nassert!(true);\n// Invariant I-a-one: B.\nassert!(true);\n";
        assert_eq!(found(&[("a.rs", text)]), ["a.rs:3: I-a-one is in a.rs too: give one another name"]);
        let text = "// Invariant I-a-one: A.\nlet x = 1;\n// assert nothing\n\n";
        assert_eq!(found(&[("a.rs", text)]), ["a.rs:1: no assertion below I-a-one"]);
    }

    #[test]
    fn a_stale_page_is_found_and_written() {
        let root = std::env::temp_dir().join(format!("culvert-invariants-{}", std::process::id()));
        fs::create_dir_all(root.join("docs")).unwrap();
        let tree = tree(&root, &[("a.rs", "// Invariant I-a-one: A.\nassert!(true);\n")]);
        let stale = ["docs/invariants.md: differs from the sources: run cargo xtask house --write"];
        let found = || check(&tree).unwrap().iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found(), stale);
        write(&tree).unwrap();
        assert_eq!(found(), Vec::<String>::new());
        fs::write(root.join(PAGE), "by hand").unwrap();
        assert_eq!(found(), stale);
        fs::remove_dir_all(root).unwrap();
    }
}
