//! `docs/operations.md` explains every error: every exit code and every kind that the program can
//! name.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use culvert_model::exit_code::ExitCode;
use culvert_tests::sources::below;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The section of errors, and the words that begin the lines of its tables.
fn documented() -> (String, BTreeSet<String>) {
    let text = read("docs/operations.md");
    let (_, errors) = text.split_once("\n## Errors\n").expect("a section of errors");
    let errors = errors.split("\n## ").next().expect("it has an end").to_owned();
    let first_cells = errors.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let words = first_cells.flat_map(|cell| cell.split(", ")).map(|word| word.trim_matches('`').to_owned()).collect();
    (errors, words)
}

/// The quoted word after each occurrence of `before` in a source.
fn words_after(source: &str, before: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (at, _) in source.match_indices(before) {
        let rest = &source[at + before.len()..];
        let word = rest.split('"').next().unwrap_or_default();
        if !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            words.push(word.to_owned());
        }
    }
    words
}

#[test]
fn every_exit_code_is_explained() {
    let (_, words) = documented();
    let codes: Vec<u8> = (0..=u8::MAX).filter(|&code| ExitCode::of(code).is_some()).collect();
    assert!(codes.len() >= 14);
    for code in codes {
        assert!(words.contains(&code.to_string()), "exit code {code} is not explained");
    }
}

#[test]
fn every_kind_of_refusal_is_explained() {
    let (_, words) = documented();
    let source = read("protocol/src/control/refusal.rs");
    let (_, body) = source.split_once("pub enum RefusalCode {").expect("the kinds");
    let variants = body.split("\n}").next().unwrap().lines().map(str::trim);
    let variants = variants.filter_map(|line| line.strip_suffix(',')).filter(|line| !line.starts_with("//"));
    let mut count = 0;
    for variant in variants {
        let mut kind = String::new();
        for (at, letter) in variant.char_indices() {
            if letter.is_ascii_uppercase() && at > 0 {
                kind.push('_');
            }
            kind.push(letter.to_ascii_lowercase());
        }
        assert!(words.contains(&kind), "the kind '{kind}' is not explained");
        count += 1;
    }
    assert!(count >= 12, "only {count} kinds were found");
}

#[test]
fn every_kind_of_a_files_error_is_explained() {
    let (section, words) = documented();
    let mut kinds = BTreeSet::new();
    for file in below("control") {
        let code = file.code();
        kinds.extend(words_after(code, "code: \""));
        // The tables of words and sentences by error number.
        kinds.extend(words_after(code, " => (\""));
        for (at, _) in code.match_indices("self.problem(") {
            let call = code[at..].split(';').next().unwrap();
            kinds.extend(words_after(call, ", \""));
        }
    }
    for expected in ["changed", "vanished", "unwritable", "symlink_leaves", "special", "collision", "no_space"] {
        assert!(kinds.contains(expected), "'{expected}' was not found in the source: {kinds:?}");
    }
    for kind in kinds {
        let is_explained = words.contains(&kind) || section.contains(&format!("answers `{kind}`"));
        assert!(is_explained, "the kind '{kind}' is not explained");
    }
}
