//! The macro behind the tables of the configuration file. It turns a row into a key of the file, a
//! typed field, a line of `culvert config show`, and a [`Row`](culvert_model::setting::Row), from
//! which documents are generated.

use std::path::PathBuf;

/// A setting as `culvert config show` prints it, and whether the file sets it.
pub(super) type Shown = (String, bool);

/// The full name of a setting that cannot be used, and why not.
pub(super) type Wrong = (&'static str, String);

/// Makes the type of a table from its rows, with its `SECTION`, `check` and `show`. The parser of
/// the file decides what has the type of a row, `permitted` which of these values mean something.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        $(#[derive($derive:ident)])?
        $table:ident = $section:literal {
            $(
                $(#[doc = $help:literal])+
                $(#[serde($serde:ident)])?
                $name:ident: $type:ty {
                    example: $example:tt,
                    default: $words:literal,
                    show: $show:expr,
                    permitted: $permitted:expr,
                }
            )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, serde::Deserialize)]
        $(#[derive($derive)])?
        #[serde(deny_unknown_fields)]
        pub struct $table {
            $(
                $(#[doc = $help])+
                $(#[serde($serde)])?
                pub $name: $type,
            )+
        }

        impl $table {
            /// The rows, as documents show them.
            pub const SECTION: culvert_model::setting::Section = culvert_model::setting::Section {
                name: $section,
                about: concat!($($about),+).trim_ascii_start(),
                rows: &[$(culvert_model::setting::Row {
                    name: stringify!($name),
                    help: concat!($($help),+).trim_ascii_start(),
                    note: "",
                    default: $words,
                    example: stringify!($example),
                    variable: None,
                    flag: None,
                }),+],
            };

            /// The first setting whose value means nothing, with the reason and what is permitted.
            fn check(&self) -> Result<(), $crate::settings::section::Wrong> {
                $({
                    let permitted: fn(&$type) -> Result<(), String> = $permitted;
                    permitted(&self.$name)
                        .map_err(|reason| (concat!($section, ".", stringify!($name)), reason))?;
                })+
                Ok(())
            }

            /// Every setting of this table, with its full name.
            fn show(&self) -> Vec<(&'static str, $crate::settings::section::Shown)> {
                vec![$({
                    let show: fn(&$type) -> $crate::settings::section::Shown = $show;
                    (concat!($section, ".", stringify!($name)), show(&self.$name))
                }),+]
            }
        }
    };
}

pub(super) use section;

/// A value, or what applies without one.
pub(super) fn or<T: ToString>(value: Option<&T>, without: &(impl ToString + ?Sized)) -> Shown {
    (value.map_or_else(|| without.to_string(), ToString::to_string), value.is_some())
}

/// A list, or what applies while it is empty.
pub(super) fn list<T: ToString>(values: &[T], without: &str) -> Shown {
    let shown = values.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    (if values.is_empty() { without.to_owned() } else { shown }, !values.is_empty())
}

/// A file's name: secrets are never read to be shown.
pub(super) fn file(path: Option<&PathBuf>) -> Shown {
    or(path.map(|path| path.display()).as_ref(), "none")
}

/// Checks a value, if there is one.
pub(super) fn if_set<T>(value: Option<&T>, check: impl FnOnce(&T) -> Result<(), String>) -> Result<(), String> {
    value.map_or(Ok(()), check)
}

/// Accepts every value that the parser of the file accepts.
pub(super) fn any<T>(_: &T) -> Result<(), String> {
    Ok(())
}

/// A value that the table must have.
pub(super) fn required<T: ToString>(value: &T) -> Shown {
    (value.to_string(), true)
}
