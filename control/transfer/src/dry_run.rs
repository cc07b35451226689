//! The result of a dry run: the outcome for every file, what it would need, and what prevents it.

use culvert_model::bounds::{DRY_RUN_LISTED_BYTES_MAX, DRY_RUN_LISTED_MAX};
use culvert_model::result::{FileCounts, ResultError, ShownVerdict, State, TransferResult, bounded as bounded_errors};
use culvert_model::would::{self, Direction, Would, WouldCounts, WouldFile, WouldRefuse};
use culvert_objects::fs::destination::room;
use culvert_protocol::control::{Refusal, RefusalCode, TransferId};
use culvert_protocol::counted::{agree, counted};
use culvert_protocol::dry_run::{Fate, Room};
use culvert_protocol::foreign_text::foreign_name;
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::seal::Cipher;

/// What both ends found.
pub struct DryRunFindings<'a> {
    /// Which way data would go.
    pub direction: Direction,
    /// The files.
    pub manifest: &'a Manifest,
    /// What a file is called.
    pub name: &'a dyn Fn(u32) -> String,
    /// The outcome for each entry; none if the partner does not report it.
    pub fates: Option<&'a [Fate]>,
    /// Whether an entry is skipped, as every partner reports.
    pub is_skipped: &'a dyn Fn(u32) -> bool,
    /// Bytes that are stored already of what is not skipped.
    pub stored_bytes: u64,
    /// What is needed at the destination and what is free there, as far as the receiver reports it.
    pub room: Option<Room>,
    /// What would be left out: how much, and the first of it.
    pub left_out: (u64, Vec<ResultError>),
    /// Whether the entries are listed: a partner that asked does so itself.
    pub is_listed: bool,
}

