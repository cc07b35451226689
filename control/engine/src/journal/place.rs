//! Where the journal of a partner, a destination and the names stored there lies.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use culvert_protocol::identity::{PublicKey, to_hex};

use crate::journal::record::{TOP_NAMES_MAX, top_name_hash};

/// Where journals of a partner and a destination lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) directory: PathBuf,
    /// What the names of all of them begin with: the partner's digits, then those of both.
    pub(super) key: String,
    /// What they began with before the partner had digits of its own.
    pub(super) former_key: String,
    /// What distinguishes them.
    pub(super) names: String,
    /// Hashes of the least of those names.
    pub(super) top_names: Vec<u32>,
}

/// Digits of a name that are of the partner alone.
pub(super) const PARTNER_DIGITS: usize = 8;
/// Digits of [`Place::names`].
const NAMES_DIGITS: usize = 16;

impl Place {
    /// The place for what `partner` stores at `destination`. `top_names` are the first components
    /// of the names, in any order, repeated or not: as long as they are the same, so is the
    /// journal.
    #[must_use]
    pub fn new<'a>(
        directory: &Path,
        partner: PublicKey,
        destination: &[u8],
        top_names: impl IntoIterator<Item = &'a [u8]>,
    ) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("culvert 1 journal");
        hasher.update(&partner.0).update(destination);
        let former_key = to_hex(&hasher.finalize().as_bytes()[..16]);
        let mut hasher = blake3::Hasher::new_derive_key("culvert 2 journal partner");
        hasher.update(&partner.0);
        let of_partner = to_hex(&hasher.finalize().as_bytes()[..PARTNER_DIGITS / 2]);
        let key = format!("{of_partner}{}", former_key.get(PARTNER_DIGITS..).unwrap_or_default());
        let top_names: BTreeSet<&[u8]> = top_names.into_iter().collect();
        let mut hasher = blake3::Hasher::new_derive_key("culvert 2 journal names");
        for name in &top_names {
            // No name contains a NUL byte.
            hasher.update(name).update(&[0]);
        }
        let names = to_hex(&hasher.finalize().as_bytes()[..NAMES_DIGITS / 2]);
        // The least of the hashes: two long lists with most names in common have most of these in
        // common too.
        let hashes: BTreeSet<u32> = top_names.iter().map(|name| top_name_hash(name)).collect();
        let top_names = hashes.into_iter().take(TOP_NAMES_MAX).collect();
        Self { directory: directory.to_owned(), key, former_key, names, top_names }
    }

    /// The journal.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.journal", self.key, self.names))
    }

    /// Whether a file is a journal of the same partner and destination. Earlier versions had one
    /// for both, without names.
    pub(super) fn has(&self, file_name: &str) -> bool {
        let rest = file_name.strip_prefix(&self.key).or_else(|| file_name.strip_prefix(&self.former_key));
        let rest = rest.and_then(|rest| rest.strip_suffix(".journal"));
        rest.is_some_and(|rest| rest.is_empty() || rest.len() == 1 + NAMES_DIGITS && rest.starts_with('-'))
    }
}
