//! What the ends of a dry run report to each other: the outcome of every entry, what would be left
//! out, and whether there is enough room.
//!
//! Nothing depends on it except what the user reads. An end that knows less reports less, and the
//! other end bounds what it receives.

use serde::{Deserialize, Serialize};

use crate::control::files::LeftOut;
use crate::control::versions::SAME_MODES_ARE_TOLD_SINCE;

/// The outcome of an entry, and the reason.
///
/// Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fate {
    /// The name does not exist: it would be created.
    New,
    /// A file of another size is there, which it would replace.
    DiffersInSize,
    /// A file of the same size and another time is there, which it would replace.
    DiffersInTime,
    /// Something of another kind is there, or a symlink that leads elsewhere, which it would
    /// replace.
    DiffersInKind,
    /// A file is there that it would replace whatever the two have in common: the user wants every
    /// file sent.
    ReplacedAlways,
    /// A file is there that it would be compared with, and replace with what differs sent.
    Compared,
    /// The same is there: it would be skipped.
    Same,
    /// An earlier attempt has stored it: it would not be sent.
    StoredBefore,
    /// An earlier attempt has begun it: the rest would be sent.
    BegunBefore,
    /// A file of another size is there, and may not be replaced.
    CollidesInSize,
    /// A file of the same size and another time is there, and may not be replaced.
    CollidesInTime,
    /// Something of another kind is there, or a symlink that leads elsewhere, and may not be
    /// replaced.
    CollidesInKind,
    /// To the destination's file system it has the same name as another entry.
    CollidesByName,
    /// The receiver's account may not write to the directory that it would be stored in: it would
    /// fail, and the others would not.
    NotPermitted,
    /// The same is there with another mode, which it would get: it would be skipped. Since version
    /// [`SAME_MODES_ARE_TOLD_SINCE`].
    SameButMode,
}

impl Fate {
    /// As a partner of a version knows it.
    #[must_use]
    pub const fn known_to(self, version: u16) -> Self {
        match self {
            Self::SameButMode if version < SAME_MODES_ARE_TOLD_SINCE => Self::Same,
            fate => fate,
        }
    }

    /// What would be done: a word for programs.
    #[must_use]
    pub const fn action(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::DiffersInSize | Self::DiffersInTime | Self::DiffersInKind | Self::ReplacedAlways | Self::Compared => {
                "replaced"
            }
            Self::Same | Self::SameButMode => "skipped",
            Self::StoredBefore | Self::BegunBefore => "resumed",
            Self::CollidesInSize | Self::CollidesInTime | Self::CollidesInKind | Self::CollidesByName => "collision",
            Self::NotPermitted => "left_out",
        }
    }

    /// Why: a word for programs.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::New => "absent",
            Self::DiffersInSize | Self::CollidesInSize => "differs_in_size",
            Self::DiffersInTime | Self::CollidesInTime => "differs_in_time",
            Self::DiffersInKind | Self::CollidesInKind => "differs_in_kind",
            Self::ReplacedAlways => "overwrite_always",
            Self::Compared => "compared_by_content",
            Self::Same => "same",
            Self::SameButMode => "mode",
            Self::StoredBefore => "stored_before",
            Self::BegunBefore => "begun_before",
            Self::CollidesByName => "same_name",
            Self::NotPermitted => "unwritable",
        }
    }

    /// Why: for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::New => "",
            Self::DiffersInSize => "differs in size",
            Self::DiffersInTime => "differs in time",
            Self::DiffersInKind => "is of another kind, or has another target",
            Self::ReplacedAlways => "--overwrite always",
            Self::Compared => "compared by content; only what differs is sent",
            Self::Same => "the same is there",
            Self::SameButMode => "the same is there; its mode is set",
            Self::StoredBefore => "an earlier attempt stored it",
            Self::BegunBefore => "an earlier attempt stored part of it",
            Self::CollidesInSize => "exists already and differs in size",
            Self::CollidesInTime => "exists already and differs in time",
            Self::CollidesInKind => "exists already and is of another kind, or has another target",
            Self::CollidesByName => "has the same name as another of these files to the destination's file system",
            Self::NotPermitted => {
                "could not be stored: the receiver's account may not write to the directory it would be stored in"
            }
        }
    }

    /// Whether its bytes, or a part of them, would be sent.
    #[must_use]
    pub const fn is_sent(self) -> bool {
        !matches!(self, Self::Same | Self::SameButMode | Self::StoredBefore | Self::NotPermitted) && !self.collides()
    }

    /// Whether it would have the whole transfer refused.
    #[must_use]
    pub const fn collides(self) -> bool {
        matches!(self, Self::CollidesInSize | Self::CollidesInTime | Self::CollidesInKind | Self::CollidesByName)
    }
}

