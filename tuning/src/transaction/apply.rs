//! Applying a plan, and confirming it.

use std::collections::BTreeSet;
use std::time::{SystemTime, UNIX_EPOCH};

use culvert_host::netlink::LinkBytes;
use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, HostError, disturbed_by};

use super::error::TransactionError;
use super::journal::Record;
use super::restore::{check_place, restore, write_and_compare};
use super::state::{ApplyOptions, Intent, SnapshotEntry, State, Transaction, describe};
use super::store::Store;

/// Writes all intents, or none.
///
/// Files that Culvert owns are written when the transaction is confirmed, so that nothing
/// unconfirmed outlives a restart of the host. `start_guard` is called with the transaction's name
/// once the snapshot is on disk and before the first write; if it fails, nothing is written.
///
/// The caller holds the store's lock and has called [`super::recover`].
///
/// # Errors
/// [`TransactionError`]; the host is then restored, or the error names what is not.
pub fn apply(
    store: &mut Store,
    host: &mut dyn Host,
    intents: Vec<Intent>,
    options: &ApplyOptions,
    start_guard: &mut dyn FnMut(&str) -> Result<(), String>,
) -> Result<Transaction, TransactionError> {
    refuse_if_waiting(store)?;
    let entries = take_snapshot(host, &intents).map_err(TransactionError::Unreadable)?;
    let now_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let begin = Record::begin(now_unix_s, host.place(), options, intents);
    let mut transaction = store.begin(&begin, now_unix_s)?;
    store.append(&mut transaction, &Record::Snapshot { entries })?;
    if options.confirm_within.is_some()
        && let Err(reason) = start_guard(&transaction.id)
    {
        store.append(&mut transaction, &Record::RolledBack { left: Vec::new() })?;
        return Err(TransactionError::Guard(reason));
    }
    if let Err((rule, error)) = write_all(host, &transaction) {
        return Err(undo(store, host, &mut transaction, &rule, &error.to_string()));
    }
    let within = options.confirm_within.unwrap_or_default();
    let deadline_boot_ms = host.now_boot_ms() + u64::try_from(within.as_millis()).unwrap_or(u64::MAX / 2);
    if let Err(error) = store.append(&mut transaction, &Record::Applied { deadline_boot_ms }) {
        return Err(undo(store, host, &mut transaction, "", &error.to_string()));
    }
    if options.confirm_within.is_none() {
        return confirm(store, host);
    }
    Ok(transaction)
}

/// Refuses further changes while a transaction waits for confirmation.
///
/// # Errors
/// [`TransactionError::Waiting`] names the transaction.
pub fn refuse_if_waiting(store: &Store) -> Result<(), TransactionError> {
    match store.transactions()?.into_iter().find(|other| other.state == State::Pending) {
        Some(waiting) => Err(TransactionError::Waiting { id: waiting.id }),
        None => Ok(()),
    }
}

/// Keeps the applied settings: writes the files that survive a reboot, and stops the timer.
///
/// The caller holds the store's lock.
///
/// # Errors
/// [`TransactionError::NothingPending`], also if the time was up; [`TransactionError::Failed`] if a
/// file could not be written, in which case everything is rolled back.
pub fn confirm(store: &mut Store, host: &mut dyn Host) -> Result<Transaction, TransactionError> {
    let transactions = store.transactions()?;
    let Some(mut transaction) = transactions.iter().rfind(|one| one.state == State::Pending).cloned() else {
        let last = transactions.iter().rfind(|one| one.state == State::RolledBack);
        let hint = last.and_then(|last| Some(format!("; {} was rolled back: {}", last.id, last.reason.as_ref()?)));
        return Err(TransactionError::NothingPending(hint.unwrap_or_default()));
    };
    check_place(host, &transaction)?;
    let files: Vec<Intent> =
        transaction.intents.iter().filter(|intent| !intent.setting.ends_with_the_boot()).cloned().collect();
    for file in &files {
        if let Err(error) = write_and_compare(host, &file.setting, &file.to) {
            return Err(undo(store, host, &mut transaction, &file.rule, &error.to_string()));
        }
    }
    store.append(&mut transaction, &Record::Confirmed)?;
    Ok(transaction)
}

/// The intent of a plan's change.
impl From<&crate::plan::PlannedChange> for Intent {
    fn from(change: &crate::plan::PlannedChange) -> Self {
        Self { rule: change.rule.clone(), setting: change.setting.clone(), to: change.to.clone() }
    }
}

/// Intents for files that Culvert owns.
impl Intent {
    /// An intent for a file with this content, or for its absence.
    #[must_use]
    pub fn file(path: &str, content: Option<String>) -> Self {
        Self { rule: "persist".to_owned(), setting: Setting::OwnedFile { path: path.to_owned() }, to: Value(content) }
    }
}

