//! A transaction as it is recorded: what it wants, what was there, and where it stands.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Place;
use crate::setting::{Setting, Value};

/// Where a transaction stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing was written yet, or not all; the process that applies it holds the lock, or has
    /// died.
    Applying,
    /// Everything is written and waits to be confirmed.
    Pending,
    /// Confirmed: the watcher keeps it.
    Held,
    /// Being put back, or interrupted while it was.
    RollingBack,
    /// Everything is as it was.
    RolledBack,
    /// The host restarted and forgot it; nothing of it was to stay.
    Ended,
}

/// A transaction, as recorded in its journal.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its name: a number that rises, and the time at which it began.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub began_unix_s: u64,
    /// Where its settings live.
    pub place: Place,
    /// The profile.
    pub profile: String,
    /// Whether it is to be there again after a restart of the host.
    pub persistent: bool,
    /// Whether the process that applied it stays until it is rolled back.
    pub attended: bool,
    /// What it wants.
    pub intents: Vec<Intent>,
    /// What was there; empty until the snapshot is on disk.
    pub snapshot: Vec<SnapshotEntry>,
    /// Where it stands.
    pub state: State,
    /// When it is rolled back unless confirmed, in milliseconds since the boot.
    pub deadline_boot_ms: Option<u64>,
    /// Why it was rolled back.
    pub reason: Option<String>,
    /// What could not be put back.
    pub left: Vec<Left>,
    /// Bytes of its journal that are whole.
    pub(super) journal_bytes: u64,
}

impl Transaction {
    /// What it wrote, by setting.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<Setting, Value> {
        self.intents.iter().map(|intent| (intent.setting.clone(), intent.to.clone())).collect()
    }

    /// Whether it is over: nothing of it is on the host.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::RolledBack | State::Ended)
    }
}

/// What all held transactions together want, the newest last.
#[must_use]
pub fn held_settings(transactions: &[Transaction]) -> BTreeMap<Setting, Value> {
    let held = transactions.iter().filter(|transaction| transaction.state == State::Held);
    held.flat_map(Transaction::wanted).collect()
}

/// One setting with the value that it is to have, and the rule that wants it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Intent {
    /// The rule.
    pub rule: String,
    /// The setting.
    pub setting: Setting,
    /// The value.
    pub to: Value,
}

/// One setting with the value that it had.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotEntry {
    /// The setting.
    pub setting: Setting,
    /// The value.
    pub value: Value,
}

/// A setting that could not be put back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The setting.
    pub setting: Setting,
    /// The value that it should have.
    pub value: Value,
    /// Why not.
    pub reason: String,
}

/// How a plan is applied.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// The profile, for the record.
    pub profile: String,
    /// How long the confirmation may take; without it, the changes are confirmed at once.
    pub confirm_within: Option<Duration>,
    /// Whether it is to be there again after a restart of the host: the files for that are among
    /// the intents, and the watcher sets the rest.
    pub persistent: bool,
    /// Whether the process stays, holding the store's lock, and rolls back itself, as a measurement
    /// does: then a free lock means that it has died.
    pub attended: bool,
}

/// What the host is like after putting back.
pub(super) fn describe(left: &[Left]) -> String {
    if left.is_empty() {
        return "the host is as it was".to_owned();
    }
    let left = left.iter().map(|left| {
        let command = left.setting.command(&left.value).map(|command| format!("; by hand: {command}"));
        format!("{} (was '{}'){}", left.reason, left.value, command.unwrap_or_default())
    });
    format!("the host is as it was, except: {}", left.collect::<Vec<_>>().join("; "))
}
