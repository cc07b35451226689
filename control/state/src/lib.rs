//! A node's state directory: its key, profiles, records of transfers, journals and receipts.
//!
//! ```text
//! identity.pk8     the node's private key, mode 0600
//! profiles/        a TOML file for each partner
//! pending.json     keys that asked for access and are not approved yet
//! transfers/       a JSON file for each transfer
//! receipts/        a text for each completed transfer
//! journals/        what incoming transfers have stored so far
//! paths/           measurements of paths, and documents that wait for the archive
//! portals.json     portals that somebody is logged in to, with their tokens, mode 0600
//! tuning/          what culvert tune has changed, for its undo
//! api.sock         the running node's API
//! node.lock        held while a node runs
//! owner-….lock     held by each process that runs transfers
//! ```
//!
//! Versions: JSON and TOML files may state theirs under `version` at the top level; those without
//! one have version 1. A receipt's version is in its first field, a journal's in its first record.
//! A file with an unknown version was written by a newer program: it is left as it is, and reading
//! it gives [`StateError::Newer`].
//!
//! Anything but a file under a file's name (a pipe, a device, a symlink) is not opened, so nothing
//! blocks on it; reading it gives [`StateError::Unusable`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::print_stderr))]

#[macro_use(say_aside)]
extern crate culvert_link;

mod directory;
mod error;
mod lock;
pub mod writer;

pub use directory::StateDirectory;
pub use directory::writing::give_to_owner_of;
pub use error::StateError;
pub use lock::is_locked;
