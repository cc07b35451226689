//! The macro behind the table of settings. It turns a row into a typed setting with its origin, a
//! field of `Flags`, a key of the configuration file, a variable, a line of `culvert config show`,
//! and a [`Row`](culvert_model::setting::Row), from which help and documents are generated.

/// Makes `Settings`, `Flags`, `FileSettings` and `ROWS` from a table of settings.
///
/// `in file` names the type of the value in the configuration file; converted to text, it goes
/// through the same `parse` as flags and variables. A row without `flag:` has no option on the
/// command line.
macro_rules! settings {
    // An expression that names a field of `Flags`: rows without a flag have no such field.
    (@flag $text:expr) => { None };
    (@flag $text:expr, $scope:ident $typed:literal $value_name:literal) => { $text };
    // Mentions a metavariable of the flag, which makes the repetition around it conditional.
    (@with $typed:literal $kept:expr) => { $kept };
    ($(
        $(#[doc = $help:literal])+
        $name:ident: $type:ty, in file $written:ty {
            $(flag: $scope:ident $typed:literal $value_name:literal,)?
            variable: $variable:literal,
            example: $example:tt,
            default: $default:expr, $words:literal,
            parse: $parse:expr,
            show: $show:expr,
            $(note: $note:literal,)?
        }
    )+) => {
        /// The rows, as help and documents show them.
        pub static ROWS: &[culvert_model::setting::Row] = &[$(culvert_model::setting::Row {
            name: stringify!($name),
            help: concat!($($help),+).trim_ascii_start(),
            note: concat!("" $(, $note)?),
            default: $words,
            example: stringify!($example),
            variable: Some($variable),
            flag: $crate::settings::row::settings!(@flag Some(culvert_model::setting::Flag {
                $(
                    typed: $typed,
                    value_name: $value_name,
                    scope: culvert_model::setting::Scope::$scope,
                )?
            }) $(, $scope $typed $value_name)?),
        }),+];

        /// All settings.
        #[derive(Clone, Debug)]
        pub struct Settings {
            $(
                $(#[doc = $help])+
                pub $name: $crate::settings::origin::Setting<$type>,
            )+
            /// The tables of the configuration file: path checks, responder, archive, template.
            pub paths: culvert_path::settings::PathSettings,
            /// The file that was read, if there is one.
            pub file: Option<std::path::PathBuf>,
        }

        /// What the command line set.
        #[derive(Clone, Debug, Default)]
        pub struct Flags {
            /// `--config`
            pub config: Option<String>,
            $($(
                #[doc = concat!("`", $typed, "`")]
                pub $name: Option<String>,
            )?)+
        }

        /// The configuration file.
        #[derive(Clone, Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        pub(super) struct FileSettings {
            $($name: Option<$written>,)+
            #[serde(default)]
            path: culvert_path::settings::PathTable,
            responder: Option<culvert_path::settings::ResponderTable>,
            archive: Option<culvert_path::settings::ArchiveTable>,
            psconfig: Option<culvert_path::settings::PsconfigTable>,
        }

        impl Flags {
            /// The flags that were given, with their texts.
            pub fn given(&self) -> impl Iterator<Item = (&'static culvert_model::setting::Flag, &str)> {
                let texts: [Option<&str>; ROWS.len()] = [$(
                    $crate::settings::row::settings!(
                        @flag self.$name.as_deref() $(, $scope $typed $value_name)?
                    )
                ),+];
                ROWS.iter().zip(texts).filter_map(|(row, text)| Some((row.flag.as_ref()?, text?)))
            }

            /// Every flag's row, with the place for its text.
            pub fn places(
                &mut self,
            ) -> impl Iterator<Item = (&'static culvert_model::setting::Row, &mut Option<String>)> {
                let places: [Option<&mut Option<String>>; ROWS.len()] = [$(
                    $crate::settings::row::settings!(
                        @flag Some(&mut self.$name) $(, $scope $typed $value_name)?
                    )
                ),+];
                ROWS.iter().zip(places).filter_map(|(row, place)| Some((row, place?)))
            }

            /// These, and those of `other` that these do not have.
            #[must_use]
            pub fn or(self, other: Self) -> Self {
                Self {
                    config: self.config.or(other.config),
                    $($($name: $crate::settings::row::settings!(@with $typed self.$name.or(other.$name)),)?)+
                }
            }
        }

        impl Settings {
            /// Determines every setting.
            pub(super) fn settle(
                flags: &Flags,
                variables: $crate::settings::resolver::Variables<'_>,
                file: $crate::settings::file::ReadFile<FileSettings>,
            ) -> Result<Self, $crate::settings::origin::SettingsError> {
                let $crate::settings::file::ReadFile { settings: file, path, lines } = file;
                let resolver = $crate::settings::resolver::Resolver { variables, file: path.clone(), lines };
                let paths = culvert_path::settings::PathSettings {
                    path: file.path,
                    responder: file.responder,
                    archive: file.archive,
                    psconfig: file.psconfig,
                };
                paths.check().map_err(|(name, reason)| {
                    $crate::settings::origin::SettingsError::Value { name, origin: resolver.in_file(name), reason }
                })?;
                Ok(Self {
                    $($name: resolver.resolve(
                        $crate::settings::resolver::Places {
                            name: stringify!($name),
                            flag: $crate::settings::row::settings!(
                                @flag flags.$name.as_deref().map(|text| ($($typed,)? text))
                                $(, $scope $typed $value_name)?
                            ),
                            variable: $variable,
                            file: file.$name.map(|value| value.to_string()),
                        },
                        $default,
                        $parse,
                    )?,)+
                    paths,
                    file: path,
                })
            }

            /// Every setting of the top level as text with its origin, for `culvert config show`.
            #[must_use]
            pub fn table(&self) -> Vec<(&'static str, String, $crate::settings::origin::Origin)> {
                vec![$({
                    let show: fn(&$type) -> String = $show;
                    (stringify!($name), show(&self.$name.value), self.$name.origin.clone())
                }),+]
            }
        }
    };
}

pub(super) use settings;
