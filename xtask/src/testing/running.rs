//! Runs jobs, several at a time, and collects what they print.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, PipeReader};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::jobs::Job;
use super::output::TestOutput;

/// How often a running job is mentioned.
const REMINDER: Duration = Duration::from_secs(60);
/// How long the output of a program that has ended may stay open. Longer, and a process that its
/// tests started is still there and holds it.
const LEFTOVERS: Duration = Duration::from_secs(5);

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
        let failure = self.failure.as_deref().unwrap_or_default();
        if names.is_empty() {
            format!("{} ({failure})", self.name)
        } else {
            format!("{}: {}", self.name, names.join(", "))
        }
    }
}

/// How many jobs run at a time. Most of them wait most of the time, so one at a time leaves two
/// cores idle for three quarters of the run; with four, tests of interrupts began to race.
pub fn workers() -> usize {
    thread::available_parallelism().map_or(2, usize::from) + 1
}

/// Runs the jobs: first those that may have company, then the others one by one.
pub fn run(jobs: Vec<Job>, workers: usize, libtest: &[String]) -> Vec<Ended> {
    let (alone, together): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| job.is_alone);
    let run_job = |job: Job| run_job(&job, libtest);
    let mut ended = at_once(together, workers, run_job);
    ended.extend(at_once(alone, 1, run_job));
    ended
}

/// The examples in the documentation, which only cargo can run.
pub fn documentation(release: bool) -> Ended {
    let mut command = Command::new("cargo");
    command.args(["test", "--workspace", "--locked", "--doc", "--quiet", "--no-fail-fast"]);
    if release {
        command.arg("--release");
    }
    watch("documentation", command)
}

/// Does `work` with each item, `workers` of them at a time.
fn at_once<T: Send, R: Send>(items: Vec<T>, workers: usize, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let queue = Mutex::new(VecDeque::from(items));
    let results = Mutex::new(Vec::new());
    // Not in the loop's head, where the guard would live as long as the work.
    let next = || queue.lock().expect("no worker panics").pop_front();
    thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| {
                while let Some(item) = next() {
                    let result = work(item);
                    results.lock().expect("no worker panics").push(result);
                }
            });
        }
    });
    results.into_inner().expect("no worker panics")
}

fn run_job(job: &Job, libtest: &[String]) -> Ended {
    let mut ended = watch(&job.name, command(job, libtest));
    // A program that left early, with success, has not run them all.
    let leaves_some_out = libtest.iter().any(|argument| argument.starts_with("--skip"));
    if ended.failure.is_none() && !leaves_some_out && ended.output.counted < job.tests.len() {
        let (counted, all) = (ended.output.counted, job.tests.len());
        ended.failure = Some(format!("only {counted} of its {all} tests ended"));
    }
    ended
}

fn command(job: &Job, libtest: &[String]) -> Command {
    let mut command = Command::new(&job.executable);
    command.current_dir(&job.directory).env("CARGO_MANIFEST_DIR", &job.directory);
    // Built before: each program would otherwise ask cargo for it, which does one at a time.
    command.env("CULVERT_BIN", job.programs.join("culvert"));
    command.env("CULVERT_PORTAL_BIN", job.programs.join("culvert-portal"));
    // `skipped: why` must be seen.
    command.args(["--exact", "--show-output"]).args(libtest).args(&job.tests);
    command
}

/// Runs a command and reads what it prints. The relevant part is printed when it has ended, so that
/// the output of several does not mix.
fn watch(name: &str, command: Command) -> Ended {
    let began = Instant::now();
    let mut output = TestOutput::default();
    let failure = match read_to_end(name, command, &mut output) {
        Ok(status) => (!status.success()).then(|| status.to_string()),
        Err(error) => Some(format!("{error:#}")),
    };
    let took = began.elapsed();
    let how = failure.as_ref().map(|failure| format!(": {failure}")).unwrap_or_default();
    println!("{}\n{name} took {:.1} s{how}", output.shown.join("\n"), took.as_secs_f64());
    Ended { name: name.to_owned(), took, output, failure }
}

fn read_to_end(name: &str, mut command: Command, output: &mut TestOutput) -> anyhow::Result<ExitStatus> {
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context("no pipe")?).stderr(writer);
    let began = Instant::now();
    let mut child = command.spawn().with_context(|| format!("{command:?}"))?;
    // The last copies of the pipe's other end in this process are the command's.
    drop(command);
    let lines = lines(reader);
    let (mut reminded, mut ended) = (began, None);
    loop {
        match lines.recv_timeout(Duration::from_millis(100)) {
            Ok(line) => output.take(line),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {}
        }
        if ended.is_none() && child.try_wait()?.is_some() {
            ended = Some(Instant::now());
        }
        if ended.is_some_and(|ended| ended.elapsed() > LEFTOVERS) {
            anyhow::bail!("a process that the tests started is still there and holds their output");
        }
        if reminded.elapsed() > REMINDER {
            reminded = Instant::now();
            println!("{name} has been running for {} s", began.elapsed().as_secs());
        }
    }
    Ok(child.wait()?)
}

/// The lines that are written into a pipe, until nobody has its other end.
fn lines(reader: PipeReader) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(reader).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn shell(script: &str) -> Ended {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        watch("job", command)
    }

    #[test]
    fn as_many_items_as_workers_are_worked_on_at_once() {
        // Ends only if all three are there at the same time.
        let barrier = Barrier::new(3);
        let mut results = at_once(vec![1, 2, 3, 4, 5, 6], 3, |item| {
            barrier.wait();
            item
        });
        results.sort_unstable();
        assert_eq!(results, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_program_that_fails_is_a_failure_and_its_output_is_kept() {
        let ended = shell("echo one; echo two >&2; exit 3");
        assert_eq!(ended.failure.as_deref(), Some("exit status: 3"));
        assert_eq!(ended.output.shown, ["one", "two"]);
    }

    #[test]
    fn a_process_that_is_left_behind_does_not_hang_the_run() {
        let ended = shell("echo one; sleep 20 & exit 0");
        assert!(ended.failure.is_some_and(|failure| failure.contains("still there")));
        assert_eq!(ended.output.shown, ["one"]);
    }

    #[test]
    fn a_program_that_leaves_before_its_last_test_has_failed() {
        let job = Job {
            name: "job".to_owned(),
            belongs_to: Vec::new(),
            executable: "/bin/true".into(),
            programs: "/bin".into(),
            directory: "/".into(),
            tests: vec!["a".to_owned()],
            is_alone: false,
        };
        assert_eq!(run_job(&job, &[]).failure.as_deref(), Some("only 0 of its 1 tests ended"));
    }
}
