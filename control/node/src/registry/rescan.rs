//! Reads records that this process does not write: those that exist when it starts, and those of
//! commands that run at the same time.

use culvert_engine::clock::unix_ms;
use culvert_engine::transfer::blocking;
use culvert_protocol::control::TransferId;
use culvert_state::StateError;

use crate::registry::lock::lock;
use crate::registry::observation::{Observation, observe};
use crate::registry::{Registry, owners};

impl Registry {
    /// A message for each record that is left alone, because it cannot be read or was written by a
    /// newer program.
    #[must_use]
    pub fn left_alone(&self) -> Vec<String> {
        lock(&self.left_alone).values().cloned().collect()
    }

    pub(super) fn is_left_alone(&self, id: TransferId) -> bool {
        lock(&self.left_alone).contains_key(&id)
    }

    /// The id of the other process that runs a transfer, in that process's PID namespace; none if
    /// no other process does.
    #[must_use]
    pub fn others_process(&self, id: TransferId) -> Option<u32> {
        owners::process_in(lock(&self.others).get(&id)?)
    }

    /// Removes the files of processes that are gone.
    pub fn sweep(&self) {
        self.owners.sweep();
    }

    /// Registers this process as one that runs transfers, before the first one starts. Accesses the
    /// disk.
    ///
    /// # Errors
    /// [`StateError`]. Each transfer that starts then tries again.
    pub fn register(&self) -> Result<(), StateError> {
        self.owners.register()
    }

    /// Reads the records of other processes' transfers again. Accesses the disk.
    ///
    /// # Errors
    /// [`StateError`] if the records cannot be listed.
    pub fn look_again(&self) -> Result<(), StateError> {
        let names = self.state.list("transfers", ".json")?;
        let known: Vec<TransferId> = lock(&self.others).keys().copied().collect();
        for id in names.iter().filter_map(|name| name.parse().ok()).chain(known) {
            if !self.is_known(id) {
                self.look_at(id)?;
            }
        }
        Ok(())
    }

    /// Like [`Registry::look_again`], for one transfer.
    ///
    /// # Errors
    /// [`StateError`] if this process lacks the descriptors or memory to read it.
    pub async fn look_before(&self, id: TransferId) -> Result<(), StateError> {
        if self.is_known(id) {
            return Ok(());
        }
        let (state, owners) = (self.state.clone(), self.owners.clone());
        let observed = blocking(move || observe(&state, &owners, id)).await;
        self.adopt(id, observed).map(drop)
    }

    /// Whether no other process changes a transfer's record.
    fn is_known(&self, id: TransferId) -> bool {
        let is_own = lock(&self.records).contains_key(&id) && !lock(&self.others).contains_key(&id);
        is_own || lock(&self.live).contains_key(&id) || self.is_left_alone(id)
    }

    /// Reads a record; returns the receipt in it.
    ///
    /// # Errors
    /// See [`Registry::look_before`].
    pub(super) fn look_at(&self, id: TransferId) -> Result<Option<String>, StateError> {
        self.adopt(id, observe(&self.state, &self.owners, id))
    }

    fn adopt(&self, id: TransferId, observed: Result<Observation, StateError>) -> Result<Option<String>, StateError> {
        // Locked until the record is in memory, so that nothing in this process starts it.
        let live = lock(&self.live);
        if live.contains_key(&id) {
            return Ok(None);
        }
        let (record, receipt) = match observed {
            Ok(Observation::Nothing) => {
                if lock(&self.others).remove(&id).is_some() {
                    lock(&self.records).remove(id);
                }
                return Ok(None);
            }
            Ok(Observation::AtRest { record, receipt }) => {
                lock(&self.others).remove(&id);
                (record, receipt)
            }
            Ok(Observation::CutOff(record)) => {
                lock(&self.others).remove(&id);
                if record.state.is_final() {
                    lock(&self.cut_off).insert(id);
                }
                (record, None)
            }
            Ok(Observation::Foreign { record, owner }) => {
                lock(&self.others).insert(id, owner);
                (record, None)
            }
            // The record may be sound; the next look tells.
            Err(error) if error.is_shortage() => return Err(error),
            Err(error) => {
                self.leave_alone(id, &error);
                return Ok(None);
            }
        };
        let is_new = lock(&self.records).get(&id) != Some(&record);
        if is_new {
            self.insert(id, record);
        }
        Ok(receipt)
    }

