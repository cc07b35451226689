//! What happens between two connected nodes: both directions of a transfer, and what they share.
//!
//! A transfer is one task over one control connection. [`sending`] drives it where the data comes
//! from, [`receiving`] where it goes to; it does not matter to either who requested it. Any failure
//! ends the task; after a temporary one, the requester retries it from the journal.
//!
//! ```text
//! engine ──> sending   ═══ UDP, TCP ═══>   receiving ──> journal
//!            its data plane                its data plane
//! ```
//!
//! Finding the partner, asking, answering and concluding are the engine's.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

mod addresses;
pub mod bit_set;
pub mod clock;
pub mod dry_run;
pub mod ends;
pub mod error;
pub mod events;
pub mod file_errors;
pub mod flows;
pub mod limits;
pub mod manifest_exchange;
pub mod measurement;
pub mod open_files;
pub mod packs;
pub mod progress_watchdog;
mod rate_meter;
pub mod receiving;
pub mod sending;
pub mod shares;
pub mod stored_names;
pub mod tcp_path;
mod tries;
pub mod udp_path;

use std::sync::Arc;

use culvert_connection::Connection;
use culvert_model::progress::Progress;
use culvert_plane::DataPlane;
use culvert_protocol::control::{DRY_RUNS_ARE_TOLD_SINCE, NAMES_ARE_ESCAPED_SINCE, Options, TransferId};
use culvert_protocol::identity::{Identity, to_hex};
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::tree_hash::ChunkHash;
use tokio::sync::watch;

use crate::ends::Ends;
use crate::events::Observer;
use crate::shares::Share;
use crate::stored_names::StoredNames;

/// What both directions of a transfer need.
#[derive(Debug)]
pub struct TransferContext {
    /// The transfer.
    pub id: TransferId,
    /// How.
    pub options: Options,
    /// This node's key.
    pub identity: Arc<Identity>,
    /// The data plane.
    pub plane: Arc<DataPlane>,
    /// The control connection.
    pub connection: Connection,
    /// The partner's lanes.
    pub partner_lane_ports: Vec<u16>,
    /// The largest datagram that both ends' interfaces carry.
    pub datagram_bytes_max: u16,
    /// Where progress is shown.
    pub progress: watch::Sender<Progress>,
    /// Becomes true when somebody cancels.
    pub cancel: watch::Receiver<bool>,
    /// The rate that a fresh record of the path supports, for all flows.
    pub start_bits_per_second: Option<u64>,
    /// Where the names of stored files go, if the transfer's user reads them.
    pub names: Option<Arc<StoredNames>>,
    /// Who watches.
    pub observer: Arc<dyn Observer>,
    /// The partner's name in them.
    pub peer: String,
    /// How long the transfer may make no progress; no limit if none.
    pub patience: Option<std::time::Duration>,
    /// The two ends, for errors.
    pub ends: Ends,
    /// What the transfer takes of the partner's share of this node.
    pub share: Share,
}

impl TransferContext {
    /// Whether this is a dry run whose partner understands what was found.
    #[must_use]
    pub fn tells_dry_run(&self) -> bool {
        self.options.dry_run && self.connection.version >= DRY_RUNS_ARE_TOLD_SINCE
    }

    /// Tells the transfer's user why it does not continue, or that it does.
    pub fn notice(&self, notice: Option<String>) {
        self.progress.send_if_modified(|progress| {
            let is_new = progress.notice != notice;
            progress.notice = notice;
            is_new
        });
    }