impl DryRunFindings<'_> {
    /// The dry run's result.
    #[must_use]
    pub fn result(self, id: TransferId, cipher: Cipher) -> TransferResult {
        let is_file = |file: u32| self.manifest.file_bytes(file).is_some();
        let others_made =
            (0..self.manifest.len() as u32).filter(|&file| !is_file(file) && self.is_sent(file)).count() as u64;
        let would = self.would();
        let (total, skipped) = (self.manifest.file_count(), would.counts.skipped);
        let error_count = would.counts.left_out;
        let errors = bounded_errors(self.would_fail().map(|file| self.failure(file)).chain(self.left_out.1.clone()));
        let state = match (&would.refused, error_count) {
            (Some(_), _) => State::Failed,
            (None, 0) => State::Succeeded,
            (None, _) => State::SucceededWithErrors,
        };
        TransferResult {
            transfer: id.to_string(),
            state,
            files: FileCounts { total, stored: 0, skipped, failed: error_count },
            others_made,
            cipher: cipher.name().to_owned(),
            verdict: ShownVerdict::none("a dry run: nothing was transferred"),
            errors,
            error_count,
            dry_run: true,
            would: Some(would),
            ..TransferResult::empty()
        }
    }

    /// Files that the receiver could not store.
    fn would_fail(&self) -> impl Iterator<Item = u32> {
        let fates = self.fates.unwrap_or_default();
        (0..).zip(fates).filter(|&(_, &fate)| fate == Fate::NotPermitted).map(|(file, _)| file)
    }

    fn failure(&self, file: u32) -> ResultError {
        let fate = Fate::NotPermitted;
        let path = foreign_name(&(self.name)(file));
        ResultError { path, code: fate.reason().to_owned(), text: fate.words().to_owned() }
    }

    fn is_sent(&self, file: u32) -> bool {
        match self.fates {
            Some(fates) => fates.get(file as usize).is_some_and(|fate| fate.is_sent()),
            None => !(self.is_skipped)(file),
        }
    }

    fn would(&self) -> Would {
        let files = || (0..self.manifest.len() as u32).filter(|&file| self.manifest.file_bytes(file).is_some());
        let bytes = |wanted: &dyn Fn(u32) -> bool| {
            files().filter(|&file| wanted(file)).filter_map(|file| self.manifest.file_bytes(file)).sum::<u64>()
        };
        let is = |file: u32, fate: Fate| self.fates.is_some_and(|fates| fates.get(file as usize) == Some(&fate));
        let count_of = |action: &str| {
            let fates = self.fates?;
            Some(files().filter(|&file| fates.get(file as usize).is_some_and(|f| f.action() == action)).count() as u64)
        };
        let counts = WouldCounts {
            sent: files().filter(|&file| self.is_sent(file)).count() as u64,
            new: count_of("new"),
            replaced: count_of("replaced"),
            resumed: count_of("resumed"),
            skipped: count_of("skipped")
                .unwrap_or_else(|| files().filter(|&file| (self.is_skipped)(file)).count() as u64),
            // Directories and symlinks too.
            collisions: self.fates.map(|fates| fates.iter().filter(|fate| fate.collides()).count() as u64),
            left_out: self.left_out.0.saturating_add(self.would_fail().count() as u64),
        };
        // What earlier attempts stored is whole files, which are not sent, and parts of others.
        let stored_in_part = self.stored_bytes.saturating_sub(bytes(&|file| is(file, Fate::StoredBefore)));
        let bytes = bytes(&|file| self.is_sent(file)).saturating_sub(stored_in_part);
        let (files, file_count) = self.list();
        Would {
            direction: self.direction,
            refused: refusal(&counts, self.room.as_ref()),
            counts,
            bytes,
            needed_bytes: self.room.map(|room| room.needed_bytes),
            free_bytes: self.room.and_then(|room| room.free_bytes),
            needed_inodes: self.room.map(|room| room.needed_inodes),
            free_inodes: self.room.and_then(|room| room.free_inodes),
            files,
            file_count,
        }
    }

    /// The entries, as many as are listed, and how many there are.
    fn list(&self) -> (Vec<WouldFile>, u64) {
        let Some(fates) = self.fates else { return (Vec::new(), 0) };
        let is_worth_it =
            |(file, fate): &(u32, Fate)| self.manifest.file_bytes(*file).is_some() || !matches!(fate, Fate::Same);
        let entries = || (0..).zip(fates.iter().copied()).filter(is_worth_it);
        let count = entries().count() as u64 + self.left_out.0;
        if !self.is_listed {
            return (Vec::new(), count);
        }
        let of_entry = |(file, fate): (u32, Fate)| {
            let is_directory = self.manifest.entry(file).kind == EntryKind::Directory;
            WouldFile {
                path: format!("{}{}", foreign_name(&(self.name)(file)), if is_directory { "/" } else { "" }),
                action: fate.action().to_owned(),
                reason: fate.reason().to_owned(),
                text: fate.words().to_owned(),
            }
        };
        let of_left = |left: &ResultError| WouldFile {
            path: left.path.clone(),
            action: "left_out".to_owned(),
            reason: left.code.clone(),
            text: left.text.clone(),
        };
        let files = entries().map(of_entry).chain(self.left_out.1.iter().map(of_left)).take(DRY_RUN_LISTED_MAX);
        (would::bounded(files, DRY_RUN_LISTED_BYTES_MAX), count)
    }
}

/// Why the transfer would be refused.
fn refusal(counts: &WouldCounts, room: Option<&Room>) -> Option<WouldRefuse> {
    if let Some(collisions) = counts.collisions.filter(|&collisions| collisions > 0) {
        let text = format!(
            "{} {} already and may not be replaced: use --overwrite changed, content or always to replace files, or another destination",
            counted(collisions, "file"),
            agree(collisions, "exists", "exist")
        );
        return Some(WouldRefuse { code: RefusalCode::Collision, text });
    }
    let Refusal { code, text } = room::check(room?, "the destination").err()?;
    Some(WouldRefuse { code, text })
}
