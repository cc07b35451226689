//! Documents as tests read them: their links, and the commands in their fenced blocks.
//!
//! ````text
//! ```sh run            commands that a test types as written
//! <!-- not run: why --> on the line before a block of commands that no test types
//! ````

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Clone, Debug)]
pub struct Block {
    /// The text after the opening fence.
    pub info: String,
    /// The line of the opening fence, counted from 1.
    pub line: usize,
    /// Its contents.
    pub lines: Vec<String>,
    /// Why it is not run, if a reason is given.
    pub not_run: Option<String>,
}

/// The blocks of a document.
#[must_use]
pub fn blocks(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let (mut is_open, mut before) = (false, "");
    for (number, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            if !is_open {
                let why = before.strip_prefix("<!-- not run: ").and_then(|rest| rest.strip_suffix(" -->"));
                let (info, not_run) = (info.trim().to_owned(), why.map(str::to_owned));
                blocks.push(Block { info, line: number + 1, lines: Vec::new(), not_run });
            }
            is_open = !is_open;
        } else if let Some(block) = blocks.last_mut().filter(|_| is_open) {
            block.lines.push(line.to_owned());
        }
        before = line;
    }
    blocks
}

/// Links between documents below `root` that lead to no file or no heading.
///
/// # Panics
/// If a document cannot be read.
#[must_use]
pub fn dead_links(root: &Path) -> Vec<String> {
    let mut dead = Vec::new();
    for document in documents(root) {
        let text = fs::read_to_string(&document).expect("a document can be read");
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match path {
                "" => document.clone(),
                path => document.parent().unwrap_or(root).join(path),
            };
            let is_heading = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                anchors(&text).contains(anchor)
            };
            if !target.exists() || !anchor.is_empty() && !is_heading() {
                dead.push(format!("{}: {link}", document.strip_prefix(root).unwrap_or(&document).display()));
            }
        }
    }
    dead
}

/// All documents below a directory, except what is built or does not belong to the repository.
#[must_use]
pub fn documents(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for path in fs::read_dir(&directory).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".md") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text without fenced blocks and inline code.
fn prose(text: &str) -> String {
    let mut is_open = false;
    let lines = text.lines().filter(|line| {
        let is_fence = line.starts_with("```");
        is_open ^= is_fence;
        !is_open && !is_fence
    });
    lines.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`") + "\n").collect()
}

fn links(text: &str) -> Vec<String> {
    let prose = prose(text);
    let after = prose.split("](").skip(1);
    after.filter_map(|rest| rest.split_once(')')).map(|(link, _)| link.to_owned()).collect()
}

/// The anchors of a document's headings, as GitHub generates them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut is_open = false;
    let headings = text.lines().filter(|line| {
        is_open ^= line.starts_with("```");
        !is_open && line.starts_with('#')
    });
    let anchor = |line: &str| {
        let words = line.trim_start_matches('#').trim().to_lowercase();
        let kept = words.chars().filter(|&letter| letter.is_alphanumeric() || matches!(letter, '-' | '_' | ' '));
        kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect()
    };
    headings.map(anchor).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let room = tempfile::tempdir().unwrap();
        let text = "# A *first* one: `x`\n[a](#a-first-one-x) [b](#b) [c](c.md) [d](d.md#d) [e](d.md#e) [f](https://x/)\n\
                    `[no](no.md)`\n```\n[no](no.md)\n# no\n```\n[g](#no)\n";
        fs::write(room.path().join("a.md"), text).unwrap();
        fs::write(room.path().join("d.md"), "## D\n").unwrap();
        assert_eq!(dead_links(room.path()), ["a.md: #b", "a.md: c.md", "a.md: d.md#e", "a.md: #no"]);
    }

    #[test]
    fn blocks_have_their_reasons() {
        let found = blocks("x\n```sh run\na\n```\n<!-- not run: no ssh -->\n```sh\nb\nc\n```\n");
        assert_eq!(found.len(), 2);
        assert_eq!((found[0].info.as_str(), found[0].line, &found[0].lines[..]), ("sh run", 2, &["a".to_owned()][..]));
        assert_eq!((found[1].not_run.as_deref(), found[1].lines.len()), (Some("no ssh"), 2));
    }
}
