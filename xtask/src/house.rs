//! The house rules that a compiler does not know: which crate may know which, no circle between
//! files, no long comment line, no file that has grown without a reason, no wire rule without code.
//!
//! Each rule reads the tree by itself and returns what it found as [`finding::Finding`]s.
//! [`check_kept`] has the rules that the whole tree keeps, and is part of `cargo xtask check`;
//! [`check`] has all of them, and lists what is still to be done. What stands against a rule for a
//! reason is named in `house/exceptions.rs`; an exception that nothing needs any more is a finding
//! too.

mod arrows;
mod circles;
mod exceptions;
mod finding;
mod module_paths;
mod rules;
mod sizes;
mod sources;

use std::path::Path;

use anyhow::bail;
use finding::Finding;

/// Checks the rules that the whole tree keeps: arrows between crates, and comment lines.
///
/// # Errors
/// If a rule is broken, after everything that was found has been printed; if a file cannot be read.
pub fn check_kept() -> anyhow::Result<()> {
    let tree = tree()?;
    let mut findings = arrows::check(&tree)?;
    findings.extend(sizes::check_comments(&tree));
    report(findings)
}

/// Checks every rule.
///
/// # Errors
/// As [`check_kept`].
pub fn check() -> anyhow::Result<()> {
    let tree = tree()?;
    let mut findings = arrows::check(&tree)?;
    findings.extend(circles::check(&tree, exceptions::CIRCLES)?);
    findings.extend(sizes::check_comments(&tree));
    findings.extend(sizes::check_files(&tree, exceptions::LARGE_FILES));
    findings.extend(rules::check(&tree)?);
    report(findings)
}

fn tree() -> anyhow::Result<sources::Tree> {
    sources::Tree::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?)
}

/// Prints findings in the order of files.
fn report(mut findings: Vec<Finding>) -> anyhow::Result<()> {
    findings.sort();
    for finding in &findings {
        println!("{finding}");
    }
    match findings.len() {
        0 => {
            println!("house rules: ok");
            Ok(())
        }
        1 => bail!("1 house rule is broken, see above"),
        count => bail!("{count} house rules are broken, see above"),
    }
}
