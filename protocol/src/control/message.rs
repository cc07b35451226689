//! The messages.

use serde::{Deserialize, Serialize};

use super::files::{FileError, LeftOut};
use super::plan::{FlowOffer, Run};
use super::refusal::Refusal;
use super::request::{Accepted, Request};
use super::summaries::{ReceiverSummary, SenderSummary};
use crate::tree_hash::ChunkHash;

//= W-32
//# Messages are variants of one enumeration. Variants are only ever appended; a change of meaning
//# requires a new protocol version.
/// Everything that two nodes say to each other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    //= W-33
    //# Both ends start with `Hello` (oldest and newest protocol version, software, name).
    /// The first message in both directions.
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
    //= W-44
    //# `Refused` may be sent at any time and ends the transfer with a code and an explanation.
    /// Says no, or that the transfer ends here; nothing follows.
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
    //= W-38
    //# The receiver answers with its plan: `PlanPart` (what need not be sent), `Resumed` (files
    //# stored by an earlier attempt), `Proofs` (hashes, freshly read back, of chunks stored by an
    //# earlier attempt or contained in the file to be replaced), `PlanEnd` with the flows.
    /// Entries that need not be sent, because the destination has them.
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
    //= W-39
    //# If a sender's source has a chunk listed in `Proofs` with the same hash, it sends `Proven`
    //# instead of the chunk.
    /// The sender's source has these chunks with the hashes that [`Message::Proofs`] named; they
    /// are not sent.
    Proven(Vec<u32>),
    /// A report of a flow ([`crate::feedback`]).
    Feedback(Vec<u8>),
    /// Hashes of chunks that are a range of a file.
    ChunkHashes(Vec<(u32, ChunkHash)>),
    //= W-55
    //# Since version 5, a sender sends `PackHashes` for every pack after reading it, without hashes
    //# if the transfer has none.
    /// Hashes of the files of a pack, in its order; none if the transfer has none, and partners of
    /// version [`PACKS_ARE_TOLD_SINCE`] get the message then too.
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
    //= W-41
    //# `FilesComplete` follows when all chunks of a file are delivered and the file has not changed
    //# since it was listed. Only then may the file get its name.
    /// Files with chunks of their own, and their hashes (zero if the transfer has none).
    FilesComplete(Vec<(u32, ChunkHash)>),
    /// The sender gives a file up.
    FileFailed(FileError),
    /// The receiver gives a file up.
    FileRefused(FileError),
    //= W-42
    //# `Stored` lists chunks that are on stable storage.
    /// These chunks are on stable storage.
    Stored(Vec<Run>),
    //= W-40
    //# It requests a chunk that differs with `SendAgain`, at most three times, and only if the
    //# chunk was sent.
    /// The bytes of these chunks did not have the sender's hash: send them again.
    SendAgain(Vec<u32>),
    /// Every chunk was delivered or given up, and every hash sent.
    AllSent(SenderSummary),
    //= W-43
    //# `Finished` carries the receiver's signed statement of what it stored. The sender checks it
    //# against what it sent and answers with its own signature over the same text
    //# (`Countersigned`).
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
    //= W-45
    //# `Ping` and `Pong` keep it open; an end that spends a long time listing, planning or proving
    //# sends `Ping` meanwhile.
    /// Asks for a [`Message::Pong`] with the same number.
    Ping(u64),
    /// The answer.
    Pong(u64),
    /// The first things that the sender left out, for the receiver's user;
    /// [`SenderSummary::problems`] counts all of them.
    LeftOut(Vec<LeftOut>),
    //= W-46
    //# Since version 2, the connecting end may send `Path(Ask)` in place of a `Request`. A path
    //# check follows instead of a transfer
    /// A path check's conversation. Only to partners of version [`PATH_CHECKS_SINCE`].
    ///
    /// [`PATH_CHECKS_SINCE`]: super::PATH_CHECKS_SINCE
    Path(crate::path::PathMessage),
    //= W-48
    //# Since version 4, the receiver may send `MoveFlow` to request that a flow be sent from
    //# another UDP port of the sender, 49152 or above.
    /// The receiver wants a flow sent from another port, so that its NIC gives it to the right
    /// lane. Only to partners of version [`MOVES_SINCE`].
    ///
    /// [`MOVES_SINCE`]: super::MOVES_SINCE
    MoveFlow {
        /// The flow.
        flow_id: u32,
        /// The port, from the dynamic range (RFC 6335).
        source_port: u16,
    },
    //= W-57
    //# Since version 6, the receiver sends `NotKept` before `Finished`. It says how many files and
    //# directories were stored without some of their attributes because the destination refused
    //# them.
    /// Files and directories that are stored without some of their attributes, because the
    /// destination refuses these. Before [`Message::Finished`], and only to partners of
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
    //= W-58
    //# Since version 7, both ends of a dry run report their findings with `DryRun`
    /// What a dry run found. Only in a dry run, and only to partners of version
    /// [`DRY_RUNS_ARE_TOLD_SINCE`].
    ///
    /// [`DRY_RUNS_ARE_TOLD_SINCE`]: super::DRY_RUNS_ARE_TOLD_SINCE
    DryRun(crate::dry_run::Finding),
    //= W-59
    //# Since version 7, a sender whose manifest is the contents of one directory sends that
    //# directory's mode (nine bits) with `ContentsOf`, before `ManifestEnd` and at most once.
    /// The contents of one directory are sent, which has this mode. The destination gets the
    /// mode if this transfer creates it. Before [`Message::ManifestEnd`], at most once, and only to
    /// partners of version [`CONTENTS_HAVE_A_MODE_SINCE`].
    ///
    /// [`CONTENTS_HAVE_A_MODE_SINCE`]: super::CONTENTS_HAVE_A_MODE_SINCE
    ContentsOf {
        /// Nine bits.
        mode: u16,
    },
    //= W-60
    //# Since version 8, an end that receives `Ping` in place of a `Request` (W-35) sends `Permits`
    //# before its `Pong`. It says whether the asking end may store files with it and whether it may
    //# fetch any
    /// What the speaker lets the other end do here. Before the [`Message::Pong`] to a
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
    //= W-61
    //# Since version 8, a sender whose own host refuses to send its first datagrams (`EPERM`: a
    //# rule of the host's output chain) says so with `RefusedHere`, at most once, after `PlanEnd`.
    /// The sender's own host refuses to send its datagrams: no flow of the transfer has
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
