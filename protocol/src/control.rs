//! The messages of the control connection, and how they are framed.
//!
//! A frame is a length (four bytes, big-endian, at most [`FRAME_BYTES_MAX`]) and a [`Message`] in
//! postcard's encoding. Variants are only ever appended; a changed meaning is a new
//! [`PROTOCOL_VERSION`]. `docs/wire.md` W-30 … W-45 tell the order of the conversation:
//!
//! ```text
//! requester                          answerer
//!   Hello  ───────────────────────────> <─────────────────────────── Hello
//!   Request ──────────────────────────>
//!                                       <──────────────── Accepted │ Refused
//! data's sender                      data's receiver
//!   ManifestPart …, DryRun, ManifestEnd >
//!                                       <── PlanPart …, Resumed …, Proofs …, DryRun …, PlanEnd
//!   ChunkHashes, PackHashes, Holes ───>  <──── Feedback, Stored, SendAgain, MoveFlow
//!   Proven, FilesComplete, FileFailed >  <──── FileRefused
//!   AllSent ──────────────────────────>
//!                                       <──── NotKept, Finished (the statement, signed)
//!   Countersigned ────────────────────>
//! ```

use serde::{Deserialize, Serialize};

use crate::chunk_map::CHUNK_BYTES_DEFAULT;
use crate::foreign_text::foreign_text;
use crate::manifest::Entry;
use crate::rate_control::Mode;
use crate::seal::Cipher;
use crate::tree_hash::ChunkHash;
use crate::verdict::{SenderTimes, Verdict};

/// The newest version of the control protocol that this program speaks.
pub const PROTOCOL_VERSION: u16 = 8;
/// The version since which partners answer path checks ([`Message::Path`]).
pub const PATH_CHECKS_SINCE: u16 = 2;
/// The version since which partners compare files by their chunks ([`Overwrite::Content`]).
pub const CONTENT_SINCE: u16 = 3;
/// The version since which senders change a flow's source port on request ([`Message::MoveFlow`]).
pub const MOVES_SINCE: u16 = 4;
/// The version since which senders say of every pack that it was read ([`Message::PackHashes`]),
/// also without checksums.
pub const PACKS_ARE_TOLD_SINCE: u16 = 5;
/// The version since which the root of a tree is over escaped names (W-43).
pub const NAMES_ARE_ESCAPED_SINCE: u16 = 5;
/// The version since which receivers say which attributes were refused ([`Message::NotKept`]).
pub const NOT_KEPT_IS_TOLD_SINCE: u16 = 6;
/// The version since which both ends say what a dry run found ([`Message::DryRun`]).
pub const DRY_RUNS_ARE_TOLD_SINCE: u16 = 7;
/// The version since which partners are told that a transfer is paused, and not that it was
/// canceled.
pub const PAUSES_ARE_TOLD_SINCE: u16 = 7;
/// The first protocol version that transmits the mode of a directory whose contents are sent
/// ([`Message::ContentsOf`]).
pub const CONTENTS_HAVE_A_MODE_SINCE: u16 = 7;
/// The version since which who asks whether it is known hears what it may do
/// ([`Message::Permits`]).
pub const PERMISSIONS_ARE_TOLD_SINCE: u16 = 8;
/// The first version in which a sender says that its own host refuses what it sends
/// ([`Message::RefusedHere`]).
pub const OWN_FIREWALLS_ARE_TOLD_SINCE: u16 = 8;
/// The version since which a dry run tells files that get another mode and no bytes
/// ([`Fate::SameButMode`]), and inodes.
///
/// [`Fate::SameButMode`]: crate::dry_run::Fate::SameButMode
pub const SAME_MODES_ARE_TOLD_SINCE: u16 = 8;
/// The oldest.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
/// The longest frame (wire.md W-31: "at most 256 KiB"). A list that does not fit is sent in parts.
pub const FRAME_BYTES_MAX: usize = 256 << 10;
/// Senders of lists close a message at this size, well below the frame's limit.
pub const LIST_BYTES: usize = 48 << 10;
/// The most entries that a [`Message::NotKept`] names.
pub const NOT_KEPT_LISTED_MAX: usize = 16;
/// The most flows of a transfer.
pub const FLOWS_MAX: u16 = 256;

