//! A transaction as its journal records it: intents, snapshot and state.

use std::collections::BTreeMap;
use std::time::Duration;

use culvert_host::Place;
use culvert_host::setting::{Setting, Value};
use serde::{Deserialize, Serialize};

/// The state of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Not everything is written yet. The applying process holds the lock, or has died.
    Applying,
    /// Everything is written and waits for confirmation.
    Pending,
    /// Confirmed; the watcher keeps its settings.
    Held,
    /// A rollback is in progress, or was interrupted.
    RollingBack,
    /// The rollback is complete.
    RolledBack,
    /// Ended with a restart of the host, or forgotten on request.
    Ended,
}

/// A transaction, as recorded in its journal.
#[derive(Clone, Debug)]
pub struct Transaction {
    /// Its name: a rising number, and the time of its beginning.
    pub id: String,
    /// When it began, in seconds since 1970.
    pub began_unix_s: u64,
    /// The boot and network namespace of its settings.
    pub place: Place,
    /// The profile.
    pub profile: String,
    /// Whether it is applied again after a restart of the host.
    pub persistent: bool,
    /// Whether the applying process stays until the rollback.
    pub attended: bool,
    /// The settings to write.
    pub intents: Vec<Intent>,
    /// The former values; empty until the snapshot is on disk.
    pub snapshot: Vec<SnapshotEntry>,
    /// Its state.
    pub state: State,
    /// The deadline of the confirmation, in milliseconds since the boot.
    pub deadline_boot_ms: Option<u64>,
    /// Why it was rolled back.
    pub reason: Option<String>,
    /// Settings that could not be restored.
    pub left: Vec<Left>,
    /// Length of its journal's complete lines in bytes.
    pub(super) journal_bytes: u64,
}

impl Transaction {
    /// The wanted values by setting.
    #[must_use]
    pub fn wanted(&self) -> BTreeMap<Setting, Value> {
        self.intents.iter().map(|intent| (intent.setting.clone(), intent.to.clone())).collect()
    }

    /// Whether it has ended, so that none of its settings are in force.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::RolledBack | State::Ended)
    }
}

/// The wanted values of all held transactions; the newest takes precedence.
#[must_use]
pub fn held_settings(transactions: &[Transaction]) -> BTreeMap<Setting, Value> {
    let held = transactions.iter().filter(|transaction| transaction.state == State::Held);
    held.flat_map(Transaction::wanted).collect()
}

/// One setting with its wanted value and the rule that requires it.
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

/// One setting with its former value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnapshotEntry {
    /// The setting.
    pub setting: Setting,
    /// The value.
    pub value: Value,
}

/// A setting that could not be restored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Left {
    /// The setting.
    pub setting: Setting,
    /// The former value.
    pub value: Value,
    /// The reason.
    pub reason: String,
}

/// How to apply a plan.
#[derive(Clone, Debug, Default)]
pub struct ApplyOptions {
    /// The profile, for the journal.
    pub profile: String,
    /// The time for the confirmation; if `None`, the changes are confirmed at once.
    pub confirm_within: Option<Duration>,
    /// Whether it is applied again after a restart of the host: by files among the intents, and by
    /// the watcher for the rest.
    pub persistent: bool,
    /// Whether the process keeps the store's lock and rolls back itself, as a measurement does. A
    /// free lock then means that the process has died.
    pub attended: bool,
}

/// The state of the host after a restore, as text.
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
