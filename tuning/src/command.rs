//! `culvert tune …` and `culvert doctor`: the arguments, and what they do.
//!
//! The `culvert` binary mounts [`TuneArgs`] and [`DoctorArgs`] and gives them a [`CommandContext`].
//! Results go to its `out`, messages to its `err`; the answer is the exit code of the command.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::audit::Audit;
use crate::doctor::Readiness;
use crate::facts::Facts;
use crate::guard::{self, GuardLauncher};
use crate::host::fake::FakeHost;
use crate::host::{Host, RealHost};
use crate::site::Site;
use crate::transaction::{Recovered, State, Store, StoreError, Transaction, TransactionError, recover};

mod apply;
mod arguments;
mod audit;
mod doctor;
mod keep;
mod measure;
mod status;

pub use arguments::{
    ApplyArgs, AuditArgs, DoctorArgs, FactsArgs, MeasureArgs, PlanArgs, RollbackArgs, SelectionArgs, SourceArgs,
    TuneAction, TuneArgs, WatchArgs,
};

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
    fn new(code: u8, text: impl Into<String>) -> Self {
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

impl TuneArgs {
    /// Runs the command; gives its exit code.
    ///
    /// # Errors
    /// [`Failure`], which the caller prints.
    pub fn run(self, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
        match self.action {
            TuneAction::Audit(arguments) => audit::audit(&arguments, context),
            TuneAction::Plan(arguments) => audit::plan(&arguments, context),
            TuneAction::Facts(arguments) => audit::facts(&arguments, context),
            TuneAction::Explain { rule } => audit::explain(rule.as_deref(), context),
            TuneAction::Apply(arguments) => apply::apply(&arguments, context),
            TuneAction::Confirm { json } => apply::confirm(json, context),
            TuneAction::Rollback(arguments) => apply::roll_back(&arguments, context),
            TuneAction::Status { json } => status::status(json, context),
            TuneAction::Measure(arguments) => measure::measure(&arguments, context),
            TuneAction::Watch(arguments) => keep::watch(&arguments, context),
            TuneAction::Guard { transaction } => keep::guard(&transaction, context),
        }
    }
}

impl DoctorArgs {
    /// Runs the command; gives its exit code.
    ///
    /// # Errors
    /// [`Failure`], which the caller prints.
    pub fn run(self, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
        doctor::doctor(&self, context)
    }
}

impl CommandContext<'_> {
    /// A message for people.
    fn say(&mut self, text: &str) {
        if !self.quiet {
            let _ = writeln!(self.err, "{text}");
        }
    }

    /// Something that went wrong without keeping the command from its result.
    fn warn(&mut self, text: &str) {
        let _ = writeln!(self.err, "culvert: {text}");
    }

    /// A result as JSON, indented.
    fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text =
            serde_json::to_string_pretty(value).map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
        self.text(&format!("{text}\n"))
    }

    /// A result as text. A reader that has gone (`| head`) is no error.
    fn text(&mut self, text: &str) -> Result<(), Failure> {
        match self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// There is nothing to do, which is no failure: `why` for people, `document` for programs.
    fn nothing_to_do(&mut self, why: &str, document: Option<&impl Serialize>) -> Result<u8, Failure> {
        match document {
            Some(document) => self.json(document)?,
            None => self.say(why),
        }
        Ok(exit::DONE)
    }

    fn store(&self) -> Store {
        Store::at(&self.state_directory)
    }

    fn launcher(&self) -> GuardLauncher {
        GuardLauncher {
            program: self.program.clone(),
            arguments: self.arguments.clone(),
            state_directory: self.state_directory.clone(),
        }
    }

    /// Repairs what a crash left behind, for commands that change something and hold the lock.
    /// `confirming` leaves transactions that wait for confirmation alone, even if their guard has
    /// died: a user who can type the command can still reach the host.
    fn recover(&mut self, store: &mut Store, host: &mut dyn Host, confirming: bool) -> Result<(), Failure> {
        let state = self.state_directory.clone();
        let recovered = recover(store, host, &|id| confirming || guard::lives(&state, id))?;
        self.tell(&recovered);
        Ok(())
    }

    /// The same for commands that only look: it must not keep them from looking.
    fn recover_if_possible(&mut self, host: &mut dyn Host) {
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

    fn tell(&mut self, recovered: &[Recovered]) {
        for one in recovered {
            self.warn(&format!("{}: {}", one.id, one.text));
        }
    }
}

/// The site file that was named, or the one that every host may have.
fn load_site(named: Option<&Path>) -> Result<Site, Failure> {
    let bad = |error: crate::site::SiteError| Failure::new(exit::BAD_HOST, error.to_string());
    match named {
        Some(path) => Site::load(path).map_err(bad),
        None => Site::of_this_host().map_err(bad),
    }
}

/// Facts, site and audit, and the host that they are of: this one, or a saved one.
struct Examined {
    facts: Facts,
    audit: Audit,
    host: Box<dyn Host>,
}

impl SourceArgs {
    fn examine(&self, context: &mut CommandContext<'_>) -> Result<Examined, Failure> {
        let site = load_site(self.site.as_deref())?;
        let (facts, host): (Facts, Box<dyn Host>) = match &self.facts {
            Some(path) => {
                let facts = Facts::load(path).map_err(|error| Failure::new(exit::BAD_HOST, error.to_string()))?;
                let host = FakeHost::from_facts(&facts);
                (facts, Box::new(host))
            }
            None => {
                let mut host = RealHost::open();
                context.recover_if_possible(&mut host);
                (host.facts(&site.partners_to_ask(), self.probe), Box::new(host))
            }
        };
        let audit = Audit::run(&facts, &site, self.profile);
        Ok(Examined { facts, audit, host })
    }
}
