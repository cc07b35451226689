//! Transfers: what both directions have in common, and what comes out of them.
//!
//! A transfer is one task over one control connection. [`sending`] drives it where the data comes from, [`receiving`] where it
//! goes to; who asked for it does not matter to either. Any failure ends the task; a temporary one is
//! tried again from the journal by whoever asked.

pub mod bit_set;
pub mod flows;
pub mod manifest_exchange;
pub mod packs;
pub mod patience;
pub mod receiving;
pub mod result;
pub mod sending;
pub mod usage;

use std::sync::Arc;

use culvert_protocol::control::{FileError, Options, Refusal, RefusalCode, TransferId};
use culvert_protocol::identity::{Identity, to_hex};
use culvert_protocol::manifest::{EntryKind, Manifest};
use culvert_protocol::tree_hash::ChunkHash;
use tokio::sync::watch;

use crate::connection::{Connection, ConnectionError};
use crate::dataplane::{DataPlane, DataPlaneError};
use crate::metrics::Metrics;
use crate::shares::Share;

/// Errors of single files that a result lists; the rest are counted.
pub const ERRORS_LISTED_MAX: usize = 1_000;

/// Why a transfer ended without a result.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The partner refuses or gives up.
    #[error("{0}")]
    Partner(Refusal),
    /// This side refuses or gives up; the partner is told.
    #[error("{0}")]
    Here(Refusal),
    /// The partner's key is not the one that its profile names.
    #[error("{0}")]
    KeyChanged(String),
    /// The connection.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The data plane.
    #[error(transparent)]
    DataPlane(#[from] DataPlaneError),
}

impl TransferError {
    /// This side gives up.
    #[must_use]
    pub fn here(code: RefusalCode, text: impl Into<String>) -> Self {
        Self::Here(Refusal::new(code, text))
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
            Self::Connection(_) | Self::DataPlane(DataPlaneError::Died(_) | DataPlaneError::NoRoom(_)) => {
                RefusalCode::Temporary
            }
            Self::DataPlane(_) => RefusalCode::Failed,
        }
    }

    /// What `culvert send` exits with (the contract's exit codes).
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        if matches!(self, Self::KeyChanged(_)) {
            return 12;
        }
        match self.code() {
            RefusalCode::UnknownKey | RefusalCode::NotPermitted => 4,
            RefusalCode::NotFound => 3,
            RefusalCode::Temporary => 5,
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

    /// Whether another try may succeed.
    #[must_use]
    pub fn is_temporary(&self) -> bool {
        self.code() == RefusalCode::Temporary
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
#[derive(Clone, Copy, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
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
    /// Where measurements go.
    pub metrics: Arc<Metrics>,
    /// The partner's name in them.
    pub peer: String,
    /// How long the transfer may get nowhere; none for ever.
    pub patience: Option<std::time::Duration>,
    /// What the transfer takes of the partner's share of this node.
    pub share: Share,
}

impl TransferContext {
    /// Waits until somebody cancels.
    pub async fn canceled(cancel: &mut watch::Receiver<bool>) {
        // If the canceler is gone nobody will.
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
}

impl ErrorList {
    /// Adds one.
    pub fn push(&mut self, error: FileError) {
        self.count += 1;
        if self.listed.len() < ERRORS_LISTED_MAX {
            self.listed.push(error);
        }
    }
}

/// Bytes of a listing that are hashed at once: BLAKE3 is at its widest from 16 KiB on.
const LISTING_STEP_BYTES: usize = 64 << 10;

/// The root of what was stored: one file's hash as `b3sum` prints it, or the hash of `b3sum`'s listing of several files in the
/// manifest's order.
#[must_use]
pub fn root_of(manifest: &Manifest, hashes: &[ChunkHash], is_stored: impl Fn(u32) -> bool) -> String {
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
        for part in [blake3::Hash::from_bytes(hash).to_hex().as_bytes(), b"  ", entry.name, b"\n"] {
            lines.extend_from_slice(part);
        }
        if lines.len() >= LISTING_STEP_BYTES {
            listing.update(&lines);
            lines.clear();
        }
    }
    listing.update(&lines).finalize().to_hex().to_string()
}

/// A file's hash; an empty file's is known without sending it.
fn hash_of_file(manifest: &Manifest, hashes: &[ChunkHash], file: u32) -> ChunkHash {
    match manifest.file_bytes(file) {
        Some(0) => *blake3::hash(&[]).as_bytes(),
        _ => hashes[file as usize],
    }
}

/// Runs something that blocks (files, hashes) beside the runtime.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