    /// Waits until somebody cancels.
    pub async fn canceled(cancel: &mut watch::Receiver<bool>) {
        // If the canceler is gone, it will never happen.
        if cancel.wait_for(|&canceled| canceled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Bytes of a listing that are hashed at once: BLAKE3 is at its widest from 16 KiB on.
const LISTING_STEP_BYTES: usize = 64 << 10;

/// The root of what was stored: one file's hash as `b3sum` prints it, or the hash of `b3sum`'s
/// listing of several files in the manifest's order. Both ends speak `version`; before
/// [`NAMES_ARE_ESCAPED_SINCE`] line ends in names stood in the listing as they are, so that two
/// trees could have one root.
#[must_use]
pub fn root_of(manifest: &Manifest, hashes: &[ChunkHash], version: u16, is_stored: impl Fn(u32) -> bool) -> String {
    let stored = manifest
        .entries()
        .filter(|(file, entry)| matches!(entry.kind, EntryKind::File { .. }) && is_stored(*file))
        .map(|(file, entry)| (entry, hash_of_file(manifest, hashes, file)));
    if manifest.file_count() == 1 {
        return stored.map(|(_, hash)| to_hex(&hash)).next().unwrap_or_default();
    }
    let mut listing = blake3::Hasher::new();
    let mut lines = Vec::with_capacity(2 * LISTING_STEP_BYTES);
    for (entry, hash) in stored {
        let hash = blake3::Hash::from_bytes(hash).to_hex();
        let escaped = if version >= NAMES_ARE_ESCAPED_SINCE { escaped(entry.name) } else { None };
        let (mark, name) = match &escaped {
            Some(escaped) => (b"\\".as_slice(), escaped.as_slice()),
            None => (b"".as_slice(), entry.name),
        };
        for part in [mark, hash.as_bytes(), b"  ", name, b"\n"] {
            lines.extend_from_slice(part);
        }
        if lines.len() >= LISTING_STEP_BYTES {
            listing.update(&lines);
            lines.clear();
        }
    }
    listing.update(&lines).finalize().to_hex().to_string()
}

/// Runs something that blocks (files, hashes) outside the runtime's thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// A name as `b3sum` writes it behind a line's mark, if it has to.
fn escaped(name: &[u8]) -> Option<Vec<u8>> {
    let escape = |byte: u8| -> Option<&'static [u8]> {
        match byte {
            b'\\' => Some(b"\\\\"),
            b'\n' => Some(b"\\n"),
            b'\r' => Some(b"\\r"),
            _ => None,
        }
    };
    name.iter()
        .any(|&byte| escape(byte).is_some())
        .then(|| name.iter().flat_map(|byte| escape(*byte).unwrap_or(std::slice::from_ref(byte))).copied().collect())
}

/// A file's hash; an empty file's is known without sending it.
fn hash_of_file(manifest: &Manifest, hashes: &[ChunkHash], file: u32) -> ChunkHash {
    match manifest.file_bytes(file) {
        Some(0) => *blake3::hash(&[]).as_bytes(),
        _ => hashes[file as usize],
    }
}

#[cfg(test)]
mod tests {
    use culvert_protocol::manifest::{Entry, FileTime};

    use super::*;

    fn root(files: &[(&[u8], &[u8])], version: u16) -> String {
        let mut manifest = Manifest::default();
        let mut hashes = Vec::new();
        for (name, content) in files {
            let kind = EntryKind::File { bytes: content.len() as u64, is_sparse: false };
            let modified = FileTime { seconds: 0, nanoseconds: 0 };
            manifest.push(&Entry { name, kind, target: b"", mode: 0o644, modified }).unwrap();
            hashes.push(*blake3::hash(content).as_bytes());
        }
        root_of(&manifest, &hashes, version, |_| true)
    }

    /// A line end in a name could make one listing of two trees.
    #[test]
    fn trees_that_differ_have_different_roots() {
        let inner = blake3::hash(b"two").to_hex();
        let spliced = format!("a\n{inner}  b");
        let one: &[(&[u8], &[u8])] = &[(spliced.as_bytes(), b"one"), (b"c", b"three")];
        let other: &[(&[u8], &[u8])] = &[(b"a", b"one"), (b"b", b"two"), (b"c", b"three")];
        assert_eq!(root(one, NAMES_ARE_ESCAPED_SINCE - 1), root(other, NAMES_ARE_ESCAPED_SINCE - 1));
        assert_ne!(root(one, NAMES_ARE_ESCAPED_SINCE), root(other, NAMES_ARE_ESCAPED_SINCE));
        assert_eq!(root(other, NAMES_ARE_ESCAPED_SINCE - 1), root(other, NAMES_ARE_ESCAPED_SINCE));
    }

    /// What `b3sum` 1.8 prints for such names.
    #[test]
    fn the_root_is_the_hash_of_what_b3sum_prints() {
        let (one, two) = (blake3::hash(b"1").to_hex(), blake3::hash(b"2").to_hex());
        let listing = format!("\\{one}  a\\\\b\\nc\\rd\n{two}  plain\n");
        let expected = blake3::hash(listing.as_bytes()).to_hex().to_string();
        assert_eq!(root(&[(b"a\\b\nc\rd", b"1"), (b"plain", b"2")], NAMES_ARE_ESCAPED_SINCE), expected);
    }
}
