//! Transfers: what both directions have in common, and what comes out of them.
//!
//! A transfer is one task over one control connection. [`sending`] drives it where the data comes
//! from, [`receiving`] where it goes to; it does not matter to either who requested it. Any failure
//! ends the task; after a temporary one, the requester retries it from the journal.

pub mod bit_set;
pub mod dry_run;
pub mod flows;
pub mod manifest_exchange;
pub mod open_files;
pub mod packs;
pub mod patience;
pub mod receiving;
pub mod result;
pub mod sending;
pub mod source_version;
pub mod stored_names;
pub mod tcp_path;
pub mod udp_path;
pub mod usage;

use std::sync::Arc;

use culvert_protocol::control::{
    DRY_RUNS_ARE_TOLD_SINCE, FileError, NAMES_ARE_ESCAPED_SINCE, Options, Refusal, RefusalCode, TransferId,
};
use culvert_protocol::foreign_text::foreign_text;
use culvert_protocol::identity::{Identity, to_hex};
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error::{self, SHORTAGE, explained, without_numbers};
use tokio::sync::watch;

use crate::connection::{Connection, ConnectionError};
use crate::dataplane::{DataPlane, DataPlaneError};
use crate::limits::{ERROR_BYTES_PER_TRANSFER, ERRORS_LISTED_MAX};
use crate::metrics::Metrics;
use crate::shares::Share;
use stored_names::StoredNames;
use udp_path::Ends;

/// Why a transfer ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The partner refuses or gives up.
    #[error("{0}")]
    Partner(Refusal),
    /// This side refuses or gives up; the partner is notified.
    #[error("{0}")]
    Here(Refusal),
    /// Nothing passes between the two hosts where something else does: somebody can open the way,
    /// but another try at once would find it as it is. The partner is told.
    #[error("{0}")]
    Closed(String),
    /// The partner's key is not the one that its profile names.
    #[error("{0}")]
    KeyChanged(String),
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The data plane.
    #[error(transparent)]
    DataPlane(DataPlaneError),
}

impl TransferError {
    /// This side gives up.
    #[must_use]
    pub fn here(code: RefusalCode, text: impl Into<String>) -> Self {
        Self::Here(Refusal::new(code, text))
    }

    /// This side gives up because of an error of the operating system, with whose words the text
    /// ends.
    #[must_use]
    pub fn os(errno: rustix::io::Errno, text: String) -> Self {
        Self::Here(os_error::refusal(errno, text))
    }

    /// What ends the transfer, if an error that this side had with a file is none of the file's.
    #[must_use]
    pub fn of_shortage(error: &FileError) -> Option<Self> {
        (error.code == SHORTAGE).then(|| Self::here(RefusalCode::Temporary, error.text.clone()))
    }

    /// What the partner is told, if this side ends the transfer.
    #[must_use]
    pub fn told(&self) -> Option<Refusal> {
        match self {
            Self::Here(refusal) => Some(refusal.clone()),
            Self::Closed(text) => Some(Refusal::new(RefusalCode::Temporary, text.clone())),
            _ => None,
        }
    }

    /// What is said of it. Words of the partner stay as they are: what there is to do about them is
    /// to be done there.
    #[must_use]
    pub fn text(&self) -> String {
        match self {
            Self::DataPlane(error) => without_numbers(&explained(error.to_string())),
            Self::Partner(_) => self.to_string(),
            Self::Here(_) | Self::Closed(_) | Self::KeyChanged(_) | Self::Connection(_) => {
                without_numbers(&self.to_string())
            }
        }
    }

    /// The partner did something that the protocol does not allow.
    #[must_use]
    pub fn protocol(text: impl Into<String>) -> Self {
        Self::here(RefusalCode::Protocol, format!("the partner broke the protocol: {}", text.into()))
    }

    /// The kind, for exit codes and retries.
    #[must_use]
    pub const fn code(&self) -> RefusalCode {
        match self {
            Self::Partner(refusal) | Self::Here(refusal) => refusal.code,
            Self::KeyChanged(_) => RefusalCode::UnknownKey,
            Self::Connection(ConnectionError::Frame(_)) => RefusalCode::Protocol,
            Self::Connection(ConnectionError::UnknownHost { .. }) => RefusalCode::NotFound,
            Self::Closed(_)
            | Self::Connection(_)
            | Self::DataPlane(
                DataPlaneError::Died(_)
                | DataPlaneError::PortsInUse(_)
                | DataPlaneError::NoRoom(_)
                | DataPlaneError::NoDescriptor { .. }
                | DataPlaneError::Overrun
                | DataPlaneError::Nonsense(_),
            ) => RefusalCode::Temporary,
            Self::DataPlane(_) => RefusalCode::Failed,
        }
    }

