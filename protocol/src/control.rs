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

pub(crate) mod files;
mod frames;
mod message;
mod plan;
mod refusal;
mod request;
mod summaries;
mod transfer_id;
pub(crate) mod versions;

#[cfg(test)]
mod tests;

pub use files::{FileError, LeftOut, NOT_KEPT_LISTED_MAX};
pub use frames::{FRAME_BYTES_MAX, FrameError, FrameReader, LIST_BYTES, decode_entries, encode_entry};
pub use message::{Message, PermissionAnswer};
pub use plan::{FlowOffer, Run, runs};
pub use refusal::{Refusal, RefusalCode};
pub use request::{Accepted, FLOWS_MAX, Options, Overwrite, Request, RequestedAction};
pub use summaries::{ReceiverSummary, SenderSummary};
pub use transfer_id::TransferId;
pub use versions::{
    CONTENT_SINCE, CONTENTS_HAVE_A_MODE_SINCE, DRY_RUNS_ARE_TOLD_SINCE, MOVES_SINCE, NAMES_ARE_ESCAPED_SINCE,
    NOT_KEPT_IS_TOLD_SINCE, OWN_FIREWALLS_ARE_TOLD_SINCE, PACKS_ARE_TOLD_SINCE, PATH_CHECKS_SINCE,
    PAUSES_ARE_TOLD_SINCE, PERMISSIONS_ARE_TOLD_SINCE, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN,
    SAME_MODES_ARE_TOLD_SINCE,
};
