//! Which of the places where a setting may be made decides.

use std::path::{Path, PathBuf};

use crate::settings::origin::{Origin, Setting, SettingsError};

/// Looks a variable up; a parameter, so that tests need not change the process.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

pub(super) struct Resolver<'a> {
    pub(super) variables: Variables<'a>,
    pub(super) file: Option<PathBuf>,
}

impl Resolver<'_> {
    pub(super) fn resolve<T>(
        &self,
        name: &'static str,
        variable: &'static str,
        flag: Option<&String>,
        in_file: Option<String>,
        default: impl FnOnce() -> T,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Setting<T>, SettingsError> {
        let found = match (flag, (self.variables)(variable), in_file) {
            (Some(text), _, _) => Some((text.clone(), Origin::Flag)),
            (None, Some(text), _) => Some((text, Origin::Variable(variable))),
            (None, None, Some(text)) => Some((text, Origin::File(self.file.clone().unwrap_or_default()))),
            (None, None, None) => None,
        };
        let Some((text, origin)) = found else { return Ok(Setting { value: default(), origin: Origin::Default }) };
        match parse(&text) {
            Ok(value) => Ok(Setting { value, origin }),
            Err(reason) => Err(SettingsError::Value { name, origin, reason }),
        }
    }
}

/// `$VARIABLE/culvert`, or `~/fallback/culvert`.
pub(super) fn user_directory(variable: &str, fallback: &str, variables: Variables<'_>) -> Option<PathBuf> {
    let base = variables(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| variables("HOME").map(|home| Path::new(&home).join(fallback)));
    base.map(|base| base.join("culvert"))
}
