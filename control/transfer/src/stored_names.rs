//! Names of stored files, on their way to a user who follows the transfer.
//!
//! The transfer never waits for the reader: names that have no room are counted instead, and the
//! reader hears how many. Nothing is gathered for a transfer whose user does not ask.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use culvert_protocol::foreign_text::foreign_name;

/// Bytes of names that wait to be read.
const WAITING_BYTES_MAX: usize = 4 << 20;
/// What an entry takes beside its name.
const ENTRY_BYTES: usize = 64;

/// What the reader hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A file.
    File {
        /// Its name, fit for a terminal.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// So many files that had no room.
    More(u64),
}

/// The queue of names.
#[derive(Debug, Default)]
pub struct StoredNames {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    files: VecDeque<(String, u64)>,
    bytes: usize,
    /// Files without room since the last that had any.
    untold: u64,
    is_over: bool,
}

impl StoredNames {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A file is stored. `name` is as it is printed.
    pub fn add(&self, name: &str, bytes: u64) {
        let mut queue = self.queue();
        let takes = name.len().saturating_add(ENTRY_BYTES);
        // In order: names without room are reported before later ones.
        if queue.untold > 0 || queue.bytes.saturating_add(takes) > WAITING_BYTES_MAX {
            queue.untold = queue.untold.saturating_add(1);
        } else {
            queue.bytes = queue.bytes.saturating_add(takes);
            queue.files.push_back((foreign_name(name), bytes));
        }
        drop(queue);
        self.news.notify_one();
    }

    /// Nothing more comes.
    pub fn end(&self) {
        self.queue().is_over = true;
        self.news.notify_one();
    }

    /// Waits for the next names; none when the transfer is over and everything was read.
    pub fn next(&self) -> Option<Vec<Told>> {
        let mut queue = self.queue();
        loop {
            if !queue.files.is_empty() || queue.untold > 0 {
                queue.bytes = 0;
                let files = std::mem::take(&mut queue.files);
                let untold = std::mem::take(&mut queue.untold);
                let files = files.into_iter().map(|(name, bytes)| Told::File { name, bytes });
                return Some(files.chain((untold > 0).then_some(Told::More(untold))).collect());
            }
            if queue.is_over {
                return None;
            }
            queue = self.news.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_does_not_read_keeps_nobody_waiting_and_hears_how_many_there_were() {
        let names = StoredNames::default();
        let long = "n".repeat(1_000);
        for _ in 0..100_000 {
            names.add(&long, 5);
        }
        let told = names.next().unwrap();
        let Some(Told::More(more)) = told.last() else { panic!("the rest is counted") };
        let listed = told.len() as u64 - 1;
        assert_eq!(listed + more, 100_000);
        assert!(listed * 1_000 <= WAITING_BYTES_MAX as u64 && listed > 1_000);
        names.add("a\nb", 7);
        names.end();
        assert_eq!(names.next(), Some(vec![Told::File { name: "a\\nb".to_owned(), bytes: 7 }]));
        assert_eq!(names.next(), None);
    }
}
