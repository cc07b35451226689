//! The house rules that a compiler does not know: which crate may use which, no circle between
//! files, no long comment line, no file that has grown without a reason, public items first, every
//! protocol rule quoted in code and tests, an index of the invariants.
//!
//! Each rule reads the tree by itself and returns [`finding::Finding`]s. [`check`] is part of
//! `cargo xtask check`; `cargo xtask house` runs it alone. Exceptions, with their reasons, are in
//! `house/exceptions.rs`; an exception that nothing needs is a finding too.

mod arrows;
mod circles;
mod exceptions;
mod finding;
mod invariants;
mod module_paths;
mod order;
mod quotes;
mod rules;
mod sizes;
mod sources;
mod test_code;

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
    findings.extend(order::check(&tree)?);
    findings.extend(rules::check(&tree, &exceptions::UNQUOTED)?);
    findings.extend(invariants::check(&tree)?);
    report(findings)
}

/// Writes what is made from the sources: the index of invariants.
///
/// # Errors
/// If a source cannot be read, or the index cannot be written.
pub fn write() -> anyhow::Result<()> {
    invariants::write(&tree()?)
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
