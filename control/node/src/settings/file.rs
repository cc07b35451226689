//! The configuration file: which one is read, and how.

use std::path::{Path, PathBuf};

use culvert_system::regular_file::{self, Links};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::settings::lines::Lines;
use crate::settings::origin::{Origin, SettingsError};
use crate::settings::resolver::{Variables, user_directory};
use crate::settings::values::{join, parse_path};

/// The configuration of the system's node.
pub const SYSTEM_CONFIGURATION: &str = "/etc/culvert/culvert.toml";
/// The variable that names the file.
pub(super) const VARIABLE: &str = "CULVERT_CONFIG";
/// No configuration is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Cores in a file: a list, or text as on the command line.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum CoreList {
    List(Vec<usize>),
    Text(String),
}

impl std::fmt::Display for CoreList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::List(cores) => f.write_str(&join(cores)),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// A configuration file that was read, or none.
#[derive(Debug, Default)]
pub(super) struct ReadFile<T> {
    /// What it sets.
    pub(super) settings: T,
    /// Where it is.
    pub(super) path: Option<PathBuf>,
    /// In which lines it sets what.
    pub(super) lines: Lines,
}

/// Reads the file that is named, or the first that exists.
pub(super) fn read_file<T: DeserializeOwned + Default>(
    named: Option<&str>,
    variables: Variables<'_>,
) -> Result<ReadFile<T>, SettingsError> {
    let by_flag = named.map(|named| (named.to_owned(), Origin::Flag("--config")));
    let by_variable = || Some((variables(VARIABLE)?, Origin::Variable(VARIABLE)));
    let path = match by_flag.or_else(by_variable) {
        Some((named, origin)) => {
            parse_path(&named).map_err(|reason| SettingsError::Value { name: "config", origin, reason })?
        }
        None => {
            let candidates = [
                user_directory("XDG_CONFIG_HOME", ".config", variables).map(|directory| directory.join("culvert.toml")),
                Some(SYSTEM_CONFIGURATION.into()),
            ];
            match candidates.into_iter().flatten().find(|path| path.exists()) {
                Some(path) => path,
                None => return Ok(ReadFile::default()),
            }
        }
    };
    let text = regular_file::read_text(&path, FILE_BYTES_MAX, Links::Followed)
        .map_err(|error| SettingsError::File { path: path.clone(), reason: error.to_string() })?;
    parse_file(&text, &path)
}

pub(super) fn parse_file<T: DeserializeOwned>(text: &str, path: &Path) -> Result<ReadFile<T>, SettingsError> {
    let settings = toml::from_str(text)
        .map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })?;
    Ok(ReadFile { settings, path: Some(path.to_owned()), lines: Lines::of(text) })
}
