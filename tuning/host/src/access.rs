//! What a host is to transactions: settings to read and write, and the boot and network namespace
//! they exist in.

use crate::setting::{Setting, Value};

/// The first line of every file that Culvert writes into another program's folder. All of those
/// programs take `#` as a comment.
pub const OWNED_FILE_FIRST_LINE: &str = "# Written by culvert tune; do not edit: culvert tune rollback removes it.\n";

/// Why a setting could not be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// The key, file, link or interrupt does not exist.
    #[error("{setting}: it does not exist here ({reason})")]
    Missing {
        /// The setting.
        setting: String,
        /// What does not exist.
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
    /// The driver or kernel has no such parameter, or its value could not be restored.
    #[error("{setting}: not supported here: {reason}")]
    Unsupported {
        /// The setting.
        setting: String,
        /// What the driver or kernel lacks.
        reason: String,
    },
    /// The kernel rejected the value.
    #[error("{setting}: the kernel refused '{value}': {reason}")]
    Refused {
        /// The setting.
        setting: String,
        /// The value.
        value: String,
        /// The kernel's reason.
        reason: String,
    },
    /// A file that has the name of one of Culvert's was written by another program or a person.
    #[error("{path}: the file was not written by culvert tune; move it away, or keep it and do without --persist")]
    NotOurs {
        /// The file.
        path: String,
    },
}

impl HostError {
    /// Whether the setting does not exist, so that there is nothing to restore.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Missing { .. })
    }
}

/// The boot and network namespace in which settings were written. A rollback in another one would
/// undo nothing.
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
    /// [`HostError`] if the host's value cannot be read; no default stands in for it.
    fn read(&mut self, setting: &Setting) -> Result<Value, HostError>;

    /// Writes a setting. The caller reads it back.
    ///
    /// # Errors
    /// [`HostError`]; the setting may then have any value.
    fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), HostError>;

    /// Whether this process may write the setting, without writing it.
    ///
    /// # Errors
    /// [`HostError::NotPermitted`] or [`HostError::Unsupported`], with what prevents it.
    fn may_write(&mut self, setting: &Setting) -> Result<(), HostError>;

    /// Every setting that a link has.
    ///
    /// # Errors
    /// [`HostError::Missing`] if there is no such link.
    fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, HostError>;

    /// The current boot and network namespace.
    fn place(&self) -> Place;

    /// Milliseconds since the boot, suspended time included.
    fn now_boot_ms(&self) -> u64;
}

/// Every other setting that a write of `setting` may disturb.
///
/// # Errors
/// [`HostError::Missing`] if its link does not exist.
pub fn disturbed_by(host: &mut dyn Host, setting: &Setting) -> Result<Vec<Setting>, HostError> {
    let mut disturbed = setting.disturbs_elsewhere();
    if let Some(link) = setting.link() {
        let of_link = host.settings_of_link(link)?;
        disturbed.extend(of_link.into_iter().filter(|other| other != setting && setting.disturbs(other)));
    }
    Ok(disturbed)
}