/// A transfer's id: 128 bits, made by the requester, written as a ULID.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TransferId(pub u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl std::fmt::Display for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        (0..26u32).rev().try_for_each(|at| {
            use std::fmt::Write as _;
            let digit = self.0.unbounded_shr(at.saturating_mul(5)) & 31;
            f.write_char(CROCKFORD.iter().zip(0..).find(|&(_, value)| value == digit).map_or('?', |(&c, _)| c.into()))
        })
    }
}

impl std::fmt::Debug for TransferId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TransferId({self})")
    }
}

impl std::str::FromStr for TransferId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let not_an_id = || {
            let text = foreign_text(text);
            format!("'{text}' is not a transfer id: ids have 26 characters, like 01JD3V5K6A0000000000000000")
        };
        if text.len() != 26 || text.bytes().next().is_none_or(|first| first > b'7') {
            return Err(not_an_id());
        }
        text.bytes()
            .try_fold(0u128, |bits, byte| {
                let digit = CROCKFORD.iter().position(|&symbol| symbol == byte.to_ascii_uppercase());
                digit.map(|digit| bits << 5 | digit as u128).ok_or_else(not_an_id)
            })
            .map(Self)
    }
}

impl TransferId {
    /// An id from the time and 80 random bits, as ULIDs are made: ids sort by time.
    #[must_use]
    pub const fn new(unix_ms: u64, random: u128) -> Self {
        Self((unix_ms as u128) << 80 | random & ((1 << 80) - 1))
    }
}

/// What to do with a destination file that already exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overwrite {
    /// A file of the same size and time is skipped; any other refuses the transfer before its first
    /// byte.
    #[default]
    Never,
    /// A file of the same size and time is skipped; any other is replaced.
    Changed,
    /// Every file is replaced.
    Always,
    /// Files with chunks of their own are compared by the hashes of these chunks, whatever their
    /// size and time, and equal chunks are not sent (wire.md W-47: "the options may request
    /// `content` for existing files"). Other files are treated as in [`Overwrite::Changed`]. Only
    /// to partners of version [`CONTENT_SINCE`].
    Content,
}

impl std::str::FromStr for Overwrite {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "never" => Ok(Self::Never),
            "changed" => Ok(Self::Changed),
            "always" => Ok(Self::Always),
            "content" => Ok(Self::Content),
            _ => Err(format!("unknown policy '{name}': write never, changed, content or always")),
        }
    }
}

/// How a transfer is to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Options {
    /// Chunk size, a power of two.
    pub chunk_bytes: u32,
    /// Whether chunks and files are hashed.
    pub checksum: bool,
    /// The cipher.
    pub cipher: Cipher,
    /// What to do with existing files.
    pub overwrite: Overwrite,
    /// Whether modes and times are set as they were.
    pub preserve: bool,
    /// How many flows; 0 leaves it to the nodes.
    pub flows: u16,
    /// How others on the path are treated.
    pub mode: Mode,
    /// The rate of all flows together, if one was asked for.
    pub rate_bits_per_second: Option<u64>,
    /// Only plan: report what would be sent.
    pub dry_run: bool,
}

impl Default for Options {
    /// What a user asks for who asks for nothing in particular.
    fn default() -> Self {
        Self {
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            checksum: true,
            cipher: Cipher::default(),
            overwrite: Overwrite::default(),
            preserve: false,
            flows: 0,
            mode: Mode::default(),
            rate_bits_per_second: None,
            dry_run: false,
        }
    }
}

/// What the requester wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// The requester sends; the answerer stores below `destination`.
    Push {
        /// A path on the answerer's host, as the user typed it.
        destination: Vec<u8>,
    },
    /// The answerer sends these of its files, listed as the requester would list its own.
    Pull {
        /// Paths on the answerer's host.
        sources: Vec<Vec<u8>>,
    },
    /// The requester sends bytes from memory, which the answerer verifies and forgets: a
    /// measurement of everything but the disks.
    Measure {
        /// How many bytes.
        bytes: u64,
    },
}

/// Asks for a transfer (wire.md W-35: "the connecting end sends one `Request`").
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The transfer. A request repeated with the same id continues where it was interrupted.
    pub transfer: TransferId,
    /// What for.
    pub wish: Wish,
    /// How.
    pub options: Options,
    /// UDP ports of the requester's lanes.
    pub lane_ports: Vec<u16>,
    /// The requester's largest datagram, from its interfaces' MTU.
    pub datagram_bytes_max: u16,
}

