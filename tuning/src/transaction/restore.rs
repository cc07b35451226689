//! Putting a snapshot back.

use std::collections::BTreeMap;

use super::error::TransactionError;
use super::state::{Left, SnapshotEntry, Transaction};
use crate::host::{Host, HostError};
use crate::setting::{Setting, Value};

/// Rounds over the snapshot: one write may disturb another, and what disturbs comes first in each
/// round.
const ROUNDS_MAX: usize = 6;

/// Puts every setting of a snapshot back, until a whole round finds nothing that differs.
///
/// With `ours`, only settings that still have the value in it are put back (files always): after a
/// restart of the host, whatever else is there was not made by the transaction.
///
/// What cannot be put back is returned. A setting that is gone with its device, or whose interrupt
/// the driver no longer has, is not: there is nothing to put back.
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
    // A service such as irqbalance changes settings when it starts again, so it starts when all is
    // in place.
    let (services, others): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|entry| matches!(entry.setting, Setting::Service { .. }));
    let mut left = rounds(host, &others);
    left.extend(rounds(host, &services));
    left
}

/// Writes a setting and makes sure that it holds.
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

/// Whether this is the network namespace in which the transaction's settings live. Those of another
/// boot live nowhere but in files, except in the initial one, where the files put them at the
/// start.
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
    // Something is still changing; what differs now cannot be restored.
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
