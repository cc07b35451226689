//! Reports about single files: what failed, and what was left out.

use serde::{Deserialize, Serialize};

/// The most entries that a [`Message::NotKept`] names.
///
/// [`Message::NotKept`]: super::Message::NotKept
pub const NOT_KEPT_LISTED_MAX: usize = 16;
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
