//! Writes state files outside the runtime's thread, those of one name in the order in which they
//! were submitted.
//!
//! Each write flushes the disk twice, which can take arbitrarily long, and the thread that carries
//! feedback must not wait for it. Writes that must not be lost are kept and retried until they
//! succeed: a full disk will have room again some day.

use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::directory::StateDirectory;
use crate::error::StateError;

/// Threads that write, so that one flush of the disk serves several.
const THREADS: usize = 4;
/// How often what could not be written is tried again.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// Writes that each thread keeps for later. Beyond them the oldest get lost, and it is said which.
const KEPT_MAX: usize = 4_096;

/// How long a process that ends waits for its disk.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is to be done with a file.
#[derive(Debug)]
enum Change {
    Write(Vec<u8>),
    Remove,
}

#[derive(Debug)]
struct Job {
    name: String,
    change: Change,
    /// Whether it is tried until it succeeds.
    must_succeed: bool,
    /// Who waits for the first try.
    told: Option<oneshot::Sender<Result<(), StateError>>>,
}

/// What a thread is told.
#[derive(Debug)]
enum WriteCommand {
    CarryOut(Job),
    /// Try once more what could not be written, and say so when that is done.
    Settle(oneshot::Sender<()>),
}

/// The threads that write. When it is dropped they end with what they have been given.
#[derive(Debug)]
pub struct StateWriter {
    state: StateDirectory,
    /// Each is started when it first has something to write: a command that sends one file needs
    /// one.
    threads: [OnceLock<Sender<WriteCommand>>; THREADS],
}

impl StateWriter {
    /// What writes in this state directory.
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

    /// Writes a file; if that fails it stays as it was, or may be either if only the flush failed.
    ///
    /// # Errors
    /// [`StateError`].
    pub async fn write(&self, name: String, bytes: Vec<u8>) -> Result<(), StateError> {
        self.wait(name, Change::Write(bytes), false).await
    }

    /// Writes a file; if that fails it is tried again until it succeeds or something newer is to be
    /// written.
    ///
    /// # Errors
    /// [`StateError`] of the first try.
    pub async fn write_surely(&self, name: String, bytes: Vec<u8>) -> Result<(), StateError> {
        self.wait(name, Change::Write(bytes), true).await
    }

    /// As [`StateWriter::write_surely`], without waiting for the first try.
    pub fn write_later(&self, name: String, bytes: Vec<u8>) {
        self.send(Job { name, change: Change::Write(bytes), must_succeed: true, told: None });
    }

    /// Removes a file, after everything that was to be written to it.
    pub fn remove_later(&self, name: String) {
        self.send(Job { name, change: Change::Remove, must_succeed: true, told: None });
    }

    /// Waits until everything that was given before has been tried, once more if it failed: the
    /// process is about to end. A disk that does not answer keeps it for ten seconds at most.
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
        self.send(Job { name, change, must_succeed, told: Some(told) });
        // The threads end after this.
        done.await.unwrap_or(Ok(()))
    }

    fn send(&self, job: Job) {
        // A transfer's record and receipt have one stem and so one thread: the record is there
        // before the receipt.
        let mut hasher = DefaultHasher::new();
        stem_of(&job.name).hash(&mut hasher);
        if let Some(thread) = self.threads.get(hasher.finish() as usize % THREADS) {
            let _ = thread.get_or_init(|| self.start()).send(WriteCommand::CarryOut(job));
        }
    }
}

fn stem_of(name: &str) -> &str {
    Path::new(name).file_stem().and_then(|stem| stem.to_str()).unwrap_or(name)
}

/// A thread's work.
#[derive(Debug)]
struct Writing {
    state: StateDirectory,
    /// What is tried again, in order.
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
                // A last try: the process is about to end.
                Err(RecvTimeoutError::Disconnected) => return self.try_again(),
            }
        }
    }

    fn first_try(&mut self, mut job: Job) {
        // What was to be written under this name before is out of date.
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

    /// Stands for a disk that is full: nothing can be made in there.
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
        // The receipt could be written, and its record would not tell of it.
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
        // Something newer takes its place, whatever becomes of it.
        run(writer.write("transfers/a.json".into(), vec![3])).unwrap_err();
        make_room(&state, "transfers");
        drop(writer);
        std::thread::sleep(RETRY_INTERVAL / 10);
        assert_eq!(state.read("transfers/a.json").unwrap(), None);
    }
}
