//! The journal records which directories are open: the next attempt closes what a crash has left
//! open.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_journal::{Journal, Record};
use culvert_objects::fs::destination::opened::{Closed, OpenedLog};
use rustix::io::Errno;

/// A transfer's journal, if it has one.
pub type SharedJournal = Arc<Mutex<Option<Journal>>>;

/// The journal, even if a holder of its lock has panicked: every append leaves it readable.
pub fn lock(journal: &SharedJournal) -> MutexGuard<'_, Option<Journal>> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Notes in a journal what is opened.
#[derive(Debug)]
pub struct OpenedInJournal(pub SharedJournal);

impl OpenedLog for OpenedInJournal {
    fn opens(&self, name: &[u8], closed: Closed) -> Result<(), Errno> {
        let (_, inode) = closed.identity;
        let mut journal = lock(&self.0);
        let Some(journal) = journal.as_mut() else { return Ok(()) };
        let noted = journal.append([Record::opened_directory(name, inode, closed.mode)]);
        noted.map_err(|error| culvert_system::os_error::errno_or_io(&error))
    }

    fn closed(&self, names: &[Vec<u8>]) {
        if let Some(journal) = lock(&self.0).as_mut() {
            // Without it the next attempt finds that the directory is not open.
            let _ = journal.append(names.iter().map(|name| Record::closed_directory(name)));
        }
    }
}
