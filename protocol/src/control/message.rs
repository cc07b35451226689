//! The messages.

use serde::{Deserialize, Serialize};

use super::files::{FileError, LeftOut};
use super::plan::{FlowOffer, Run};
use super::refusal::Refusal;
use super::request::{Accepted, Request};
use super::summaries::{ReceiverSummary, SenderSummary};
use crate::tree_hash::ChunkHash;

/// Everything that two nodes say to each other.
///
/// Variants are only ever appended (wire.md W-32: "a change of meaning requires a new protocol
/// version").
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    /// The first message in both directions (wire.md W-33: "both ends start with `Hello`").
    Hello {
        /// The oldest protocol version that the speaker can use.
        version_min: u16,
        /// The newest.
        version_max: u16,
        /// `culvert 0.1.0`, for logs.
        #[serde(deserialize_with = "crate::foreign_text::deserialize")]
        software: String,
        /// What the node calls itself, for the list of pending keys.
        #[serde(deserialize_with = "crate::foreign_text::deserialize")]
        name: String,
    },
    /// Asks for a transfer.
    Request(Request),
    /// Says yes.
    Accepted(Accepted),
    /// Says no, or that the transfer ends here; nothing follows (wire.md W-44: "may be sent at any
    /// time and ends the transfer").
    Refused(Refusal),
    /// Entries of the manifest, see [`encode_entry`].
    ///
    /// [`encode_entry`]: super::encode_entry
    ManifestPart(Vec<u8>),
    /// The manifest is complete.
    ManifestEnd {
        /// How many entries it has.
        entries: u32,
        /// [`crate::manifest::Manifest::digest`].
        digest: [u8; 32],
        /// Bytes that the files take on the sender's disk: what the destination needs room for.
        allocated_bytes: u64,
        /// Whether the user named exactly one source, and it is a regular file: it may take the
        /// destination's name.
        is_single_file: bool,
    },
    /// Entries that need not be sent, because the destination has them (wire.md W-38: "the receiver
    /// answers with its plan": this, [`Message::Resumed`], [`Message::Proofs`] and
    /// [`Message::PlanEnd`]).
    PlanPart {
        /// The entries.
        skipped: Vec<Run>,
    },
    /// Files that an earlier attempt stored whole, with the hashes that it verified; they are not
    /// sent.
    Resumed(Vec<(u32, ChunkHash)>),
    /// Chunks that an earlier attempt stored, or that the file to be replaced contains, with the
    /// hashes of what is stored now.
    Proofs(Vec<(u32, ChunkHash)>),
    /// The plan is complete: the sender may begin.
    PlanEnd {
        /// The flows.
        flows: Vec<FlowOffer>,
        /// Bytes of the files and chunks that [`Message::Resumed`] and [`Message::Proofs`] named.
        stored_bytes: u64,
    },
    /// The sender's source has these chunks with the hashes that [`Message::Proofs`] named; they
    /// are not sent (wire.md W-39: "it sends `Proven` instead of the chunk").
    Proven(Vec<u32>),
    /// A report of a flow ([`crate::feedback`]).
    Feedback(Vec<u8>),
    /// Hashes of chunks that are a range of a file.
    ChunkHashes(Vec<(u32, ChunkHash)>),
    /// Hashes of the files of a pack, in its order; none if the transfer has none, and partners of
    /// version [`PACKS_ARE_TOLD_SINCE`] get the message then too (wire.md W-55: "for every pack
    /// after reading it").
    ///
    /// [`PACKS_ARE_TOLD_SINCE`]: super::PACKS_ARE_TOLD_SINCE
    PackHashes {
        /// The chunk.
        chunk: u32,
        /// One for each of its files.
        hashes: Vec<ChunkHash>,
    },
    /// Chunks that are holes of their sparse files, and their hashes if the transfer has hashes.
    Holes(Vec<(u32, ChunkHash)>),
    /// Files with chunks of their own of which every chunk was delivered and which did not change
    /// while they were read, and their hashes (zero if the transfer has none). Only then they may
    /// get their names (wire.md W-41: "all chunks of a file are delivered and the file has not
    /// changed since it was listed").
    FilesComplete(Vec<(u32, ChunkHash)>),
    /// The sender gives a file up.
    FileFailed(FileError),
    /// The receiver gives a file up.
    FileRefused(FileError),
    /// These chunks are on stable storage (wire.md W-42).
    Stored(Vec<Run>),
    /// The bytes of these chunks did not have the sender's hash: send them again (wire.md W-40: "it
    /// requests a chunk that differs with `SendAgain`").
    SendAgain(Vec<u32>),
    /// Every chunk was delivered or given up, and every hash sent.
    AllSent(SenderSummary),
    /// Everything is stored: the receipt's statement and the receiver's signature.
    Finished {
        /// [`crate::receipt::Statement::to_line`].
        line: String,
        /// The receiver's signature over it.
        signature: Vec<u8>,
        /// The rest of what the receiver knows.
        summary: ReceiverSummary,
    },
    /// The sender's signature over the same line. The transfer is over.
    Countersigned {
        /// The signature.
        signature: Vec<u8>,
    },
    /// Asks for a [`Message::Pong`] with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// The first things that the sender left out, for the receiver's user;
    /// [`SenderSummary::problems`] counts all of them.
    LeftOut(Vec<LeftOut>),
    /// A path check's conversation, instead of a transfer's (wire.md W-46: "in place of a
    /// `Request`"). Only to partners of version [`PATH_CHECKS_SINCE`].
    ///
    /// [`PATH_CHECKS_SINCE`]: super::PATH_CHECKS_SINCE
    Path(crate::path::PathMessage),
    /// The receiver wants a flow sent from another port, so that its NIC gives it to the right
    /// lane. Only to partners of version [`MOVES_SINCE`].
    ///
    /// [`MOVES_SINCE`]: super::MOVES_SINCE
    MoveFlow {
        /// The flow.
        flow_id: u32,
        /// The port, from the dynamic range (RFC 6335: 49152 and above).
        source_port: u16,
    },
    /// Files and directories that are stored without some of their attributes, because the
    /// destination refuses these (W-57). Before [`Message::Finished`], and only to partners of
    /// version [`NOT_KEPT_IS_TOLD_SINCE`].
    ///
    /// [`NOT_KEPT_IS_TOLD_SINCE`]: super::NOT_KEPT_IS_TOLD_SINCE
    NotKept {
        /// The number of entries.
        count: u64,
        /// The first of them, at most [`NOT_KEPT_LISTED_MAX`]; a word is `mode`, `time` or
        /// `mode_and_time`.
        ///
        /// [`NOT_KEPT_LISTED_MAX`]: super::NOT_KEPT_LISTED_MAX
        first: Vec<FileError>,
    },
    /// What a dry run found (W-58). Only in a dry run, and only to partners of version
    /// [`DRY_RUNS_ARE_TOLD_SINCE`].
    ///
    /// [`DRY_RUNS_ARE_TOLD_SINCE`]: super::DRY_RUNS_ARE_TOLD_SINCE
    DryRun(crate::dry_run::Finding),
    /// The contents of one directory are sent, which has this mode (W-59). The destination gets the
    /// mode if this transfer creates it. Before [`Message::ManifestEnd`], at most once, and only to
    /// partners of version [`CONTENTS_HAVE_A_MODE_SINCE`].
    ///
    /// [`CONTENTS_HAVE_A_MODE_SINCE`]: super::CONTENTS_HAVE_A_MODE_SINCE
    ContentsOf {
        /// Nine bits.
        mode: u16,
    },
    /// What the speaker lets the other end do here (W-60). Before the [`Message::Pong`] to a
    /// [`Message::Ping`] in the place of a request, and only to partners of version
    /// [`PERMISSIONS_ARE_TOLD_SINCE`].
    ///
    /// [`PERMISSIONS_ARE_TOLD_SINCE`]: super::PERMISSIONS_ARE_TOLD_SINCE
    Permits {
        /// Whether it may store files.
        store: PermissionAnswer,
        /// Whether it may fetch files.
        fetch: PermissionAnswer,
    },
    /// The sender's own host refuses to send its datagrams (W-61): no flow of the transfer has
    /// reached the receiver, and the receiver's firewall is not the reason. Only to partners of
    /// version [`OWN_FIREWALLS_ARE_TOLD_SINCE`].
    ///
    /// [`OWN_FIREWALLS_ARE_TOLD_SINCE`]: super::OWN_FIREWALLS_ARE_TOLD_SINCE
    RefusedHere,
}

/// Whether a partner may do something. Which directories it is about is not told.
///
/// Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PermissionAnswer {
    /// It may not.
    No,
    /// It may, in one directory or more.
    Yes,
    /// It may, but the account there cannot use any of the directories.
    Unusable,
}
