//! Runs the tests: every module of the whole-system tests, and every other test program, as a
//! process of its own, several at a time.
//!
//! cargo builds ([`programs`]); the programs list their tests, and these become jobs ([`jobs`]);
//! workers run the jobs and collect what they print ([`running`], [`output`]). cargo itself would
//! run the programs one after another, and most tests wait for timers, disks and other processes.
//! A process for each module keeps what a process has only once (descriptors, limits, children)
//! apart, although the modules are linked into five programs.

mod jobs;
mod output;
mod programs;
mod running;

use std::time::{Duration, Instant};

use anyhow::bail;

use running::Ended;

/// How many of the jobs that took longest are printed.
const SLOWEST: usize = 20;

/// What is to be run.
#[derive(Debug, Default)]
pub struct Selection {
    /// Groups, modules, packages, or parts of tests' names; empty for everything.
    pub names: Vec<String>,
    /// Passed on to each test program, for example `--ignored` or `--nocapture`.
    pub libtest: Vec<String>,
    /// Optimized programs.
    pub release: bool,
    /// How many jobs run at a time.
    pub workers: Option<usize>,
}

/// Builds and runs what is selected, and prints the results.
///
/// # Errors
/// If something does not build, nothing is selected, or a test fails.
pub fn run(selection: &Selection) -> anyhow::Result<()> {
    let began = Instant::now();
    let programs = programs::build(selection.release)?;
    println!("building took {:.0} s", began.elapsed().as_secs_f64());
    let ignored = selection.libtest.iter().any(|argument| argument == "--ignored");
    let jobs = jobs::select(jobs::of_programs(&programs, ignored)?, &selection.names)?;
    let tests: usize = jobs.iter().map(|job| job.tests.len()).sum();
    if tests == 0 {
        bail!("no test is selected");
    }
    if let Some(name) = selection.libtest.iter().find(|argument| !argument.starts_with('-')) {
        bail!("'{name}' stands after '--': names of tests stand before it");
    }
    let workers = selection.workers.unwrap_or_else(running::workers);
    println!("running {tests} tests in {} jobs, {workers} at a time", jobs.len());
    let began = Instant::now();
    let mut ended = running::run(jobs, workers, &selection.libtest);
    if selection.names.is_empty() && !ignored {
        ended.push(running::documentation(selection.release));
    }
    report(&mut ended, began.elapsed())
}

/// Prints the slowest jobs, what was skipped, and the failures.
fn report(ended: &mut [Ended], took: Duration) -> anyhow::Result<()> {
    ended.sort_by_key(|job| std::cmp::Reverse(job.took));
    println!("\nslowest:");
    for job in ended.iter().take(SLOWEST) {
        println!("{:6.1} s  {}", job.took.as_secs_f64(), job.name);
    }
    let mut skipped: Vec<&String> = ended.iter().flat_map(|job| &job.output.skipped).collect();
    skipped.sort();
    skipped.dedup();
    if skipped.is_empty() {
        println!("no test was skipped");
    }
    for line in skipped {
        println!("{line}");
    }
    let failed: Vec<&Ended> = ended.iter().filter(|job| job.failure.is_some()).collect();
    for job in &failed {
        for failure in &job.output.failures {
            println!("\n{}: {failure}", job.name);
        }
    }
    println!("testing took {:.0} s", took.as_secs_f64());
    if failed.is_empty() {
        return Ok(());
    }
    let named: Vec<String> = failed.iter().map(|job| job.failed_tests()).collect();
    bail!("{} of {} jobs failed: {}", failed.len(), ended.len(), named.join("; "))
}
