//! The house rules that a compiler does not know: which crate may know which, no circle between
//! files, no long comment line, no file that has grown without a reason, no wire rule without code.
//!
//! Each rule reads the tree by itself and returns what it found as [`finding::Finding`]s; [`check`]
//! prints them all, so that one run tells everything. What stands against a rule for a reason is
//! named in `house/exceptions.rs`. An exception that nothing needs any more is a finding too: the
//! list can only shrink unnoticed, never grow.

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

/// Checks the tree of the repository.
///
/// # Errors
/// If a rule is broken, after everything that was found has been printed; if a file cannot be read.
pub fn check() -> anyhow::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let findings = findings(&root)?;
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

/// Everything in the tree beneath `root` that a rule does not allow, in the order of files.
fn findings(root: &Path) -> anyhow::Result<Vec<Finding>> {
    let tree = sources::Tree::read(root)?;
    let mut findings = arrows::check(&tree)?;
    findings.extend(circles::check(&tree, exceptions::CIRCLES)?);
    findings.extend(sizes::check(&tree, exceptions::LARGE_FILES));
    findings.extend(rules::check(&tree)?);
    findings.sort();
    Ok(findings)
}
