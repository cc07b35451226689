//! What a host is to transactions: read, write, and who it is.

use crate::setting::{Setting, Value};

/// How every file begins that Culvert writes into folders of other programs. All of them take `#`
/// as a comment.
pub(crate) const OWNED_FILE_FIRST_LINE: &str =
    "# Written by culvert tune; do not edit: culvert tune rollback removes it.\n";

/// Why a setting could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The key, file, link or interrupt is not there.
    #[error("{setting}: it does not exist here ({reason})")]
    Missing {
        /// The setting.
        setting: String,
        /// What is not there.
        reason: String,
    },
    /// The kernel or a mount forbids it.
    #[error("{setting}: not permitted: {reason}; run as root, or have the host's admin do it")]
    NotPermitted {
        /// The setting.
        setting: String,
        /// The kernel's reason.
        reason: String,
    },
    /// The driver or kernel has no such parameter, or one that cannot be put back.
    #[error("{setting}: not supported here: {reason}")]
    Unsupported {
        /// The setting.
        setting: String,
        /// What exactly.
        reason: String,
    },
    /// The kernel did not take the value.
    #[error("{setting}: the kernel refused '{value}': {reason}")]
    Refused {
        /// The setting.
        setting: String,
        /// The value.
        value: String,
        /// The kernel's reason.
        reason: String,
    },
    /// A file with the name of one of Culvert's belongs to somebody else.
    #[error("{path}: the file was not written by culvert tune; move it away, or keep it and do without --persist")]
    NotOurs {
        /// The file.
        path: String,
    },
}

impl HostError {
    /// Whether the thing itself is not there, so that there is nothing to put back either.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// Where and when settings exist: what is written in one boot or network namespace is not undone in
/// another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// The kernel's random id of this boot.
    pub boot_id: String,
    /// The network namespace: `initial`, or the kernel's name for it.
    pub network_namespace: String,
}

/// A machine whose settings can be read and written.
pub trait Host {
    /// Reads a setting.
    ///
    /// # Errors
    /// [`HostError`]; never a value that is not the host's.
    fn read(&mut self, setting: &Setting) -> Result<Value, HostError>;

    /// Writes a setting. The caller reads it back.
    ///
    /// # Errors
    /// [`HostError`]; the setting may then have any value.
    fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), HostError>;

    /// Whether this process may write the setting, without writing it.
    ///
    /// # Errors
    /// [`HostError::NotPermitted`] or [`HostError::Unsupported`] say what is in the way.
    fn may_write(&mut self, setting: &Setting) -> Result<(), HostError>;

    /// Every setting that a link has.
    ///
    /// # Errors
    /// [`HostError::Missing`] if there is no such link.
    fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, HostError>;

    /// Which boot and network namespace this is.
    fn place(&self) -> Place;

    /// Milliseconds since the boot, those of sleep among them.
    fn now_boot_ms(&self) -> u64;
}
