//! Which of the places where a setting can be made decides: the command line, then the variable,
//! then the file, then the default.

use std::path::PathBuf;

use crate::settings::lines::Lines;
use crate::settings::origin::{Origin, Setting, SettingsError};

/// Looks up a variable. A parameter, because tests must not change their process's environment.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) struct Resolver<'a> {
    pub(super) variables: Variables<'a>,
    pub(super) file: Option<PathBuf>,
    pub(super) lines: Lines,
}

/// Where one setting can be made, and what the command line and the file say.
pub(super) struct Places<'a> {
    pub(super) name: &'static str,
    /// The flag as people type it, and its text.
    pub(super) flag: Option<(&'static str, &'a str)>,
    pub(super) variable: &'static str,
    pub(super) file: Option<String>,
}

impl Resolver<'_> {
    pub(super) fn resolve<T>(
        &self,
        places: Places<'_>,
        default: impl FnOnce(Variables<'_>) -> T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Setting<T>, SettingsError> {
        let Places { name, flag, variable, file } = places;
        let found = match (flag, (self.variables)(variable), file) {
            (Some((flag, text)), _, _) => Some((text.to_owned(), Origin::Flag(flag))),
            (None, Some(text), _) => Some((text, Origin::Variable(variable))),
            (None, None, Some(text)) => Some((text, self.in_file(name))),
            (None, None, None) => None,
        };
        let Some((text, origin)) = found else {
            return Ok(Setting { value: default(self.variables), origin: Origin::Default });
        };
        match parse(&text) {
            Ok(value) => Ok(Setting { value, origin }),
            Err(reason) => Err(SettingsError::Value { name, origin, reason }),
        }
    }

    /// The origin of a setting that the file makes.
    pub(super) fn in_file(&self, name: &str) -> Origin {
        Origin::File { path: self.file.clone().unwrap_or_default(), line: self.lines.line(name) }
    }
}

/// `$VARIABLE/culvert`, or `~/fallback/culvert`. Variables that are not absolute paths count as not
/// set (XDG Base Directory Specification): beneath an empty one would be the current directory.
pub(super) fn user_directory(variable: &str, fallback: &str, variables: Variables<'_>) -> Option<PathBuf> {
    let absolute = |variable| variables(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback)));
    base.map(|base| base.join("culvert"))
}
