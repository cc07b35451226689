//! Runs jobs, several at a time, and collects what they print.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::jobs::Job;
use super::output::TestOutput;

/// A job that has ended.
#[derive(Debug)]
pub struct Ended {
    /// The job's name.
    pub name: String,
    /// How long it took.
    pub took: Duration,
    /// What it printed.
    pub output: TestOutput,
    /// How it failed.
    pub failure: Option<String>,
}

impl Ended {
    /// The tests that failed, or how the program did.
    pub fn failed_tests(&self) -> String {
        let names: Vec<&str> = self.output.failures.iter().map(|failure| failure.name.as_str()).collect();
        match (names.is_empty(), &self.failure) {
            (true, Some(failure)) => format!("{} ({failure})", self.name),
            _ => format!("{}: {}", self.name, names.join(", ")),
        }
    }
}

/// How many jobs run at a time: most of them wait most of the time.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(2, usize::from) + 1
}

/// Runs the jobs: first those that may have company, then the others one by one.
pub fn run(jobs: Vec<Job>, workers: usize, libtest: &[String]) -> Vec<Ended> {
    let (alone, together): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.is_alone);
    let mut ended = run_at_once(together, workers, libtest);
    ended.extend(run_at_once(alone, 1, libtest));
    ended
}

/// The examples in the documentation, which only cargo can run.
///
/// # Errors
/// If cargo does not run.
pub fn documentation(release: bool) -> anyhow::Result<Ended> {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--locked", "--doc", "--quiet"]);
    if release {
        command.arg("--release");
    }
    watch("documentation".to_owned(), command)
}

fn run_at_once(jobs: Vec<Job>, workers: usize, libtest: &[String]) -> Vec<Ended> {
    let queue = Mutex::new(VecDeque::from(jobs));
    let ended = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                while let Some(job) = queue.lock().expect("no worker panics").pop_front() {
                    let name = job.name.clone();
                    let result = watch(job.name.clone(), command(&job, libtest)).unwrap_or_else(|error| Ended {
                        name,
                        took: Duration::ZERO,
                        output: TestOutput::default(),
                        failure: Some(format!("{error:#}")),
                    });
                    ended.lock().expect("no worker panics").push(result);
                }
            });
        }
    });
    ended.into_inner().expect("no worker panics")
}

fn command(job: &Job, libtest: &[String]) -> Command {
    let mut command = Command::new(&job.executable);
    command.current_dir(&job.directory).env("CARGO_MANIFEST_DIR", &job.directory);
    // `skipped: why` must be seen.
    command.args(["--exact", "--show-output"]).args(libtest).args(&job.tests);
    command
}

/// Runs a command and reads what it prints. The relevant part is printed when it has ended, so that
/// the output of several does not mix.
fn watch(name: String, mut command: Command) -> anyhow::Result<Ended> {
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    let began = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(writer.try_clone().context("no pipe")?)
        .stderr(writer)
        .spawn()
        .with_context(|| format!("{command:?}"))?;
    // The writers' last copies in this process are the command's.
    drop(command);
    let (mut output, mut shown) = (TestOutput::default(), Vec::new());
    for line in BufReader::new(reader).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        if output.take(&line) && !line.is_empty() {
            shown.push(line);
        }
    }
    let status = child.wait()?;
    let took = began.elapsed();
    let failure = (!status.success()).then(|| status.to_string());
    println!(
        "{}\n{name} took {:.1} s{}",
        shown.join("\n"),
        took.as_secs_f64(),
        if failure.is_some() { ", FAILED" } else { "" }
    );
    Ok(Ended { name, took, output, failure })
}