    /// What `culvert send` exits with (the contract's exit codes).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(self, Self::KeyChanged(_)) {
            return 12;
        }
        // What does not fit this host, or how the data plane is set up on it, fits no other
        // transfer either.
        if let Self::DataPlane(
            DataPlaneError::CannotStart(_)
            | DataPlaneError::Prepare(_)
            | DataPlaneError::Spawn { .. }
            | DataPlaneError::Attach { .. },
        ) = self
        {
            return 7;
        }
        match self.code() {
            RefusalCode::UnknownKey | RefusalCode::NotPermitted => 4,
            RefusalCode::NotFound => 3,
            RefusalCode::Temporary | RefusalCode::Interrupted => 5,
            RefusalCode::Canceled => 130,
            RefusalCode::Verification => 11,
            RefusalCode::NothingToDo => 9,
            RefusalCode::Collision
            | RefusalCode::NoSpace
            | RefusalCode::Version
            | RefusalCode::Protocol
            | RefusalCode::Failed => 1,
        }
    }

    /// Whether another try may succeed by itself.
    #[must_use]
    pub fn is_worth_another_try(&self) -> bool {
        self.code() == RefusalCode::Temporary && !matches!(self, Self::Closed(_))
    }
}

impl From<DataPlaneError> for TransferError {
    fn from(error: DataPlaneError) -> Self {
        match error {
            // The partner is notified: it is not disconnected without a reason, and will come back.
            DataPlaneError::NoRoom(_) | DataPlaneError::NoDescriptor { .. } | DataPlaneError::Overrun => {
                Self::here(RefusalCode::Temporary, error.to_string())
            }
            error => {
                let text = error.to_string();
                if os_error::tells_shortage(&text) {
                    return Self::here(RefusalCode::Temporary, explained(text));
                }
                Self::DataPlane(error)
            }
        }
    }
}

impl From<crate::connection::Closed> for TransferError {
    fn from(closed: crate::connection::Closed) -> Self {
        Self::here(RefusalCode::Temporary, closed.to_string())
    }
}

/// What a transfer is doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waiting for its turn.
    #[default]
    Queued,
    /// Connecting to the partner.
    Connecting,
    /// Listing the sources.
    Listing,
    /// The receiver plans.
    Planning,
    /// Data moves.
    Moving,
    /// The last files get their names, the receipt is signed.
    Finishing,
    /// Waiting before another try.
    Waiting,
}

/// How far a transfer is.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes moved or found to be there.
    pub bytes_done: u64,
    /// Bytes in all, as far as they are known.
    pub bytes_total: u64,
    /// Files stored or found to be there.
    pub files_done: u64,
    /// Files in all, as far as they are known.
    pub files_total: u64,
    /// Payload per second over the last second, in bits.
    pub rate_bits_per_second: u64,
    /// The pacing rate of all flows, in bits per second; 0 on the receiving side.
    pub pacing_bits_per_second: u64,
    /// The newest round trip, in microseconds.
    pub rtt_us: u32,
    /// Why it does not continue, if it does not: a blocked path, or the last attempt's error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
}

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
    /// Where measurements go.
    pub metrics: Arc<Metrics>,
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

/// A list of errors that does not grow beyond what anybody reads.
#[derive(Clone, Debug, Default)]
pub struct ErrorList {
    /// The first of them.
    pub listed: Vec<FileError>,
    /// How many there were.
    pub count: u64,
    /// Bytes of those that are listed.
    bytes: usize,
}

impl ErrorList {
    /// Adds one.
    pub fn push(&mut self, mut error: FileError) {
        self.count += 1;
        for text in [&mut error.code, &mut error.text] {
            *text = foreign_text(text);
        }
        let bytes = error.code.len() + error.text.len() + size_of::<FileError>();
        if self.listed.len() < ERRORS_LISTED_MAX && self.bytes + bytes <= ERROR_BYTES_PER_TRANSFER {
            self.bytes += bytes;
            error.code.shrink_to_fit();
            error.text.shrink_to_fit();
            self.listed.push(error);
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

/// Runs something that blocks (files, hashes) outside the runtime's thread.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
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
