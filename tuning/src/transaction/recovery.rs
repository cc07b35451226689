//! Rollback: on request, after the deadline, and after a crash.

use culvert_host::Host;

use super::error::TransactionError;
use super::journal::Record;
use super::restore::{check_place, restore};
use super::state::{State, Transaction, describe};
use super::store::Store;

/// The name of the initial network namespace.
const INITIAL: &str = "initial";

/// The result of a transaction's rollback or recovery.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Recovered {
    /// The transaction.
    pub id: String,
    /// What was found and done, as text.
    pub text: String,
    /// Whether a setting could not be restored.
    pub incomplete: bool,
}

/// Repairs what a crash, a reboot or a dead guard left behind. Every command and the node call this
/// first.
///
/// `guard_lives` returns whether the guard of a transaction is alive. The caller holds the store's
/// lock, so no other process is applying a transaction now.
///
/// # Errors
/// [`TransactionError`] if a transaction cannot be repaired here; the others are repaired first.
pub fn recover(
    store: &mut Store,
    host: &mut dyn Host,
    guard_lives: &dyn Fn(&str) -> bool,
) -> Result<Vec<Recovered>, TransactionError> {
    let mut done = Vec::new();
    let mut first_error = None;
    let here = host.place();
    // The newest first, because its snapshot was taken on top of the others.
    for mut transaction in store.transactions()?.into_iter().rev() {
        let same_boot = here.boot_id == transaction.place.boot_id;
        let reason = match transaction.state {
            State::RolledBack | State::Ended => continue,
            State::Held if same_boot || transaction.persistent => continue,
            State::Held => {
                store.append(&mut transaction, &Record::Ended)?;
                continue;
            }
            // Without a snapshot, nothing was written.
            State::Applying if transaction.snapshot.is_empty() => {
                store.append(&mut transaction, &Record::RolledBack { left: Vec::new() })?;
                continue;
            }
            State::Applying => "the process that applied it died before it had finished".to_owned(),
            State::RollingBack => {
                let why = transaction.reason.clone().unwrap_or_default();
                format!("rolling back was interrupted ({why})")
            }
            State::Pending if !same_boot => "the host restarted before it was confirmed".to_owned(),
            State::Pending if transaction.deadline_boot_ms.is_none_or(|deadline| host.now_boot_ms() >= deadline) => {
                "it was not confirmed in time".to_owned()
            }
            // If its process were alive, it would hold the lock.
            State::Pending if transaction.attended => "the process that watched over it died".to_owned(),
            State::Pending if guard_lives(&transaction.id) => continue,
            State::Pending => "the guard that would undo it has died".to_owned(),
        };
        match restore_snapshot(store, host, &mut transaction, &reason) {
            Ok(recovered) => done.push(recovered),
            Err(error) => first_error = first_error.or(Some(error)),
        }
    }
    first_error.map_or(Ok(done), Err)
}

/// Rolls back one transaction: the newest that is not over, or the named one.
///
/// The caller holds the store's lock.
///
/// # Errors
/// [`TransactionError`].
pub fn roll_back(
    store: &mut Store,
    host: &mut dyn Host,
    id: Option<&str>,
    reason: &str,
) -> Result<Recovered, TransactionError> {
    let open: Vec<Transaction> = store.transactions()?.into_iter().filter(|one| !one.is_over()).collect();
    let newest = open.last().cloned();
    let mut chosen = match id {
        None => newest.clone().ok_or(TransactionError::NothingToRollBack)?,
        Some(id) => {
            let found = open.into_iter().find(|one| one.id == id);
            found.ok_or_else(|| TransactionError::NoSuchTransaction(id.to_owned()))?
        }
    };
    if let Some(newer) = newest.filter(|newest| newest.id != chosen.id) {
        return Err(TransactionError::NotNewest { id: chosen.id, newer: newer.id });
    }
    restore_snapshot(store, host, &mut chosen, reason)
}

/// Rolls back everything, the newest first.
///
/// # Errors
/// [`TransactionError`]; transactions newer than the one that failed are rolled back.
pub fn roll_back_all(store: &mut Store, host: &mut dyn Host, reason: &str) -> Result<Vec<Recovered>, TransactionError> {
    let mut done = Vec::new();
    loop {
        match roll_back(store, host, None, reason) {
            Ok(recovered) => done.push(recovered),
            Err(TransactionError::NothingToRollBack) if !done.is_empty() => return Ok(done),
            Err(error) => return Err(error),
        }
    }
}

/// Closes a transaction without restoring anything, for settings of a network namespace that no
/// longer exists.
///
/// # Errors
/// [`TransactionError`].
pub fn forget(store: &mut Store, id: &str) -> Result<(), TransactionError> {
    let found = store.transaction(id)?.filter(|one| !one.is_over());
    let mut transaction = found.ok_or_else(|| TransactionError::NoSuchTransaction(id.to_owned()))?;
    store.append(&mut transaction, &Record::Ended)?;
    Ok(())
}

/// Restores a transaction's snapshot.
fn restore_snapshot(
    store: &mut Store,
    host: &mut dyn Host,
    transaction: &mut Transaction,
    reason: &str,
) -> Result<Recovered, TransactionError> {
    check_place(host, transaction)?;
    let noted = store.append(transaction, &Record::RollingBack { reason: reason.to_owned() });
    let here = host.place();
    let wanted = transaction.wanted();
    let left = if here.boot_id == transaction.place.boot_id {
        restore(host, &transaction.snapshot, None)
    } else if transaction.place.network_namespace == INITIAL && here.network_namespace == INITIAL {
        restore(host, &transaction.snapshot, Some(&wanted))
    } else {
        // Of a namespace that ended with its boot, only files can remain.
        restore(host, &transaction.snapshot, Some(&std::collections::BTreeMap::new()))
    };
    let recovered = Recovered {
        id: transaction.id.clone(),
        text: format!("{reason}: {}", describe(&left)),
        incomplete: !left.is_empty(),
    };
    noted?;
    store.append(transaction, &Record::RolledBack { left })?;
    Ok(recovered)
}
