//! Blocks of the portal's documents, which tests run as they are written.

use std::fs;
use std::path::{Path, PathBuf};

/// A fenced block.
#[derive(Debug, Clone)]
pub struct Block {
    /// What stands behind the opening fence.
    pub info: String,
    /// The line of that fence, from 1.
    pub line: usize,
    /// Its text.
    pub text: String,
}

/// The file of a document below `docs/`.
#[must_use]
pub fn document(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs").join(name)
}

/// The blocks of a document below `docs/`.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn blocks(name: &str) -> Vec<Block> {
    let text = fs::read_to_string(document(name)).unwrap_or_else(|error| panic!("docs/{name}: {error}"));
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (number, line) in text.lines().enumerate() {
        if let Some(info) = line.strip_prefix("```") {
            if !is_open {
                blocks.push(Block { info: info.trim().to_owned(), line: number + 1, text: String::new() });
            }
            is_open = !is_open;
        } else if let Some(block) = blocks.last_mut().filter(|_| is_open) {
            block.text += line;
            block.text.push('\n');
        }
    }
    blocks
}

/// The only block of a kind in a document.
///
/// # Panics
/// If there are more, or none.
#[must_use]
pub fn block(name: &str, info: &str) -> String {
    let mut found: Vec<Block> = blocks(name).into_iter().filter(|block| block.info == info).collect();
    assert_eq!(found.len(), 1, "docs/{name} has one block of {info}");
    found.remove(0).text
}
