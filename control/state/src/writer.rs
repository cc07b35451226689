//! Writes state files outside the runtime's thread: each name's writes in the order of submission.
//!
//! ```text
//! write, write_surely, write_later ──> Job ──> the stem's thread ──> StateDirectory::write
//!                                                   └── failed and must succeed: kept, retried
//! ```
//!
//! Each write flushes the disk twice, which can take arbitrarily long, and the thread that carries
//! feedback must not wait for that. Writes that must not be lost are kept and retried until they
//! succeed, for instance once a full disk has space again.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::directory::StateDirectory;
use crate::error::StateError;

/// Threads that write, so that one flush of the disk can serve several files.
const THREADS: usize = 4;
/// The interval of retries.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Failed writes that each thread keeps. Beyond them, the oldest is reported and dropped.
const KEPT_MAX: usize = 4_096;

/// How long a process that is about to end waits for its disk.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// A change of a file.
#[derive(Debug)]
enum Change {
    Write(Vec<u8>),
    Remove,
}

#[derive(Debug)]
struct Job {
    name: String,
    change: Change,
    /// Whether it is retried until it succeeds.
    must_succeed: bool,
    /// Gets the outcome of the first attempt.
    told: Option<oneshot::Sender<Result<(), StateError>>>,
}

/// A command to a thread.
#[derive(Debug)]
enum WriteCommand {
    CarryOut(Job),
    /// Retry all kept jobs once, then report.
    Settle(oneshot::Sender<()>),
}

/// The threads that write. When this is dropped, they finish their jobs and end.
#[derive(Debug)]
pub struct StateWriter {
    state: StateDirectory,
    /// Each starts with its first job: a command that moves one file needs only one.
    threads: [OnceLock<Sender<WriteCommand>>; THREADS],
}

impl StateWriter {
    /// The writer of a state directory.
    #[must_use]
    pub fn new(state: &StateDirectory) -> Self {
        Self { state: state.clone(), threads: Default::default() }
    }

    fn start(&self) -> Sender<WriteCommand> {
        let (orders, waiting) = channel();
        let mut writing = Writing { state: self.state.clone(), kept: VecDeque::new() };
        std::thread::spawn(move || writing.run(&waiting));
        orders
    }

    /// Writes a file. If that fails, the file is unchanged; if only the flush failed, it may be
    /// either.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn write(&self, name: String, bytes: Vec<u8>) -> Result<(), StateError> {
        self.wait(name, Change::Write(bytes), false).await
    }

    /// Writes a file; a failed write is retried until it succeeds or a newer one replaces it.
    ///
    /// # Errors
    /// [`StateError`] of the first attempt.
    pub async fn write_surely(&self, name: String, bytes: Vec<u8>) -> Result<(), StateError> {
        self.wait(name, Change::Write(bytes), true).await
    }

    /// As [`StateWriter::write_surely`], without waiting for the first attempt.
    pub fn write_later(&self, name: String, bytes: Vec<u8>) {
        self.send(Job { name, change: Change::Write(bytes), must_succeed: true, told: None });
    }

    /// Removes a file, after all earlier writes to it.
    pub fn remove_later(&self, name: String) {
        self.send(Job { name, change: Change::Remove, must_succeed: true, told: None });
    }

    /// Waits until every earlier job has been tried, and failed ones once more. For a process that
    /// is about to end; waits at most ten seconds for a disk that does not respond.
    pub async fn settle(&self) {
        let settle = async {
            for thread in self.threads.iter().filter_map(OnceLock::get) {
                let (told, done) = oneshot::channel();
                if thread.send(WriteCommand::Settle(told)).is_ok() {
                    let _ = done.await;
                }
            }
        };
        let _ = tokio::time::timeout(SETTLE_TIMEOUT, settle).await;
    }

    async fn wait(&self, name: String, change: Change, must_succeed: bool) -> Result<(), StateError> {
        let (told, done) = oneshot::channel();
        let path = self.state.path(&name);
        self.send(Job { name, change, must_succeed, told: Some(told) });
        // A thread ends only after this writer: an answer is missing only if it panicked.
        done.await.unwrap_or(Err(StateError::NotWritten { path }))
    }

    fn send(&self, job: Job) {
        // A transfer's record and receipt share a stem and so a thread: the record is written
        // before the receipt.
        let mut hasher = DefaultHasher::new();
        stem_of(&job.name).hash(&mut hasher);
        if let Some(thread) = self.threads.get(hasher.finish() as usize % THREADS) {
            let sent = thread.get_or_init(|| self.start()).send(WriteCommand::CarryOut(job));
            if let Err(SendError(WriteCommand::CarryOut(lost))) = sent
                && lost.told.is_none()
            {
                say_aside!("culvert: {}", StateError::NotWritten { path: self.state.path(&lost.name) });
            }
        }
    }
}

