//! A setting's value, where it came from, and why it cannot be used.

use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line.
    Flag,
    /// A variable.
    Variable(&'static str),
    /// A file.
    File(PathBuf),
    /// It was not set.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// A setting as those know it who have set it.
    fn name_of(&self, name: &str) -> String {
        match self {
            Self::Flag => format!("--{}", name.strip_suffix("_us").unwrap_or(name).replace('_', "-")),
            origin => format!("{name} (from {origin})"),
        }
    }
}

/// A value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting<T> {
    /// The value.
    pub value: T,
    /// Its origin.
    pub origin: Origin,
}

/// A setting that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file.
    #[error("the configuration file {path} cannot be used: {reason}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A value.
    #[error("{} cannot be used: {reason}", origin.name_of(name))]
    Value {
        /// The setting.
        name: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// Why not.
        reason: String,
    },
    /// A value that this host has no such thing for.
    #[error("{} cannot be used: {reason}", origin.name_of(name))]
    Host {
        /// The setting.
        name: &'static str,
        /// Where its value came from.
        origin: Origin,
        /// Why not.
        reason: String,
    },
}

impl SettingsError {
    /// Whether the command line has to be typed otherwise.
    #[must_use]
    pub const fn is_of_command_line(&self) -> bool {
        matches!(self, Self::Value { origin: Origin::Flag, .. })
    }
}