    /// Sets a record aside that cannot be used, or remembers it, so that no transfer overwrites it.
    fn leave_alone(&self, id: TransferId, error: &StateError) {
        let is_set_aside = match error {
            StateError::Damaged { path, reason } | StateError::Unusable { path, reason } => {
                self.state.set_aside(path, reason).is_ok()
            }
            _ => false,
        };
        if !is_set_aside {
            let sentence = format!("the record of transfer {id} is left out: {error}");
            lock(&self.left_alone).insert(id, sentence);
        }
    }

    /// Records interrupted transfers as ended, and returns their number. Only a node does so, since
    /// there is at most one per state directory.
    pub fn settle_cut_off(&self) -> usize {
        let cut_off = std::mem::take(&mut *lock(&self.cut_off));
        for &id in &cut_off {
            self.update(id, |record| record.ended_unix_ms = Some(unix_ms()));
        }
        cut_off.len()
    }
}

#[cfg(test)]
mod tests {
    use culvert_engine::transfer::error::TransferError;
    use culvert_model::record::{RecordState, TransferRecord};
    use culvert_model::request::{Movement, Target, TransferRequest};
    use culvert_protocol::control::{Options, RefusalCode};
    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;
    use crate::registry::record_file::file_of;
    use crate::registry::tests::{record, run};
    use crate::registry::{INTERRUPTED, Registry};
    use culvert_state::StateDirectory;

    fn id(number: u64) -> TransferId {
        TransferId::new(1, number.into())
    }

    fn under_way(id: TransferId) -> TransferRecord {
        let transfer = id.to_string();
        TransferRecord { transfer, ended_unix_ms: None, ..record(RecordState::Active, "a", 0) }
    }

    fn state() -> (tempfile::TempDir, StateDirectory) {
        let room = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(room.path().join("state")).unwrap();
        (room, state)
    }

    fn written(state: &StateDirectory, id: TransferId) -> serde_json::Value {
        serde_json::from_slice(&state.read(file_of(id)).unwrap().unwrap()).unwrap()
    }

    /// A node that was started alongside a command reported the command's transfer as failed.
    #[test]
    fn a_transfer_belongs_to_its_process_as_long_as_that_lives() {
        let (_room, state) = state();
        run(async {
            let command = Registry::open(state.clone()).unwrap();
            drop(command.begin(id(1), under_way(id(1))).await.unwrap());
            let node = Registry::open(state.clone()).unwrap();
            // A transfer that starts later is seen at the next look.
            drop(command.begin(id(2), under_way(id(2))).await.unwrap());
            node.look_again().unwrap();
            for id in [id(1), id(2)] {
                assert_eq!(node.get(id), Some(under_way(id)));
                assert_eq!(node.others_process(id), Some(std::process::id()));
                let refusal = node.begin_for_partner(id, under_way(id)).await.unwrap_err();
                assert_eq!(refusal.code, RefusalCode::Temporary, "{refusal}");
                assert!(node.begin(id, under_way(id)).await.is_err() && !node.cancel(id).await);
            }
            assert!(node.interrupted().is_empty() && node.under_way().is_empty());
            assert_eq!(node.settle_cut_off(), 0);
            command.fail(id(1), &TransferError::protocol("a test")).await.unwrap();
            node.look_again().unwrap();
            assert_eq!(node.get(id(1)), command.get(id(1)));
            assert_eq!(node.others_process(id(1)), None);
        });
    }

    /// Such a transfer was reported as active forever.
    #[test]
    fn a_transfer_whose_process_is_gone_was_interrupted_and_its_file_says_so_when_a_node_has_seen_it() {
        let (_room, state) = state();
        let request = TransferRequest {
            target: Target::Profile("a".to_owned()),
            movement: Movement::Measure { bytes: 1 },
            options: Options::default(),
            retries: None,
        };
        run(async {
            let killed = Registry::open(state.clone()).unwrap();
            drop(killed.begin(id(1), under_way(id(1))).await.unwrap());
            drop(killed.begin(id(2), TransferRecord { request: Some(request), ..under_way(id(2)) }).await.unwrap());
            let beside = Registry::open(state.clone()).unwrap();
            assert_eq!(recently_cut_off_now(&state), 0);
            // Releases its locks, as the kernel does when a process dies.
            drop(killed);
            assert_eq!(beside.get(id(1)).unwrap().state, RecordState::Active, "nobody has looked");
            beside.look_again().unwrap();
            let looked = Registry::open(state.clone()).unwrap();
            assert_eq!(recently_cut_off_now(&state), 1);
            for registry in [&beside, &looked] {
                let told = registry.get(id(1)).unwrap();
                assert_eq!((told.state, told.error.unwrap().code.as_str()), (RecordState::Failed, INTERRUPTED));
                // A node's transfer waits for the node.
                let waits = registry.get(id(2)).unwrap();
                assert_eq!((waits.state, waits.error.unwrap().code.as_str()), (RecordState::Queued, INTERRUPTED));
                let ids: Vec<TransferId> = registry.interrupted().iter().map(|(id, _)| *id).collect();
                assert_eq!(ids, [id(2)]);
            }
            assert_eq!(written(&state, id(1))["state"], "active", "looking changes nothing");
            assert!(looked.go_on(id(2)).is_some());
            assert_eq!(looked.get(id(2)).unwrap().error, None);
            assert_eq!((looked.settle_cut_off(), looked.settle_cut_off()), (1, 0));
            looked.settle().await;
            let written = written(&state, id(1));
            assert_eq!((&written["state"], written["ended_unix_ms"].is_u64()), (&"failed".into(), true));
            assert_eq!(recently_cut_off_now(&state), 0);
        });
    }