/// So many entries, one after the other, of one fate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FateRun {
    /// How many, at least one.
    pub count: u32,
    /// Their outcome.
    pub fate: Fate,
}

/// What one end of a dry run found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finding {
    /// From the sender, before the manifest's end: what would be left out.
    LeftOut {
        /// How much.
        count: u64,
        /// The first of it.
        first: Vec<LeftOut>,
    },
    /// From the receiver, before the end of the plan: the outcomes of the next entries, in the
    /// manifest's order.
    Fates(Vec<FateRun>),
    /// From the receiver, before the plan's end.
    Room {
        /// Bytes that are free at the destination, for the account that would store; none if its
        /// file system does not say.
        free_bytes: Option<u64>,
        /// Bytes that the transfer would need there.
        needed_bytes: u64,
    },
    /// From the receiver, after [`Finding::Room`]: files, directories and symlinks. Since version
    /// [`SAME_MODES_ARE_TOLD_SINCE`].
    Inodes {
        /// As many are free; none if the file system does not say.
        free: Option<u64>,
        /// As many would be made.
        needed: u64,
    },
}

/// What a transfer needs at its destination, and what that has for the account that stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Bytes that it needs.
    pub needed_bytes: u64,
    /// Bytes that are free; none if the file system does not say.
    pub free_bytes: Option<u64>,
    /// Files, directories and symlinks that it makes.
    pub needed_inodes: u64,
    /// As many are free; none if the file system or the partner does not say.
    pub free_inodes: Option<u64>,
}

/// Joins fates to runs.
pub fn runs(fates: impl IntoIterator<Item = Fate>) -> Vec<FateRun> {
    let mut runs: Vec<FateRun> = Vec::new();
    for fate in fates {
        match runs.last_mut() {
            Some(run) if run.fate == fate => run.count = run.count.saturating_add(1),
            _ => runs.push(FateRun { count: 1, fate }),
        }
    }
    runs
}

/// The outcomes reported by a partner, one per entry.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fates(Vec<Fate>);

impl Fates {
    /// Adds runs. False if there would be more fates than `entries`, or a run of none.
    pub fn add(&mut self, runs: &[FateRun], entries: u32) -> bool {
        //= W-58
        //# Before `PlanEnd`, the receiver reports the outcome of each entry and its reason, in runs
        //# that cover the manifest exactly and in order
        for run in runs {
            let left = (entries as usize).saturating_sub(self.0.len());
            if run.count == 0 || run.count as usize > left {
                return false;
            }
            self.0.extend(std::iter::repeat_n(run.fate, run.count as usize));
        }
        true
    }

    /// All of them, in the manifest's order.
    #[must_use]
    pub fn as_slice(&self) -> &[Fate] {
        &self.0
    }
}

impl From<Vec<Fate>> for Fates {
    fn from(fates: Vec<Fate>) -> Self {
        Self(fates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_come_back_and_never_beyond_the_manifest() {
        //= W-58
        //# More or fewer outcomes than entries violate the protocol
        let fates = vec![Fate::New, Fate::New, Fate::Same, Fate::CollidesInSize, Fate::New];
        let told = runs(fates.iter().copied());
        assert_eq!(told.len(), 4);
        let mut heard = Fates::default();
        assert!(heard.add(&told, 5));
        assert_eq!(heard.as_slice(), fates);
        for lie in [FateRun { count: 1, fate: Fate::New }, FateRun { count: u32::MAX, fate: Fate::New }] {
            assert!(!heard.clone().add(&[lie], 5));
        }
        assert!(!Fates::default().add(&[FateRun { count: 0, fate: Fate::New }], 5));
        assert!(!Fates::default().add(&[FateRun { count: u32::MAX, fate: Fate::New }], 5));
    }

    /// What it does not know would end the conversation.
    #[test]
    fn a_partner_hears_no_fate_that_its_version_does_not_have() {
        //= W-58
        //# Since version 8, an outcome may say that an identical file gets another mode
        //# (`SameButMode`; older partners receive `Same`)
        assert_eq!(Fate::SameButMode.known_to(SAME_MODES_ARE_TOLD_SINCE), Fate::SameButMode);
        assert_eq!(Fate::SameButMode.known_to(SAME_MODES_ARE_TOLD_SINCE - 1), Fate::Same);
        assert_eq!(Fate::New.known_to(SAME_MODES_ARE_TOLD_SINCE - 1), Fate::New);
        assert!(!Fate::SameButMode.is_sent() && !Fate::SameButMode.collides());
    }
}
