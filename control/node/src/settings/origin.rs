//! A setting's value, where it came from, and why it cannot be used.

use std::path::PathBuf;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The command line: the flag as people type it.
    Flag(&'static str),
    /// An environment variable.
    Variable(&'static str),
    /// The configuration file.
    File {
        /// Which.
        path: PathBuf,
        /// The line that makes the setting, counted from 1, if it is known.
        line: Option<usize>,
    },
    /// The setting was not made.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Flag(_) => f.write_str("flag"),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::File { path, .. } => write!(f, "{}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

impl Origin {
    /// The setting by the name under which it was made.
    #[must_use]
    pub fn name_of(&self, name: &str) -> String {
        match self {
            Self::Flag(flag) => (*flag).to_owned(),
            Self::File { path, line: Some(line) } => format!("{name} (from {}, line {line})", path.display()),
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
    /// A value that names something this host does not have.
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
    /// Whether the command line has to be corrected.
    #[must_use]
    pub const fn is_of_command_line(&self) -> bool {
        matches!(self, Self::Value { origin: Origin::Flag(_), .. })
    }
}
