//! The context of every command: outputs, state directory and failures.

use std::io::{self, Write};
use std::path::PathBuf;

use culvert_host::Host;
use serde::Serialize;

use crate::doctor::Readiness;
use crate::guard::{self, GuardLauncher};
use crate::transaction::{Recovered, State, Store, StoreError, Transaction, TransactionError, recover};

/// Exit codes, the same as those of every `culvert` command.
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

/// The context in which a command runs.
pub struct CommandContext<'a> {
    /// Where journals and the effect ledger are (`/var/lib/culvert/tuning` for root).
    pub state_directory: PathBuf,
    /// This program, which is also started as guard.
    pub program: PathBuf,
    /// The program's arguments up to the `tune` command: `["--state", "DIR", "tune"]`.
    pub arguments: Vec<String>,
    /// The `tune` command for messages: `culvert tune`, with the state directory if one was given.
    pub tune: String,
    /// Results.
    pub out: &'a mut dyn Write,
    /// Messages.
    pub err: &'a mut dyn Write,
    /// Programs with their versions, for `doctor`.
    pub versions: Vec<(String, String)>,
    /// The parts of the data plane that the caller has probed, for `doctor`. They take precedence
    /// over facts about the same part.
    pub readiness: Vec<Readiness>,
    /// Whether the program's data plane has AF_XDP, for `doctor`.
    pub has_af_xdp: bool,
    /// Whether to suppress messages that are not errors.
    pub quiet: bool,
}

/// A command that did not succeed.
#[derive(Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    /// The exit code, one of [`exit`].
    pub code: u8,
    /// The message.
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
    /// Prints a message.
    pub(super) fn say(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Prints a warning about a problem that does not fail the command.
    pub(super) fn warn(&mut self, text: &str) {
        let _ = writeln!(self.err, "culvert: {text}");
    }

    /// Prints a result as indented JSON.
    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
        self.text(&format!("{text}\n"))
    }

    /// Prints a result as text. A closed pipe (`| head`) is no error.
    pub(super) fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Reports that nothing is to be done, which is no failure: `why` for people, `document` for
    /// programs.
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

    /// Repairs what a crash left behind, for commands that change settings and hold the lock. With
    /// `confirming`, transactions that wait for confirmation stay, even if their guard has died: a
    /// user who can type the command can still reach the host.
    pub(super) fn recover(&mut self, store: &mut Store, host: &mut dyn Host, confirming: bool) -> Result<(), Failure> {
        let state = self.state_directory.clone();
        let recovered = recover(store, host, &|id| confirming || guard::lives(&state, id))?;
        self.tell(&recovered);
        Ok(())
    }

    /// The same for commands that only read, which must succeed even if the repair fails.
    pub(super) fn recover_if_possible(&mut self, host: &mut dyn Host) {
        let mut store = self.store();
        let Ok(transactions) = store.transactions() else { return };
        let settled = |one: &Transaction| matches!(one.state, State::Held | State::RolledBack | State::Ended);
        if transactions.iter().all(settled) {
            return;
        }
        let result = match store.lock(false) {
            // The holder of the lock repairs them itself.
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
