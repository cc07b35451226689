//! The configuration file.

use std::path::{Path, PathBuf};

use culvert_path::settings::{ArchiveTable, PathTable, PsconfigTable, ResponderTable};
use culvert_system::regular_file::{self, Links};
use serde::Deserialize;

use crate::settings::flags::Flags;
use crate::settings::origin::SettingsError;
use crate::settings::resolver::{Variables, user_directory};

/// The configuration of the system's node.
pub const SYSTEM_CONFIGURATION: &str = "/etc/culvert/culvert.toml";
/// No configuration is longer.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileSettings {
    pub(super) state: Option<String>,
    pub(super) name: Option<String>,
    pub(super) listen: Option<String>,
    pub(super) metrics: Option<String>,
    pub(super) cores: Option<CoreList>,
    pub(super) memory: Option<String>,
    pub(super) bind: Option<String>,
    pub(super) ports: Option<String>,
    pub(super) mtu: Option<u32>,
    pub(super) datapath: Option<String>,
    pub(super) interface: Option<String>,
    pub(super) dataplane_socket: Option<String>,
    pub(super) af_xdp_mode: Option<String>,
    pub(super) busy_poll_us: Option<u32>,
    pub(super) patience_s: Option<u32>,
    #[serde(default)]
    pub(super) path: PathTable,
    pub(super) responder: Option<ResponderTable>,
    pub(super) archive: Option<ArchiveTable>,
    pub(super) psconfig: Option<PsconfigTable>,
}

/// Cores in a file: a list, or text as on the command line.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum CoreList {
    List(Vec<usize>),
    Text(String),
}

/// Reads the file that is named, or the first that is there.
pub(super) fn read_file(
    flags: &Flags,
    variables: Variables<'_>,
) -> Result<(FileSettings, Option<PathBuf>), SettingsError> {
    let named = flags.config.clone().or_else(|| variables("CULVERT_CONFIG")).map(PathBuf::from);
    let path = match &named {
        Some(path) => path.clone(),
        None => {
            let candidates = [
                user_directory("XDG_CONFIG_HOME", ".config", variables).map(|directory| directory.join("culvert.toml")),
                Some(SYSTEM_CONFIGURATION.into()),
            ];
            match candidates.into_iter().flatten().find(|path| path.exists()) {
                Some(path) => path,
                None => return Ok((FileSettings::default(), None)),
            }
        }
    };
    let text = regular_file::read_text(&path, FILE_BYTES_MAX, Links::Followed)
        .map_err(|error| SettingsError::File { path: path.clone(), reason: error.to_string() })?;
    Ok((parse_file(&text, &path)?, Some(path)))
}

pub(super) fn parse_file(text: &str, path: &Path) -> Result<FileSettings, SettingsError> {
    toml::from_str(text).map_err(|error| SettingsError::File { path: path.to_owned(), reason: error.to_string() })
}
