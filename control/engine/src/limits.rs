//! What transfers of a partner may take of this node: by partner first, then by transfer.
//!
//! Partners are approved, but not trusted with everything: none can keep the others out by asking
//! for all that there is. Where the other limits are, `docs/security.md` says ("Limits").
//!
//! Each limit has a name ([`Limit`]), under which a node counts how often it was reached.

use std::time::Duration;

use culvert_link::layout::FLOWS_PER_LANE;
use culvert_objects::fs::sources::SOURCES_PER_REQUEST;
use culvert_system::descriptors::descriptors_to_share;

use crate::transfer::open_files;

/// Bytes of a measurement that a partner may ask for: an hour at 100 Gb/s.
pub const MEASURE_BYTES_MAX: u64 = 45_000_000_000_000;
/// Transfers and path checks of all partners that run at once.
pub const SESSIONS_MAX: usize = 256;
/// Sessions of one partner. It may also have at most as many as are free besides, so each partner
/// leaves half of what it found.
pub const SESSIONS_PER_PARTNER: usize = SESSIONS_MAX / 2;
/// The last of them are for partners that have none.
pub const SESSIONS_RESERVED: usize = SESSIONS_MAX / 16;
/// Bytes that manifests and chunk maps of one partner's transfers may take together: several
/// transfers of a million files. What is listed for a partner counts too.
pub const MANIFEST_BYTES_PER_PARTNER: u64 = 2 << 30;

/// Flows of one transfer in a lane, of the lane's 256. Beside it a partner has at most as many as
/// are free, so each partner leaves at least half of what it found.
pub const FLOWS_PER_TRANSFER_AND_LANE: usize = FLOWS_PER_LANE as usize / 4;

/// A transfer whose partner has more than its share of a lane's buffers, while another partner
/// waits for one, is ended if it makes no progress for this long.
pub const HOLDING_PATIENCE: Duration = Duration::from_secs(5);

/// Listings for one partner that run at once, each on a thread of its own.
pub const LISTINGS_PER_PARTNER: usize = 2;
/// Listings for all partners that run at once.
pub const LISTINGS_MAX: usize = 32;
/// How long a transfer waits for its listing to begin.
pub const LISTING_WAIT: Duration = Duration::from_secs(60);

/// Records of ended transfers that one partner asked for; the oldest go first.
pub const RECORDS_PER_PARTNER: usize = 2_000;
/// Bytes of those records; the oldest go first.
pub const RECORD_BYTES_PER_PARTNER: usize = 16 << 20;

/// Receipts of transfers with one partner; the oldest go first. 80 MB on most file systems, and
/// more than most pairs of nodes exchange in their life.
pub const RECEIPTS_PER_PARTNER: usize = 20_000;
/// Journals of one partner's transfers, those that run and those that were given up; of the latter
/// those that say least go first.
pub const JOURNALS_PER_PARTNER: usize = 2 * SESSIONS_PER_PARTNER;
/// A journal whose partner does not come back is kept this long.
pub const JOURNAL_AGE: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Holes of one partner's transfers are hashed by one helper, which then rests for this many times
/// as long as it hashed.
pub const HOLE_HASHING_REST: u32 = 1;

/// Files with chunks of their own that are open for one partner's transfers.
#[must_use]
pub fn files_per_partner() -> usize {
    (open_files::at_once_max() / 4).max(4)
}

/// Sources that are open for one partner's transfers.
#[must_use]
pub fn sources_per_partner() -> usize {
    let descriptors = usize::try_from(descriptors_to_share()).unwrap_or(usize::MAX);
    (descriptors / 8).clamp(16, 2 * SOURCES_PER_REQUEST)
}

/// A limit that a partner has reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// [`SESSIONS_PER_PARTNER`], [`SESSIONS_MAX`], [`SESSIONS_RESERVED`]: somebody was told to come
    /// again.
    Sessions,
    /// [`MANIFEST_BYTES_PER_PARTNER`].
    ManifestBytes,
    /// [`FLOWS_PER_TRANSFER_AND_LANE`] and what goes with it: fewer flows, or none.
    Flows,
    /// [`HOLDING_PATIENCE`]: a transfer was ended for the buffers that it held.
    Buffers,
    /// [`files_per_partner`]: a file waited, or was closed for another.
    Files,
    /// [`LISTINGS_PER_PARTNER`], [`LISTINGS_MAX`]: a listing waited.
    Listings,
    /// [`SOURCES_PER_REQUEST`], [`sources_per_partner`].
    Sources,
    /// [`RECORDS_PER_PARTNER`], [`RECORD_BYTES_PER_PARTNER`]: a record was forgotten.
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