fn stem_of(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name)
}

/// The state of one thread.
#[derive(Debug)]
struct Writing {
    state: StateDirectory,
    /// Failed jobs to retry, in order.
    kept: VecDeque<Job>,
}

impl Writing {
    fn run(&mut self, waiting: &Receiver<WriteCommand>) {
        let mut retry_at = Instant::now() + RETRY_INTERVAL;
        loop {
            let next = if self.kept.is_empty() {
                waiting.recv().map_err(|_| RecvTimeoutError::Disconnected)
            } else {
                waiting.recv_timeout(retry_at.saturating_duration_since(Instant::now()))
            };
            match next {
                Ok(WriteCommand::Settle(told)) => {
                    self.try_again();
                    let _ = told.send(());
                }
                Ok(WriteCommand::CarryOut(job)) => {
                    if self.kept.is_empty() {
                        retry_at = Instant::now() + RETRY_INTERVAL;
                    }
                    self.first_try(job);
                }
                Err(RecvTimeoutError::Timeout) => {
                    self.try_again();
                    retry_at = Instant::now() + RETRY_INTERVAL;
                }
                // A last attempt: the process is about to end.
                Err(RecvTimeoutError::Disconnected) => return self.try_again(),
            }
        }
    }

    fn first_try(&mut self, mut job: Job) {
        // Earlier failed writes to this name are out of date.
        self.kept.retain(|kept| kept.name != job.name);
        let done = match self.kept.iter().find(|kept| stem_of(&kept.name) == stem_of(&job.name)) {
            Some(before) if job.must_succeed => Err(StateError::Waits { path: self.state.path(&before.name) }),
            _ => self.carry_out(&job),
        };
        let keeps = done.is_err() && job.must_succeed;
        if let (Err(error), None) = (&done, &job.told) {
            say_aside!("culvert: {error}; retrying");
        }
        if let Some(told) = job.told.take() {
            let _ = told.send(done);
        }
        if keeps {
            // Invariant I-state-order: of each file, at most the newest failed write is kept, so a
            // retry never overwrites newer contents.
            assert!(self.kept.iter().all(|kept| kept.name != job.name), "of each file, one write is kept");
            self.kept.push_back(job);
        }
        if self.kept.len() > KEPT_MAX
            && let Some(lost) = self.kept.pop_front()
        {
            say_aside!(
                "culvert: {} could not be written for too long; giving up",
                self.state.path(lost.name).display()
            );
        }
    }

    fn try_again(&mut self) {
        let mut left: VecDeque<Job> = VecDeque::new();
        for job in std::mem::take(&mut self.kept) {
            let waits = left.iter().any(|left| stem_of(&left.name) == stem_of(&job.name));
            if waits || self.carry_out(&job).is_err() {
                left.push_back(job);
            } else {
                say_aside!("culvert: {} has now been written", self.state.path(&job.name).display());
            }
        }
        self.kept = left;
    }