/// Says yes to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {
    /// UDP ports of the answerer's lanes.
    pub lane_ports: Vec<u16>,
    /// The answerer's largest datagram.
    pub datagram_bytes_max: u16,
}

/// Why something is refused or given up; decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The partner does not know this key, or has not approved it yet (wire.md W-34: "refuses with
    /// `unknown_key`").
    UnknownKey,
    /// The partner's profile does not permit this.
    NotPermitted,
    /// A source or destination does not exist.
    NotFound,
    /// A destination file exists already.
    Collision,
    /// The destination has not enough room.
    NoSpace,
    /// The two programs have no protocol version in common.
    Version,
    /// A message or request that the protocol does not allow.
    Protocol,
    /// Something that may work later.
    Temporary,
    /// A user canceled the transfer.
    Canceled,
    /// Hashes do not agree.
    Verification,
    /// Anything else: disk errors and the like.
    Failed,
    /// There is nothing to send.
    NothingToDo,
    /// The requester has paused the transfer. Only to partners of version
    /// [`PAUSES_ARE_TOLD_SINCE`]; others receive [`RefusalCode::Canceled`].
    Interrupted,
}

impl RefusalCode {
    /// The contract's word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::UnknownKey => "unknown_key",
            Self::NotPermitted => "not_permitted",
            Self::NotFound => "not_found",
            Self::Collision => "collision",
            Self::NoSpace => "no_space",
            Self::Version => "version",
            Self::Protocol => "protocol",
            Self::Temporary => "temporary",
            Self::Canceled => "canceled",
            Self::Verification => "verification",
            Self::Failed => "failed",
            Self::NothingToDo => "nothing_to_do",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A refusal, or the end of a transfer that cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    /// The kind.
    pub code: RefusalCode,
    /// What failed, on what, why, and what to do next.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub text: String,
}

impl Refusal {
    /// A refusal. Its text may quote foreign text, so it is sanitized, and short enough for a
    /// message, a log or a record.
    #[must_use]
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        Self { code, text: foreign_text(&text.into()) }
    }
}

/// One flow, as its receiver offers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowOffer {
    /// Its id.
    pub flow_id: u32,
    /// The receiver's lane that takes it: an index into its lane ports.
    pub receiver_lane: u16,
    /// The sender's lane that shall send it.
    pub sender_lane: u16,
}

/// A run of entries or chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// What went wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileError {
    /// The manifest's entry.
    pub file: u32,
    /// A word for programs: `changed`, `vanished`, `unreadable`, `unwritable`, …
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub code: String,
    /// A sentence for people.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub text: String,
}

/// Something below a source that the sender did not put into the manifest: a device, a symlink that
/// leads outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftOut {
    /// Its name, printable.
    #[serde(deserialize_with = "crate::foreign_text::deserialize_name")]
    pub name: String,
    /// A word for programs: `special`, `symlink_leaves`, `unreadable`, …
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub code: String,
    /// A sentence for people.
    #[serde(deserialize_with = "crate::foreign_text::deserialize")]
    pub text: String,
}

/// What the sender knows when everything is sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SenderSummary {
    /// Segments sent.
    pub segments_sent: u64,
    /// Those among them sent again.
    pub segments_resent: u64,
    /// Payload bytes of a full segment; 0 if none was sent.
    pub segment_bytes: u16,
    /// Where the sending lanes spent their time.
    pub times: SenderTimes,
    /// Whether the user's cap set the rate.
    pub rate_was_asked_for: bool,
    /// Least, median and 99th percentile of the round trips, in microseconds.
    pub rtt_us: [u32; 3],
    /// Processor time that the sending node spent, in microseconds.
    pub cpu_us: u64,
    /// Processor time in cycles of its nominal clock for each byte, in thousandths.
    pub millicycles_per_byte: u64,
    /// Entries that the sender could not list or send.
    pub problems: u64,
}