/// Every setting to be written and every setting that a write may disturb, with its value.
fn take_snapshot(host: &mut dyn Host, intents: &[Intent]) -> Result<Vec<SnapshotEntry>, HostError> {
    let mut entries = Vec::new();
    let wanted: BTreeSet<&Setting> = intents.iter().map(|intent| &intent.setting).collect();
    for setting in &wanted {
        entries.push(SnapshotEntry { setting: (*setting).clone(), value: host.read(setting)? });
    }
    let mut disturbed = BTreeSet::new();
    for setting in &wanted {
        disturbed.extend(disturbed_by(host, setting)?);
    }
    for setting in disturbed.iter().filter(|setting| !wanted.contains(setting)) {
        match host.read(setting) {
            Ok(value) => entries.push(SnapshotEntry { setting: setting.clone(), value }),
            // This host may lack it, such as a preference that accompanies a governor.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(entries)
}

/// Writes every intent except files, and checks at the end that all of them hold.
fn write_all(host: &mut dyn Host, transaction: &Transaction) -> Result<(), (String, HostError)> {
    let saved: BTreeSet<&Setting> = transaction.snapshot.iter().map(|entry| &entry.setting).collect();
    // Invariant I-tuning-snapshot-first: The former value of every setting that a transaction
    // writes is in its journal on disk before the transaction writes its first setting.
    assert!(
        transaction.intents.iter().all(|intent| saved.contains(&intent.setting)),
        "a setting without a snapshot would be written"
    );
    let mut intents: Vec<&Intent> =
        transaction.intents.iter().filter(|intent| intent.setting.ends_with_the_boot()).collect();
    intents.sort_by_key(|intent| intent.setting.stage());
    for intent in &intents {
        write_and_compare(host, &intent.setting, &intent.to).map_err(|error| (intent.rule.clone(), error))?;
    }
    restore_disturbed(host, transaction, &intents);
    // A later write may have disturbed an earlier setting in an unknown way.
    for intent in &intents {
        let holds = host.read(&intent.setting).map(|found| intent.setting.same(&intent.to, &found));
        if holds != Ok(true) {
            write_and_compare(host, &intent.setting, &intent.to).map_err(|error| (intent.rule.clone(), error))?;
        }
    }
    Ok(())
}

/// Restores, as far as possible, settings that the driver lost in a link reset and that no intent
/// changes. If the number of queues changed, the old values belong to other queues and are not
/// restored.
fn restore_disturbed(host: &mut dyn Host, transaction: &Transaction, intents: &[&Intent]) {
    let resets = |link: &str, setting: &Setting| {
        setting.link() == Some(link)
            && matches!(
                setting,
                Setting::Rings { .. } | Setting::PrivateFlag { .. } | Setting::LinkBytes { size: LinkBytes::Mtu, .. }
            )
    };
    let queues_change =
        |link: &str, setting: &Setting| setting.link() == Some(link) && matches!(setting, Setting::Channels { .. });
    for entry in &transaction.snapshot {
        let Some(link) = entry.setting.link() else { continue };
        let of_queues = matches!(
            entry.setting,
            Setting::Coalesce { .. }
                | Setting::FlowHash { .. }
                | Setting::IrqAffinity { .. }
                | Setting::LinkFile { .. }
        );
        let changes = |intent: &&Intent| {
            intent.setting == entry.setting
                || matches!((&intent.setting, &entry.setting), (Setting::Coalesce { link: a, .. }, Setting::Coalesce { link: b, .. }) if a == b)
        };
        if of_queues
            && intents.iter().any(|intent| resets(link, &intent.setting))
            && !intents.iter().any(|intent| queues_change(link, &intent.setting))
            && !intents.iter().any(changes)
            && host.read(&entry.setting).is_ok_and(|found| !entry.setting.same(&entry.value, &found))
        {
            // If the driver refuses, its own value stays; the snapshot still has the old one.
            let _ = host.write(&entry.setting, &entry.value);
        }
    }
}

/// Restores everything after a failure and creates the error that says so.
fn undo(
    store: &mut Store,
    host: &mut dyn Host,
    transaction: &mut Transaction,
    rule: &str,
    reason: &str,
) -> TransactionError {
    // A full disk must not prevent the restore, so the journal's error is handled after it.
    let noted = store.append(transaction, &Record::RollingBack { reason: reason.to_owned() });
    let left = restore(host, &transaction.snapshot, None);
    let outcome = describe(&left);
    let noted = noted.and_then(|()| store.append(transaction, &Record::RolledBack { left }));
    let outcome = match noted {
        Ok(()) => outcome,
        Err(error) => format!("{outcome}; the journal could not be closed ({error}), so the next start checks again"),
    };
    let rule = if rule.is_empty() { "none" } else { rule }.to_owned();
    TransactionError::Failed { rule, reason: reason.to_owned(), outcome }
}
