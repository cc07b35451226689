//! Limits on what one partner's transfers take of this node, and one transfer of its partner's
//! share.
//!
//! Partners are approved, but not trusted with everything: none can exclude the others by asking
//! for everything at once. `docs/security.md` ("Limits") lists the limits of other crates.
//!
//! Each limit has a name ([`Limit`]), under which a node counts how often it was reached.

use std::time::Duration;

use culvert_link::layout::FLOWS_PER_LANE;
use culvert_objects::fs::sources::SOURCES_PER_REQUEST;
use culvert_system::descriptors::descriptors_to_share;

use crate::open_files;

/// The largest measurement that a partner may request, in bytes: an hour at 100 Gb/s.
pub const MEASURE_BYTES_MAX: u64 = 45_000_000_000_000;
/// Concurrent transfers and path checks of all partners.
pub const SESSIONS_MAX: usize = 256;
/// Concurrent sessions of one partner. A partner may also hold at most as many as are still free,
/// so each leaves at least half of what it found.
pub const SESSIONS_PER_PARTNER: usize = SESSIONS_MAX / 2;
/// The last sessions, reserved for partners that have none.
pub const SESSIONS_RESERVED: usize = SESSIONS_MAX / 16;
/// Bytes that the manifests and chunk maps of one partner's transfers may take together: enough for
/// several transfers of a million files. Listings made for the partner count too.
pub const MANIFEST_BYTES_PER_PARTNER: u64 = 2 << 30;
// Invariant I-journal-room: a journal may be as long as the manifests of one partner's transfers.
const _: () = assert!(
    culvert_journal::JOURNAL_BYTES_MAX >= MANIFEST_BYTES_PER_PARTNER,
    "a journal holds what the manifests of a partner's transfers name"
);

/// Flows of one transfer in a lane, of the lane's 256. A partner also holds at most as many as are
/// still free, so each leaves at least half of what it found.
pub const FLOWS_PER_TRANSFER_AND_LANE: usize = FLOWS_PER_LANE as usize / 4;

/// How long a transfer may make no progress while its partner holds more than its share of a lane's
/// buffers and another partner waits for one. Then it is ended.
pub const HOLDING_PATIENCE: Duration = Duration::from_secs(5);

/// Concurrent listings for one partner, each on a thread of its own.
pub const LISTINGS_PER_PARTNER: usize = 2;
/// Concurrent listings for all partners.
pub const LISTINGS_MAX: usize = 32;
/// How long a transfer waits for its listing to start.
pub const LISTING_WAIT: Duration = Duration::from_secs(60);

/// Records of ended transfers that one partner requested; the oldest are removed first.
pub const RECORDS_PER_PARTNER: usize = 2_000;
/// Bytes of those records; the oldest are removed first.
pub const RECORD_BYTES_PER_PARTNER: usize = 16 << 20;

/// Receipts of transfers with one partner; the oldest are removed first. They take 80 MB on most
/// file systems, and few pairs of nodes ever exchange as many.
pub const RECEIPTS_PER_PARTNER: usize = 20_000;
/// Journals of one partner's running and abandoned transfers; of the latter, those without useful
/// content are removed first, then the oldest.
pub const JOURNALS_PER_PARTNER: usize = 2 * SESSIONS_PER_PARTNER;
/// How long a journal is kept whose partner does not return.
pub const JOURNAL_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// One helper thread hashes the holes of one partner's transfers; it then rests for this many times
/// as long as it hashed.
pub const HOLE_HASHING_REST: u32 = 1;

/// Open files with chunks of their own, for one partner's transfers.
#[must_use]
pub fn files_per_partner() -> usize {
    (open_files::at_once_max() / 4).max(4)
}

/// Open sources, for one partner's transfers.
#[must_use]
pub fn sources_per_partner() -> usize {
    let descriptors = usize::try_from(descriptors_to_share()).unwrap_or(usize::MAX);
    (descriptors / 8).clamp(16, 2 * SOURCES_PER_REQUEST)
}

/// A limit that a partner has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`SESSIONS_PER_PARTNER`], [`SESSIONS_MAX`], [`SESSIONS_RESERVED`]: a partner was told to try
    /// again later.
    Sessions,
    /// [`MANIFEST_BYTES_PER_PARTNER`].
    ManifestBytes,
    /// [`FLOWS_PER_TRANSFER_AND_LANE`] and the free half: a transfer got fewer flows, or none.
    Flows,
    /// [`HOLDING_PATIENCE`]: a transfer was ended because of the buffers it held.
    Buffers,
    /// [`files_per_partner`]: a file waited, or was closed for another.
    Files,
    /// [`LISTINGS_PER_PARTNER`], [`LISTINGS_MAX`]: a listing waited.
    Listings,
    /// [`SOURCES_PER_REQUEST`], [`sources_per_partner`].
    Sources,
    /// [`RECORDS_PER_PARTNER`], [`RECORD_BYTES_PER_PARTNER`]: a record was removed.
    Records,
    /// [`RECEIPTS_PER_PARTNER`]: a receipt was removed.
    Receipts,
    /// [`JOURNALS_PER_PARTNER`]: a journal was removed.
    Journals,
}

impl Limit {
    /// All of them, for metrics.
    pub const ALL: [Self; 10] = [
        Self::Sessions,
        Self::ManifestBytes,
        Self::Flows,
        Self::Buffers,
        Self::Files,
        Self::Listings,
        Self::Sources,
        Self::Records,
        Self::Receipts,
        Self::Journals,
    ];

    /// The word in metrics.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Sessions => "sessions",
            Self::ManifestBytes => "manifest_bytes",
            Self::Flows => "flows",
            Self::Buffers => "buffers",
            Self::Files => "files",
            Self::Listings => "listings",
            Self::Sources => "sources",
            Self::Records => "records",
            Self::Receipts => "receipts",
            Self::Journals => "journals",
        }
    }
}
