//! The configuration file: which one is read, and how.

use std::path::{Path, PathBuf};

use culvert_system::regular_file::{self, Links};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::settings::origin::SettingsError;
use crate::settings::resolver::{Variables, user_directory};
use crate::settings::values::join;

/// The configuration of the system's node.
pub const SYSTEM_CONFIGURATION: &str = "/etc/culvert/culvert.toml";
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

/// Reads the file that is named, or the first that exists.
pub(super) fn read_file<T: DeserializeOwned + Default>(
    named: Option<&str>,
    variables: Variables<'_>,
) -> Result<(T, Option<PathBuf>), SettingsError> {
    let named = named.map(str::to_owned).or_else(|| variables("CULVERT_CONFIG")).map(PathBuf::from);
    let path = match named {
        Some(path) => path,
        None => {
            let candidates = [
                user_directory("XDG_CONFIG_HOME", ".config", variables).map(|directory| directory.join("culvert.toml")),
                Some(SYSTEM_CONFIGURATION.into()),
            ];
            match candidates.into_iter().flatten().find(|path| path.exists()) {
                Some(path) => path,
                None => return Ok((T::default(), None)),
            }
        }
    };
    let text = regular_file::read_text(&path, FILE_BYTES_MAX, Links::Followed)
        .map_err(|error| SettingsError::File { path: path.clone(), reason: error.to_string() })?;
    Ok((parse_file(&text, &path)?, Some(path)))
}

pub(super) fn parse_file<T: DeserializeOwned>(text: &str, path: &Path) -> Result<T, SettingsError> {
    toml::from_str(text).map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })
}
