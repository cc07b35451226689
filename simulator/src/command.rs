//! `cargo xtask sim`: the matrix as a table, and the plots of the documentation.

use std::io::Write;
use std::path::PathBuf;

use crate::finding::Finding;
use crate::matrix::{Extent, run_matrix};

/// Options of `cargo xtask sim`.
#[derive(Clone, Debug, clap::Args)]
pub struct SimArguments {
    /// Run only the part included in every test run.
    #[arg(long)]
    pub quick: bool,
    /// Run one group only: alone, fairness, "among CUBIC", "among BBR", background, changes, "path
    /// changes".
    #[arg(long)]
    pub group: Option<String>,
    /// The seed that all randomness comes from.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Draw the plots of docs/rate-control.md into this directory instead.
    #[arg(long, value_name = "DIRECTORY")]
    pub plots: Option<PathBuf>,
}

/// Why the command failed.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// Something could not be written.
    #[error("the result cannot be written: {0}")]
    Io(#[from] std::io::Error),
    /// Some required bounds are not met.
    #[error("{0} of {1} numbers do not keep their bounds (seed {2})")]
    BoundsBroken(usize, usize, u64),
}

/// Runs the matrix, or draws the plots.
///
/// # Errors
/// [`SimError`]; among them that a bound is broken.
pub fn run(arguments: &SimArguments, out: &mut impl Write) -> Result<(), SimError> {
    if let Some(directory) = &arguments.plots {
        return Ok(crate::plot::draw_all(directory, arguments.seed)?);
    }
    let extent = if arguments.quick { Extent::Quick } else { Extent::Whole };
    let findings = run_matrix(extent, arguments.group.as_deref(), arguments.seed);
    write_table(&findings, arguments.seed, out)?;
    let broken = findings.iter().filter(|finding| finding.is_required && !finding.holds()).count();
    if broken > 0 {
        return Err(SimError::BoundsBroken(broken, findings.len(), arguments.seed));
    }
    Ok(())
}

/// Writes findings as a Markdown table.
///
/// # Errors
/// The writer's.
pub fn write_table(findings: &[Finding], seed: u64, out: &mut impl Write) -> std::io::Result<()> {
    writeln!(out, "seed {seed}\n\n| group | run | what | measured | bound | holds |\n|---|---|---|---|---|---|")?;
    for finding in findings {
        let Finding { group, run, what, measured, bound, is_least, is_required } = finding;
        let sign = if *is_least { "≥" } else { "≤" };
        let holds = match (finding.holds(), is_required) {
            (true, _) => "yes",
            (false, true) => "**no**",
            (false, false) => "no (a wish)",
        };
        writeln!(out, "| {group} | {run} | {what} | {measured:.3} | {sign} {bound:.3} | {holds} |")?;
    }
    Ok(())
}