    fn carry_out(&self, job: &Job) -> Result<(), StateError> {
        match &job.change {
            Change::Write(bytes) => self.state.write(&job.name, bytes),
            Change::Remove => self.state.remove(&job.name).map(|_| ()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn state() -> (tempfile::TempDir, StateDirectory, StateWriter) {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(room.path().join("state")).unwrap();
        let writer = StateWriter::new(&state);
        (room, state, writer)
    }

    fn run<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
    }

    /// Simulates a full disk: nothing can be created in the directory.
    fn fill(state: &StateDirectory, directory: &str) {
        fs::rename(state.path(directory), state.path("away")).unwrap();
    }

    fn make_room(state: &StateDirectory, directory: &str) {
        fs::rename(state.path("away"), state.path(directory)).unwrap();
    }

    fn wait_for(what: impl Fn() -> bool) {
        while !what() {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Regression: it counted as written.
    #[test]
    fn what_no_thread_is_left_to_write_is_not_written() {
        let (_room, state, writer) = state();
        for thread in &writer.threads {
            thread.set(channel().0).unwrap();
        }
        let gone = run(writer.write("transfers/a.json".into(), vec![1]));
        assert!(matches!(gone, Err(StateError::NotWritten { .. })), "{gone:?}");
        let gone = run(writer.write_surely("transfers/b.json".into(), vec![1])).unwrap_err().to_string();
        assert!(gone.contains("b.json") && gone.contains("restart"), "{gone}");
        writer.write_later("transfers/c.json".into(), vec![1]);
        run(writer.settle());
        assert!(state.list("transfers", ".json").unwrap().is_empty());
    }

    #[test]
    fn what_is_given_last_is_what_stays() {
        let (_room, state, writer) = state();
        for number in 0..20 {
            writer.write_later("transfers/a.json".into(), vec![number]);
        }
        run(writer.write("transfers/a.json".into(), vec![99])).unwrap();
        assert_eq!(state.read("transfers/a.json").unwrap(), Some(vec![99]));
        writer.remove_later("transfers/a.json".into());
        run(writer.write("receipts/a.receipt".into(), vec![1])).unwrap();
        assert_eq!(state.read("transfers/a.json").unwrap(), None);
    }

    #[test]
    fn what_must_not_get_lost_is_written_when_there_is_room_and_in_its_order() {
        let (_room, state, writer) = state();
        fill(&state, "transfers");
        let record = run(writer.write_surely("transfers/a.json".into(), vec![1]));
        assert!(matches!(record, Err(StateError::Os { .. })), "{record:?}");
        // The receipt could be written, but must not be before its record.
        let receipt = run(writer.write_surely("receipts/a.receipt".into(), vec![2]));
        assert!(receipt.unwrap_err().to_string().contains("a.json"));
        assert_eq!(state.read("receipts/a.receipt").unwrap(), None);
        make_room(&state, "transfers");
        wait_for(|| state.read("receipts/a.receipt").unwrap() == Some(vec![2]));
        assert_eq!(state.read("transfers/a.json").unwrap(), Some(vec![1]));
    }

    #[test]
    fn a_process_that_ends_waits_for_what_was_given_and_tries_what_failed_once_more() {
        let (_room, state, writer) = state();
        let record = |number: u32| format!("transfers/{number}.json");
        for number in 0..50 {
            writer.write_later(record(number), vec![1]);
        }
        run(writer.settle());
        assert!((0..50).all(|number| state.read(record(number)).unwrap() == Some(vec![1])));
        fill(&state, "transfers");
        run(writer.write_surely(record(0), vec![2])).unwrap_err();
        make_room(&state, "transfers");
        run(writer.settle());
        assert_eq!(state.read(record(0)).unwrap(), Some(vec![2]));
    }

    #[test]
    fn what_failed_and_was_not_to_be_kept_is_not_written_later() {
        let (_room, state, writer) = state();
        fill(&state, "transfers");
        run(writer.write("transfers/a.json".into(), vec![1])).unwrap_err();
        run(writer.write_surely("transfers/a.json".into(), vec![2])).unwrap_err();
        // A newer write replaces it, even one that fails.
        run(writer.write("transfers/a.json".into(), vec![3])).unwrap_err();
        make_room(&state, "transfers");
        drop(writer);
        std::thread::sleep(RETRY_INTERVAL / 10);
        assert_eq!(state.read("transfers/a.json").unwrap(), None);
    }
}
