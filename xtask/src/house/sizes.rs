//! Files that are too large, and comment lines that are too long to read.

use super::exceptions::LargeFile;
use super::finding::Finding;
use super::sources::{Source, Tree};

/// A file beyond this needs a reason.
pub const LINES_MAX: usize = 600;
/// The most columns of a comment line, including its indentation.
pub const COMMENT_COLUMNS_MAX: usize = 100;
/// The most columns of a line between triple backquotes: a drawing, or code, which may be as long.
const DRAWING_COLUMNS_MAX: usize = 120;

/// Comment lines that are too long.
pub fn check_comments(tree: &Tree) -> Vec<Finding> {
    tree.sources().flat_map(long_comments).collect()
}

/// Large files that no exception names, and exceptions that nothing needs.
pub fn check_files(tree: &Tree, large: &[LargeFile]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut met = vec![false; large.len()];
    for source in tree.sources() {
        let lines = source.text.lines().count();
        if lines <= LINES_MAX {
            continue;
        }
        match large.iter().position(|file| source.path.as_os_str() == file.path) {
            Some(at) => met[at] = true,
            None => {
                let text = format!(
                    "{lines} lines: split it by meaning (at most {LINES_MAX}), \
                     or give the reason in xtask/src/house/exceptions.rs"
                );
                findings.push(Finding::of_file(&source.path, text));
            }
        }
    }
    for (file, _) in large.iter().zip(met).filter(|(_, is_met)| !is_met) {
        let text = format!("has {LINES_MAX} lines at most, or is not there: remove it from LARGE_FILES");
        findings.push(Finding::of_file(file.path, text));
    }
    findings
}

fn long_comments(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut is_drawing = false;
    for (at, line) in source.text.lines().enumerate() {
        let comment = line.trim_start();
        let said = comment.trim_start_matches(['/', '!', ' ']);
        is_drawing = comment.starts_with("//") && (is_drawing != said.starts_with("```"));
        // Table rows and addresses cannot be wrapped.
        let is_whole = comment.contains("://") || said.starts_with('|');
        let columns_max = if is_drawing { DRAWING_COLUMNS_MAX } else { COMMENT_COLUMNS_MAX };
        let columns = line.chars().count();
        if comment.starts_with("//") && !is_whole && columns > columns_max {
            let text = format!("a comment line of {columns} columns: wrap it at {columns_max}");
            findings.push(Finding::of_line(&source.path, at + 1, text));
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::house::sources::Crate;

    fn found(text: &str, large: &[LargeFile]) -> Vec<String> {
        let one = Crate {
            name: "a".to_owned(),
            library: "a".to_owned(),
            directory: PathBuf::from("a"),
            dependencies: Vec::new(),
            sources: vec![Source { path: PathBuf::from("a/src/lib.rs"), text: text.to_owned() }],
            beside: Vec::new(),
        };
        let tree = Tree { root: PathBuf::new(), crates: vec![one] };
        let found = [check_comments(&tree), check_files(&tree, large)].concat();
        found.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_file_of_more_lines_than_allowed_needs_a_reason_and_no_other_does() {
        let excepted = [LargeFile { path: "a/src/lib.rs", reason: "a test" }];
        assert_eq!(found(&"\n".repeat(LINES_MAX), &[]), Vec::<String>::new());
        assert!(found(&"\n".repeat(LINES_MAX + 1), &[])[0].starts_with("a/src/lib.rs: 601 lines: split it"));
        assert_eq!(found(&"\n".repeat(LINES_MAX + 1), &excepted), Vec::<String>::new());
        assert!(found("\n", &excepted)[0].contains("remove it from LARGE_FILES"));
    }

    #[test]
    fn a_long_comment_line_is_found_and_a_long_line_of_code_is_not() {
        let long = "x".repeat(COMMENT_COLUMNS_MAX);
        assert_eq!(
            found(&format!("let x;\n    /// {long}\nlet {long};\n"), &[]),
            ["a/src/lib.rs:2: a comment line of 108 columns: wrap it at 100"]
        );
        assert_eq!(found(&format!("// https://{long}\n//! | {long} |\n"), &[]), Vec::<String>::new());
        assert_eq!(found(&format!("//! ```text\n//! {long}\n//! ```\n"), &[]), Vec::<String>::new());
        assert_eq!(found(&format!("//! ```text\n//! ```\n//! {long}\n"), &[]).len(), 1);
    }
}
