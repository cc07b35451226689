//! The house rules that a compiler does not know: which crate may know which, no circle between
//! files, no long comment line, no file that has grown without a reason, no wire rule without code.
//!
//! Each rule reads the tree by itself and returns what it found as [`finding::Finding`]s.
//! [`check`] is part of `cargo xtask check`, and `cargo xtask house` is it alone. What stands
//! against a rule for a reason is named in `house/exceptions.rs`; an exception that nothing needs
//! any more is a finding too.

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

/// Checks every rule.
///
/// # Errors
/// If one is broken, or a source cannot be read.
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