/// What the receiver knows when everything is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReceiverSummary {
    /// Files stored, those of earlier attempts included.
    pub files_stored: u64,
    /// Files that were there already.
    pub files_skipped: u64,
    /// Files that failed on either side.
    pub files_failed: u64,
    /// Bytes of the files stored.
    pub bytes_stored: u64,
    /// Those among them that were there already: stored by an earlier attempt, or the same in the
    /// file that was replaced.
    pub resumed_bytes: u64,
    /// Processor time that the receiving node spent, in microseconds.
    pub cpu_us: u64,
    /// See [`SenderSummary::millicycles_per_byte`].
    pub millicycles_per_byte: u64,
    /// What limited the transfer.
    pub verdict: Verdict,
}

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
    Path(crate::path::PathMessage),
    /// The receiver wants a flow sent from another port, so that its NIC gives it to the right
    /// lane. Only to partners of version [`MOVES_SINCE`].
    MoveFlow {
        /// The flow.
        flow_id: u32,
        /// The port, from the dynamic range (RFC 6335: 49152 and above).
        source_port: u16,
    },
    /// Files and directories that are stored without some of their attributes, because the
    /// destination refuses these (W-57). Before [`Message::Finished`], and only to partners of
    /// version [`NOT_KEPT_IS_TOLD_SINCE`].
    NotKept {
        /// The number of entries.
        count: u64,
        /// The first of them, at most [`NOT_KEPT_LISTED_MAX`]; a word is `mode`, `time` or
        /// `mode_and_time`.
        first: Vec<FileError>,
    },
    /// What a dry run found (W-58). Only in a dry run, and only to partners of version
    /// [`DRY_RUNS_ARE_TOLD_SINCE`].
    DryRun(crate::dry_run::Finding),
    /// The contents of one directory are sent, which has this mode (W-59). The destination gets the
    /// mode if this transfer creates it. Before [`Message::ManifestEnd`], at most once, and only to
    /// partners of version [`CONTENTS_HAVE_A_MODE_SINCE`].
    ContentsOf {
        /// Nine bits.
        mode: u16,
    },
    /// What the speaker lets the other end do here (W-60). Before the [`Message::Pong`] to a
    /// [`Message::Ping`] in the place of a request, and only to partners of version
    /// [`PERMISSIONS_ARE_TOLD_SINCE`].
    Permits {
        /// Whether it may store files.
        store: Leave,
        /// Whether it may fetch files.
        fetch: Leave,
    },
    /// The sender's own host refuses to send its datagrams (W-61): no flow of the transfer has
    /// reached the receiver, and the receiver's firewall is not the reason. Only to partners of
    /// version [`OWN_FIREWALLS_ARE_TOLD_SINCE`].
    RefusedHere,
}

/// Whether a partner may do something. Which directories it is about is not told.
///
/// Variants are only ever appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leave {
    /// It may not.
    No,
    /// It may, in one directory or more.
    Yes,
    /// It may, but the account there cannot use any of the directories.
    Unusable,
}

/// Bytes that are not a message of this protocol. The connection is of no use any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A length beyond the limit; most often something else than Culvert speaks.
    #[error(
        "the partner announces a message of {0} bytes, but the limit is {FRAME_BYTES_MAX}: it does \
         not speak Culvert's protocol"
    )]
    TooLong(u32),
    /// A body that is not a message, or has bytes left over.
    #[error("the partner sent a malformed control message")]
    Malformed,
}

impl Message {
    /// Appends the message as a frame to `out`. A message that exceeds a frame, which senders of
    /// lists avoid by observing [`LIST_BYTES`], is replaced by a refusal that says so. The partner
    /// receives an explanation, and a partner cannot make this end fail by having it quote a long
    /// text.
    #[expect(clippy::expect_used, reason = "what is written is this program's own, and has a postcard form")]
    pub fn write_frame(&self, out: &mut Vec<u8>) {
        let begin = out.len();
        out.extend_from_slice(&[0; 4]);
        *out = postcard::to_extend(self, std::mem::take(out)).expect("messages have a postcard form");
        let Some((length, body)) = out.get_mut(begin..).and_then(<[u8]>::split_first_chunk_mut) else { return };
        if body.len() <= FRAME_BYTES_MAX {
            *length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
            return;
        }
        let text = format!("this end has a message of {} bytes to send, the limit is {FRAME_BYTES_MAX}", body.len());
        out.truncate(begin);
        Self::Refused(Refusal::new(RefusalCode::Failed, text)).write_frame(out);
    }

