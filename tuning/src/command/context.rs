//! What every command works with: where its results go, the state on the host, and how it fails.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use crate::doctor::Readiness;
use crate::guard::{self, GuardLauncher};
use crate::host::Host;
use crate::transaction::{Recovered, State, Store, StoreError, Transaction, TransactionError, recover};

/// Exit codes, those of every `culvert` command.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Failed.
    pub const FAILED: u8 = 1;
    /// Wrong arguments.
    pub const USAGE: u8 = 2;
    /// Temporary, try again.
    pub const TEMPORARY: u8 = 5;
    /// Bad configuration or host.
    pub const BAD_HOST: u8 = 7;
}

/// What a command works with.
pub struct CommandContext<'a> {
    /// Where journals and the effect ledger are (`/var/lib/culvert/tuning` for root).
    pub state_directory: PathBuf,
    /// This program, which is started again as guard.
    pub program: PathBuf,
    /// The arguments that lead to the `tune` command again: `["--state", "DIR", "tune"]`, as the
    /// program wants them.
    pub arguments: Vec<String>,
    /// What people type for `tune`: `culvert tune`, or with the state directory if that was named.
    pub tune: String,
    /// Results.
    pub out: &'a mut dyn Write,
    /// Messages.
    pub err: &'a mut dyn Write,
    /// Programs with their versions, for `doctor`.
    pub versions: Vec<(String, String)>,
    /// What the caller has probed of the data plane, for `doctor`. Takes precedence over facts
    /// about the same part.
    pub readiness: Vec<Readiness>,
    /// Whether the program's data plane has AF_XDP, for `doctor`.
    pub has_af_xdp: bool,
    /// Whether messages that are no errors are left out.
    pub quiet: bool,
}

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// What to exit with, one of [`exit`].
    pub code: u8,
    /// What to say.
    pub text: String,
}

impl Failure {
    pub(super) fn new(code: u8, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::new(exit::FAILED, format!("writing the result: {error}"))
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        TransactionError::from(error).into()
    }
}

impl From<TransactionError> for Failure {
    fn from(error: TransactionError) -> Self {
        let code = match &error {
            TransactionError::Store(StoreError::Locked { .. }) | TransactionError::Waiting { .. } => exit::TEMPORARY,
            TransactionError::Store(_) | TransactionError::Unreadable(_) | TransactionError::WrongPlace { .. } => {
                exit::BAD_HOST
            }
            TransactionError::NoSuchTransaction(_) | TransactionError::NotNewest { .. } => exit::USAGE,
            TransactionError::NothingPending(_)
            | TransactionError::NothingToRollBack
            | TransactionError::Guard(_)
            | TransactionError::Failed { .. } => exit::FAILED,
        };
        Self::new(code, error.to_string())
    }
}

impl CommandContext<'_> {
    /// A message for people.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Something that went wrong without keeping the command from its result.
    pub(super) fn warn(&mut self, text: &str) {
        let _ = writeln!(self.err, "culvert: {text}");
    }

    /// A result as JSON, indented.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
        self.text(&format!("{text}\n"))
    }

    /// A result as text. A reader that has gone (`| head`) is no error.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// There is nothing to do, which is no failure: `why` for people, `document` for programs.
    pub(super) fn nothing_to_do(&mut self, why: &str, document: Option<&impl Serialize>) -> Result<u8, Failure> {
        match document {
            Some(document) => self.json(document)?,
            None => self.say(why),
        }
        Ok(exit::DONE)
    }

    pub(super) fn store(&self) -> Store {
        Store::at(&self.state_directory)
    }

    pub(super) fn launcher(&self) -> GuardLauncher {
        GuardLauncher {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            state_directory: self.state_directory.clone(),
        }
    }

    /// Repairs what a crash left behind, for commands that change something and hold the lock.
    /// `confirming` leaves transactions that wait for confirmation alone, even if their guard has
    /// died: a user who can type the command can still reach the host.
    pub(super) fn recover(&mut self, store: &mut Store, host: &mut dyn Host, confirming: bool) -> Result<(), Failure> {
        let state = self.state_directory.clone();
        let recovered = recover(store, host, &|id| confirming || guard::lives(&state, id))?;
        self.tell(&recovered);
        Ok(())
    }

    /// The same for commands that only look: it must not keep them from looking.
    pub(super) fn recover_if_possible(&mut self, host: &mut dyn Host) {
        let mut store = self.store();
        let Ok(transactions) = store.transactions() else { return };
        let settled = |one: &Transaction| matches!(one.state, State::Held | State::RolledBack | State::Ended);
        if transactions.iter().all(settled) {
            return;
        }
        let result = match store.lock(false) {
            // Whoever has the lock is at it.
            Err(StoreError::Locked { .. }) => return,
            Err(error) => Err(error.into()),
            Ok(_lock) => self.recover(&mut store, host, false),
        };
        if let Err(failure) = result {
            self.warn(&format!("earlier changes could not be repaired: {}", failure.text));
        }
    }

    pub(super) fn tell(&mut self, recovered: &[Recovered]) {
        for one in recovered {
            self.warn(&format!("{}: {}", one.id, one.text));
        }
    }
}
