//! The path of the journal of a partner, a destination and the names stored there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use culvert_protocol::identity::{PublicKey, to_hex};

use crate::record::{TOP_NAMES_MAX, top_name_hash};

/// The place of a transfer's journal, among those of the same partner and destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(crate) directory: PathBuf,
    /// The prefix of all of those journals' names: the partner's digits, then digits of partner and
    /// destination.
    pub(crate) key: String,
    /// The prefix that earlier versions used, without the partner's digits.
    pub(crate) former_key: String,
    /// The digits that distinguish them: a hash of the top names.
    pub(crate) names: String,
    /// The smallest hashes of those names.
    pub(crate) top_names: Vec<u32>,
}

/// Digits of a journal's name that depend on the partner alone.
pub(crate) const PARTNER_DIGITS: usize = 8;
/// Digits of [`Place::names`].
const NAMES_DIGITS: usize = 16;

impl Place {
    /// The place for what `partner` stores at `destination`. `top_names` are the first components
    /// of the names, in any order and with any repetition: the same set names the same journal.
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
        // The smallest hashes: two long lists that share most names also share most of these.
        let hashes: BTreeSet<u32> = top_names.iter().map(|name| top_name_hash(name)).collect();
        let top_names = hashes.into_iter().take(TOP_NAMES_MAX).collect();
        Self { directory: directory.to_owned(), key, former_key, names, top_names }
    }

    /// The journal's path.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}.journal", self.key, self.names))
    }

    /// Whether a file is a journal of the same partner and destination. The earliest versions had
    /// one journal for both, whatever the names.
    pub(crate) fn has(&self, file_name: &str) -> bool {
        let rest = file_name.strip_prefix(&self.key).or_else(|| file_name.strip_prefix(&self.former_key));
        let rest = rest.and_then(|rest| rest.strip_suffix(".journal"));
        rest.is_some_and(|rest| rest.is_empty() || rest.len() == 1 + NAMES_DIGITS && rest.starts_with('-'))
    }
}