    /// The owner was used as a path, and an owner that is no valid file name counted as alive
    /// forever.
    #[test]
    fn a_record_whose_owner_is_no_name_is_of_a_transfer_that_was_cut_off() {
        let (_room, state) = state();
        let owners = [
            "x".repeat(256),
            format!("owner-1-{}.lock", "x".repeat(243)),
            "x".repeat(1 << 16),
            String::new(),
            "..".to_owned(),
            "/".to_owned(),
            "/etc/passwd".to_owned(),
            "owner-1-a/../b.lock".to_owned(),
            "owner-1-\0.lock".to_owned(),
            "owner-1-x.lock/".to_owned(),
        ];
        for (number, owner) in (1..).zip(&owners) {
            let mut file = serde_json::to_value(under_way(id(number))).unwrap();
            file["owner"] = owner.as_str().into();
            // Used as a path, it would name a file outside the receipts' directory.
            file["transfer"] = "../../identity".into();
            state.write(file_of(id(number)), file.to_string().as_bytes()).unwrap();
        }
        let registry = Registry::open(state).unwrap();
        for (number, owner) in (1..).zip(&owners) {
            let told = registry.get(id(number)).unwrap();
            assert_eq!(
                (told.state, told.error.unwrap().code.as_str()),
                (RecordState::Failed, INTERRUPTED),
                "{owner:.40?}"
            );
            assert_eq!(told.transfer, id(number).to_string());
        }
    }

    fn recently_cut_off_now(state: &StateDirectory) -> usize {
        // The records of these tests were made in 1970.
        crate::registry::observation::cut_off_since(state, 0).len()
    }

    /// Each of these kept a node from starting, or blocked it forever.
    #[test]
    fn what_cannot_be_read_is_set_aside_or_left_alone_and_hides_nothing_else() {
        let (_room, state) = state();
        let path = |number: u64| state.path(file_of(id(number)));
        run(async {
            let before = Registry::open(state.clone()).unwrap();
            drop(before.begin(id(1), under_way(id(1))).await.unwrap());
            before.fail(id(1), &TransferError::protocol("a test")).await.unwrap();
        });
        mknodat(CWD, path(2), FileType::Fifo, Mode::RWXU, 0).unwrap();
        std::fs::create_dir(path(3)).unwrap();
        std::os::unix::fs::symlink("/nowhere", path(4)).unwrap();
        std::os::unix::fs::symlink("/dev/zero", path(5)).unwrap();
        std::fs::File::create(path(6)).unwrap().set_len(1 << 40).unwrap();
        std::fs::write(path(7), "{").unwrap();
        // This one cannot be set aside, because the names for it are taken.
        std::fs::create_dir(path(8)).unwrap();
        for taken in ["json.damaged", "json.damaged-2", "json.damaged-3", "json.damaged-4"] {
            std::fs::write(path(8).with_extension(taken), "").unwrap();
        }
        let registry = Registry::open(state.clone()).unwrap();
        let ids: Vec<String> = registry.list().into_iter().map(|record| record.transfer).collect();
        assert_eq!(ids, [id(1).to_string()]);
        let left_alone = registry.left_alone();
        assert!(
            matches!(&*left_alone, [one] if one.contains("a directory") && one.contains("move it away")),
            "{left_alone:?}"
        );
        for number in 2..8 {
            assert!(path(number).symlink_metadata().is_err(), "{number}");
            assert!(path(number).with_extension("json.damaged").symlink_metadata().is_ok(), "{number}");
        }
        run(async {
            assert!(registry.begin(id(8), under_way(id(8))).await.is_err(), "nothing is written over it");
            assert!(registry.begin(id(2), under_way(id(2))).await.is_ok());
        });
    }
}
