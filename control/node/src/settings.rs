//! Settings: flags override `CULVERT_*` variables, which override the configuration file, which
//! overrides the defaults.
//!
//! Each setting is one row: in `settings/table.rs` for the top level of the file, in
//! `culvert_path::settings` for its tables. Parsers, flags and documents are generated from the
//! rows. A setting keeps the origin of its value, which `culvert config show --origin` prints.

mod file;
pub mod lanes;
mod lines;
mod origin;
mod resolver;
mod row;
mod table;
mod values;

use std::path::Path;

use culvert_engine::engine::TransferBounds;
use culvert_model::setting::Section;
use culvert_path::settings::{ArchiveTable, PathTable, PsconfigTable, ResponderTable};

pub use crate::settings::file::SYSTEM_CONFIGURATION;
use crate::settings::file::{VARIABLE, parse_file, read_file};
pub use crate::settings::origin::{Origin, Setting, SettingsError};
use crate::settings::resolver::Variables;
pub use crate::settings::table::{Flags, ROWS, Settings};
pub use crate::settings::values::{DEFAULT_METRICS, Ports, has_af_xdp, parse_cores, parse_ports};
use crate::settings::values::{MTU_MIN, parse_path};

/// All settings, section by section, in the order of the configuration file.
pub static SECTIONS: &[Section] = &[
    Section { name: "", about: ABOUT, rows: ROWS },
    PathTable::SECTION,
    ResponderTable::SECTION,
    ArchiveTable::SECTION,
    PsconfigTable::SECTION,
];

/// The comment at the top of the configuration file.
const ABOUT: &str = "Culvert's settings. Command-line flags override CULVERT_* variables, which override this file, \
    which overrides the defaults. `culvert config show --origin` prints every setting and its origin. The values below \
    are the defaults, or examples if there is no default.

If a user has a file ~/.config/culvert/culvert.toml, it is read instead of this one.";

impl Settings {
    /// Determines every setting from flags, environment, file and defaults.
    ///
    /// # Errors
    /// [`SettingsError`] names the first that cannot be used.
    pub fn resolve(flags: &Flags) -> Result<Self, SettingsError> {
        refuse_unreadable_variables()?;
        Self::resolve_with(flags, &|name| std::env::var(name).ok())
    }

    /// The settings of a configuration file with this text, without flags and variables; `path` is
    /// for errors and origins.
    ///
    /// # Errors
    /// [`SettingsError`] names the first that cannot be used.
    pub fn from_toml(text: &str, path: &Path) -> Result<Self, SettingsError> {
        Self::settle(&Flags::default(), &|_| None, parse_file(text, path)?)
    }

    /// The state directory that the command line names, without looking at other settings.
    ///
    /// # Errors
    /// [`SettingsError`] if it is no path.
    pub fn state_of_flag(named: &str) -> Result<std::path::PathBuf, SettingsError> {
        let wrong = |reason| SettingsError::Value { name: "state", origin: Origin::Flag("--state"), reason };
        parse_path(named).map_err(wrong)
    }

    fn resolve_with(flags: &Flags, variables: Variables<'_>) -> Result<Self, SettingsError> {
        Self::settle(flags, variables, read_file(flags.config.as_deref(), variables)?)
    }

    /// The limits that the settings put on transfers.
    #[must_use]
    pub fn transfer_bounds(&self) -> TransferBounds {
        // Invariant I-settings-mtu: An MTU that is set was parsed, and is at least 1280 bytes.
        assert!(self.mtu.value.is_none_or(|mtu| mtu >= MTU_MIN), "an MTU that is set is at least {MTU_MIN} bytes");
        TransferBounds { mtu: self.mtu.value, patience: self.patience() }
    }

    /// How long a transfer may make no progress; `None` for no limit.
    fn patience(&self) -> Option<std::time::Duration> {
        Some(std::time::Duration::from_secs(self.patience_s.value.into())).filter(|patience| !patience.is_zero())
    }
}

/// Refuses variables of settings that are not UTF-8: they would count as not set.
fn refuse_unreadable_variables() -> Result<(), SettingsError> {
    let variables = ROWS.iter().filter_map(|row| Some((row.name, row.variable?))).chain([("config", VARIABLE)]);
    for (name, variable) in variables {
        if let Err(std::env::VarError::NotUnicode(value)) = std::env::var(variable) {
            let reason = format!("'{}' is not UTF-8: write another value, or unset {variable}", value.display());
            return Err(SettingsError::Value { name, origin: Origin::Variable(variable), reason });
        }
    }
    Ok(())
}

#[cfg(test)]
mod documents;
#[cfg(test)]
mod extremes;
#[cfg(test)]
mod tests;
