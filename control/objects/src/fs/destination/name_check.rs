//! Refuses names of a manifest that contradict each other, as they arrive.

use std::collections::HashSet;

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_protocol::names::printable;

use crate::fs::destination::names::split_name;
use crate::fs::sources::hash_of;

/// Checks, entry by entry, that names are unique and that every parent is a directory that is
/// listed before its children.
#[derive(Debug, Default)]
pub struct NameCheck {
    names: HashSet<u128>,
    directories: HashSet<u128>,
    /// The parent that was found last, a cache: files of a directory follow each other.
    listed_parent: Vec<u8>,
}

impl NameCheck {
    /// Checks the next entry.
    ///
    /// # Errors
    /// [`Refusal`] if it contradicts the earlier ones.
    pub fn add(&mut self, entry: &Entry<'_>) -> Result<(), Refusal> {
        //= W-36
        //# The receiver checks every entry by itself and against the earlier ones.
        let hash = hash_of(entry.name);
        if !self.names.insert(hash) {
            return refuse_name(entry.name, "names a file twice");
        }
        let (parent, _) = split_name(entry.name);
        if !parent.is_empty() && parent != self.listed_parent {
            if !self.directories.contains(&hash_of(parent)) {
                return refuse_name(entry.name, "lists a file before its directory");
            }
            self.listed_parent = parent.to_vec();
        }
        if entry.kind == EntryKind::Directory {
            self.directories.insert(hash);
        }
        Ok(())
    }
}

fn refuse_name(name: &[u8], what: &str) -> Result<(), Refusal> {
    let text = format!("the partner's manifest {what} ('{}'): Culvert does not make such manifests", printable(name));
    Err(Refusal::new(RefusalCode::Protocol, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manifests_that_contradict_themselves_are_refused() {
        //= W-36
        //# The receiver checks every entry by itself and against the earlier ones.
        let entry =
            |name: &'static [u8], kind| Entry { name, kind, target: b"", mode: 0o644, modified: Default::default() };
        let file = EntryKind::File { bytes: 1, is_sparse: false };
        for entries in [
            vec![entry(b"a", file), entry(b"a", file)],
            vec![entry(b"a", file), entry(b"a/b", file)],
            vec![entry(b"d/a", file), entry(b"d", EntryKind::Directory)],
        ] {
            let mut check = NameCheck::default();
            let refused = entries.iter().find_map(|entry| check.add(entry).err());
            assert_eq!(refused.unwrap().code, RefusalCode::Protocol);
        }
    }
}
