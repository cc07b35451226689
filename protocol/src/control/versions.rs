//! The versions of the control protocol, and what each added.

/// The newest version of the control protocol that this program speaks.
pub const PROTOCOL_VERSION: u16 = 8;
/// The version since which partners answer path checks ([`Message::Path`]).
///
/// [`Message::Path`]: super::Message::Path
pub const PATH_CHECKS_SINCE: u16 = 2;
/// The version since which partners compare files by their chunks ([`Overwrite::Content`]).
///
/// [`Overwrite::Content`]: super::Overwrite::Content
pub const CONTENT_SINCE: u16 = 3;
/// The version since which senders change a flow's source port on request ([`Message::MoveFlow`]).
///
/// [`Message::MoveFlow`]: super::Message::MoveFlow
pub const MOVES_SINCE: u16 = 4;
/// The version since which senders report every pack that they have read ([`Message::PackHashes`]),
/// even without checksums.
///
/// [`Message::PackHashes`]: super::Message::PackHashes
pub const PACKS_ARE_TOLD_SINCE: u16 = 5;
/// The version since which the root of a tree is over escaped names (W-43).
pub const NAMES_ARE_ESCAPED_SINCE: u16 = 5;
/// The version since which receivers say which attributes were refused ([`Message::NotKept`]).
///
/// [`Message::NotKept`]: super::Message::NotKept
pub const NOT_KEPT_IS_TOLD_SINCE: u16 = 6;
/// The version since which both ends say what a dry run found ([`Message::DryRun`]).
///
/// [`Message::DryRun`]: super::Message::DryRun
pub const DRY_RUNS_ARE_TOLD_SINCE: u16 = 7;
/// The version since which partners are told that a transfer is paused, and not that it was
/// canceled.
pub const PAUSES_ARE_TOLD_SINCE: u16 = 7;
/// The first protocol version that transmits the mode of a directory whose contents are sent
/// ([`Message::ContentsOf`]).
///
/// [`Message::ContentsOf`]: super::Message::ContentsOf
pub const CONTENTS_HAVE_A_MODE_SINCE: u16 = 7;
/// The version since which a node that asks whether it is known also learns what it may do
/// ([`Message::Permits`]).
///
/// [`Message::Permits`]: super::Message::Permits
pub const PERMISSIONS_ARE_TOLD_SINCE: u16 = 8;
/// The first version in which a sender says that its own host refuses what it sends
/// ([`Message::RefusedHere`]).
///
/// [`Message::RefusedHere`]: super::Message::RefusedHere
pub const OWN_FIREWALLS_ARE_TOLD_SINCE: u16 = 8;
/// The version since which a dry run reports files that get another mode and no bytes
/// ([`Fate::SameButMode`]), and inodes.
///
/// [`Fate::SameButMode`]: crate::dry_run::Fate::SameButMode
pub const SAME_MODES_ARE_TOLD_SINCE: u16 = 8;
/// The oldest version that this program speaks.
pub const PROTOCOL_VERSION_MIN: u16 = 1;