    /// Reads the body of a frame (wire.md W-31: "exactly one message in postcard encoding").
    ///
    /// # Errors
    /// [`FrameError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, FrameError> {
        match postcard::take_from_bytes(body) {
            Ok((message, [])) => Ok(message),
            _ => Err(FrameError::Malformed),
        }
    }
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub struct FrameReader {
    buffer: Vec<u8>,
    taken: usize,
}

impl FrameReader {
    /// Adds bytes from the connection.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole message; `None` until more bytes are there.
    ///
    /// # Errors
    /// [`FrameError`]; the reader is of no use afterwards.
    pub fn next_message(&mut self) -> Result<Option<Message>, FrameError> {
        let rest = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((length, rest)) = rest.split_first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_be_bytes(*length);
        // wire.md W-31: "a longer frame ends the connection before memory is allocated for it".
        if length as usize > FRAME_BYTES_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length as usize) else { return Ok(None) };
        let message = Message::parse(body)?;
        self.taken = self.taken.saturating_add(4).saturating_add(length as usize);
        Ok(Some(message))
    }
}

/// Appends an entry to the body of a [`Message::ManifestPart`].
///
/// # Panics
/// Never: entries have a postcard form.
#[expect(clippy::expect_used, reason = "what is written is this program's own, and has a postcard form")]
pub fn encode_entry(entry: &Entry<'_>, part: &mut Vec<u8>) {
    *part = postcard::to_extend(entry, std::mem::take(part)).expect("entries have a postcard form");
}

