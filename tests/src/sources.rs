//! The product's sources, for tests that read them: those of every crate except the workshop's
//! (tests, benchmarks, simulator, xtask) and the other workspaces'.

use std::fs;
use std::path::{Path, PathBuf};

/// Folders of the repository that hold no product code, or code of another workspace.
const WORKSHOP: [&str; 8] = ["benches", "docs", "ebpf", "fuzz", "packaging", "simulator", "tests", "xtask"];

/// The repository's root.
///
/// # Panics
/// If it is not there.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in the repository").to_owned()
}

/// A source file.
#[derive(Debug)]
pub struct Source {
    /// Relative to the root of the repository.
    pub path: PathBuf,
    /// Its whole text.
    pub text: String,
}

impl Source {
    /// The part before the tests in the same file.
    #[must_use]
    pub fn code(&self) -> &str {
        self.text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default()
    }
}

/// Every Rust file below a folder of the repository, in path order.
///
/// # Panics
/// If one cannot be read.
#[must_use]
pub fn below(folder: &str) -> Vec<Source> {
    let (root, mut found) = (root(), Vec::new());
    add(&root, &root.join(folder), &mut found);
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

/// The product's own sources: what is in `src` of its crates.
#[must_use]
pub fn of_product() -> Vec<Source> {
    let is_product = |source: &Source| {
        let parts: Vec<_> = source.path.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        parts.iter().any(|part| part == "src") && !WORKSHOP.contains(&parts[0].as_str())
    };
    let found: Vec<Source> = below("").into_iter().filter(is_product).collect();
    assert!(found.len() > 250, "only {} sources of the product were found", found.len());
    found
}

fn add(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            add(root, &path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            found.push(Source { path: path.strip_prefix(root).expect("it is below the root").to_owned(), text });
        }
    }
}
