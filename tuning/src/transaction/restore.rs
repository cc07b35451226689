//! Restoring a snapshot.

use std::collections::BTreeMap;

use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, HostError};

use super::error::TransactionError;
use super::state::{Left, SnapshotEntry, Transaction};

/// The most rounds over the snapshot. One write may disturb another setting; in each round,
/// settings that disturb others come first.
const ROUNDS_MAX: usize = 6;

/// Restores every setting of a snapshot, until a whole round finds no difference.
///
/// With `ours`, restores only settings that still have the value in it, and files: after a restart
/// of the host, the transaction made no other value.
///
/// Returns the settings that could not be restored. A setting that disappeared with its device or
/// interrupt is not among them: nothing is left to restore.
pub(super) fn restore(
    host: &mut dyn Host,
    snapshot: &[SnapshotEntry],
    ours: Option<&BTreeMap<Setting, Value>>,
) -> Vec<Left> {
    let mut entries: Vec<&SnapshotEntry> = snapshot.iter().collect();
    if let Some(ours) = ours {
        entries.retain(|entry| {
            !entry.setting.ends_with_the_boot()
                || ours
                    .get(&entry.setting)
                    .is_some_and(|value| host.read(&entry.setting).is_ok_and(|found| entry.setting.same(value, &found)))
        });
    }
    entries.sort_by_key(|entry| entry.setting.stage());
    // A service such as irqbalance changes settings when it starts, so services start last.
    let (services, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| matches!(entry.setting, Setting::Service { .. }));
    let mut left = rounds(host, &others);
    left.extend(rounds(host, &services));
    left
}

/// Writes a setting and reads it back.
pub(crate) fn write_and_compare(host: &mut dyn Host, setting: &Setting, value: &Value) -> Result<(), HostError> {
    host.write(setting, value)?;
    let found = host.read(setting)?;
    if setting.same(value, &found) {
        return Ok(());
    }
    Err(HostError::Refused {
        setting: setting.to_string(),
        value: value.to_string(),
        reason: format!("it was accepted without an error, but reads '{found}'"),
    })
}

/// Checks that a transaction of this boot was made in this network namespace. Of a transaction of
/// an earlier boot, only files remain, and what they set in the initial namespace.
pub(super) fn check_place(host: &dyn Host, transaction: &Transaction) -> Result<(), TransactionError> {
    let here = host.place();
    let same_boot = here.boot_id == transaction.place.boot_id;
    if same_boot && here.network_namespace != transaction.place.network_namespace {
        return Err(TransactionError::WrongPlace {
            id: transaction.id.clone(),
            namespace: transaction.place.network_namespace.clone(),
        });
    }
    Ok(())
}

fn rounds(host: &mut dyn Host, entries: &[&SnapshotEntry]) -> Vec<Left> {
    let mut left = Vec::new();
    for _ in 0..ROUNDS_MAX {
        left.clear();
        let mut wrote = false;
        for entry in entries {
            let error = match host.read(&entry.setting) {
                Ok(found) if entry.setting.same(&entry.value, &found) => continue,
                Err(error) if error.is_missing() => continue,
                Err(error) => Some(error),
                Ok(_) => {
                    wrote = true;
                    host.write(&entry.setting, &entry.value).err().filter(|error| !error.is_missing())
                }
            };
            if let Some(error) = error {
                left.push(Left {
                    setting: entry.setting.clone(),
                    value: entry.value.clone(),
                    reason: error.to_string(),
                });
            }
        }
        if !wrote {
            return left;
        }
    }
    // Something keeps changing settings; those that differ now cannot be restored.
    left = entries.iter().filter_map(|entry| still_different(host, entry)).collect();
    left
}

fn still_different(host: &mut dyn Host, entry: &SnapshotEntry) -> Option<Left> {
    let reason = match host.read(&entry.setting) {
        Ok(found) if entry.setting.same(&entry.value, &found) => return None,
        Err(error) if error.is_missing() => return None,
        Ok(found) => format!("it reads '{found}' again after every write"),
        Err(error) => error.to_string(),
    };
    Some(Left { setting: entry.setting.clone(), value: entry.value.clone(), reason })
}