/// Reads the entries of a [`Message::ManifestPart`].
pub fn decode_entries(mut part: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, FrameError>> {
    std::iter::from_fn(move || {
        if part.is_empty() {
            return None;
        }
        let taken = postcard::take_from_bytes(part);
        Some(match taken {
            Ok((entry, rest)) => {
                part = rest;
                Ok(entry)
            }
            Err(_) => {
                part = &[];
                Err(FrameError::Malformed)
            }
        })
    })
}

/// Joins ascending numbers to runs.
pub fn runs(numbers: impl IntoIterator<Item = u32>) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for number in numbers {
        match runs.last_mut() {
            Some(run) if run.first.checked_add(run.count) == Some(number) => run.count = run.count.saturating_add(1),
            _ => runs.push(Run { first: number, count: 1 }),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest::{EntryKind, FileTime};

    fn messages() -> Vec<Message> {
        vec![
            Message::Hello { version_min: 1, version_max: 1, software: "culvert".into(), name: "a".into() },
            Message::Refused(Refusal::new(RefusalCode::NotPermitted, "no")),
            Message::Proofs(vec![(3, [9; 32])]),
            Message::Stored(runs([1, 2, 3, 7])),
            Message::AllSent(SenderSummary::default()),
            Message::NotKept {
                count: 7,
                first: vec![FileError {
                    file: 3,
                    code: "time".into(),
                    text: "utimensat: Operation not permitted".into(),
                }],
            },
            Message::Ping(u64::MAX),
        ]
    }

    #[test]
    fn messages_survive_any_cut_of_the_stream() {
        let mut stream = Vec::new();
        for message in messages() {
            message.write_frame(&mut stream);
        }
        for step in [1, 2, 3, 7, 1000] {
            let mut reader = FrameReader::default();
            let mut got = Vec::new();
            for piece in stream.chunks(step) {
                reader.push(piece);
                while let Some(message) = reader.next_message().unwrap() {
                    got.push(message);
                }
            }
            assert_eq!(got, messages());
        }
    }

    /// wire.md W-31: "a longer frame ends the connection".
    #[test]
    fn a_message_of_four_gigabytes_is_refused_at_its_length() {
        let mut reader = FrameReader::default();
        reader.push(&u32::MAX.to_be_bytes());
        assert_eq!(reader.next_message(), Err(FrameError::TooLong(u32::MAX)));
    }

    #[test]
    fn a_refusal_that_quotes_a_whole_frame_fits_one() {
        let refusal = Refusal::new(RefusalCode::NotFound, "ü".repeat(FRAME_BYTES_MAX));
        assert!(refusal.text.len() <= crate::foreign_text::TEXT_BYTES_MAX && refusal.text.contains("left out"));
        let mut frame = Vec::new();
        Message::Refused(refusal).write_frame(&mut frame);
        assert_eq!(Refusal::new(RefusalCode::NotFound, "no").text, "no");
    }

    #[test]
    fn a_message_that_exceeds_a_frame_goes_as_a_refusal() {
        let mut frame = b"before".to_vec();
        Message::ManifestPart(vec![0xff; FRAME_BYTES_MAX]).write_frame(&mut frame);
        let mut reader = FrameReader::default();
        reader.push(&frame[6..]);
        let heard = reader.next_message().unwrap();
        let Some(Message::Refused(refusal)) = heard else { panic!("{heard:?}") };
        assert!(refusal.text.contains("the limit is 262144"), "{refusal}");
        assert_eq!(reader.next_message(), Ok(None));
    }

    /// Row 12 and 20: what a partner writes into any text of a message comes out plain and bounded.
    #[test]
    fn every_text_of_a_message_is_plain_where_it_is_decoded() {
        let evil = || "\u{1b}[2J\nculvert: forged\u{202e}".repeat(2_000);
        let error = || FileError { file: 1, code: evil(), text: evil() };
        let verdict = Verdict { limited_by: crate::verdict::Limit::Path, share: 0.5, text: evil() };
        let summary = ReceiverSummary {
            files_stored: 0,
            files_skipped: 0,
            files_failed: 0,
            bytes_stored: 0,
            resumed_bytes: 0,
            cpu_us: 0,
            millicycles_per_byte: 0,
            verdict,
        };
        for message in [
            Message::Hello { version_min: 1, version_max: 1, software: evil(), name: evil() },
            Message::Refused(Refusal { code: RefusalCode::Failed, text: evil() }),
            Message::FileFailed(error()),
            Message::FileRefused(error()),
            Message::LeftOut(vec![LeftOut { name: evil(), code: evil(), text: evil() }]),
            Message::NotKept { count: 1, first: vec![error()] },
            Message::DryRun(crate::dry_run::Finding::LeftOut {
                count: 1,
                first: vec![LeftOut { name: evil(), code: evil(), text: evil() }],
            }),
            Message::Path(crate::path::PathMessage::Report(crate::path::PathReport::Failed(evil()))),
            Message::Finished { line: String::new(), signature: Vec::new(), summary },
        ] {
            let body = postcard::to_allocvec(&message).unwrap();
            let text = format!("{:?}", Message::parse(&body).unwrap());
            // `Debug` escapes what it prints, so an existing escape has two backslashes.
            for raw in ["\\u{1b}", "\\u{202e}", "\\n"] {
                assert!(!text.replace(&format!("\\{raw}"), "").contains(raw), "{text:.300}");
            }
            assert!(text.len() < 8 << 10, "{} bytes of {text:.100}", text.len());
        }
    }

    #[test]
    fn ids_are_written_as_ulids() {
        let id = TransferId::new(1_700_000_000_000, 12345);
        let text = id.to_string();
        assert_eq!(text.len(), 26);
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(text.to_lowercase().parse(), Ok(id));
        assert!("ZZZZZZZZZZZZZZZZZZZZZZZZZZ".parse::<TransferId>().is_err());
        assert!("".parse::<TransferId>().is_err());
        assert!("01J".parse::<TransferId>().is_err());
    }

    proptest! {
        #[test]
        fn any_body_is_parsed_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Message::parse(&body);
            let _ = decode_entries(&body).count();
        }

        #[test]
        fn a_damaged_message_is_refused_or_another_message(which: prop::sample::Index, at: prop::sample::Index, byte: u8) {
            let all = messages();
            let mut frame = Vec::new();
            all[which.index(all.len())].write_frame(&mut frame);
            let at = at.index(frame.len());
            frame[at] = byte;
            let mut reader = FrameReader::default();
            reader.push(&frame);
            let _ = reader.next_message();
        }

        #[test]
        fn entries_come_back(names in proptest::collection::vec(proptest::collection::vec(1..255u8, 1..40), 0..20)) {
            let mut part = Vec::new();
            let entry = |name| Entry { name, kind: EntryKind::File { bytes: 5, is_sparse: true }, target: b"", mode: 0o644,
                                       modified: FileTime { seconds: -1, nanoseconds: 5 } };
            for name in &names {
                encode_entry(&entry(name), &mut part);
            }
            let decoded: Result<Vec<_>, _> = decode_entries(&part).collect();
            let expected: Vec<_> = names.iter().map(|name| entry(name)).collect();
            prop_assert_eq!(decoded, Ok(expected));
        }
    }
}
