//! Options that commands share: where the state is, and how the data plane is set up.
//!
//! Options that set settings are generated from the table of settings. Those written out here set
//! none: they choose the configuration file and what is printed.

use clap::{Arg, ArgAction, ArgMatches, Args, FromArgMatches};
use culvert_model::setting::{Row, Scope};
use culvert_node::settings::{Flags, ROWS};

/// Defines a set of options: the settings' flags of some scopes.
macro_rules! options_of_settings {
    ($(#[doc = $doc:literal])+ $type:ident: $($scope:ident),+) => {
        $(#[doc = $doc])+
        #[derive(Clone, Debug, Default)]
        pub struct $type {
            /// What the command line set; boxed, because commands are variants of an enum.
            pub flags: Box<Flags>,
        }

        impl Args for $type {
            fn augment_args(command: clap::Command) -> clap::Command {
                with_options(command, ROWS, &[$(Scope::$scope),+])
            }

            fn augment_args_for_update(command: clap::Command) -> clap::Command {
                Self::augment_args(command)
            }
        }

        impl FromArgMatches for $type {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
                let mut options = Self::default();
                options.update_from_arg_matches(matches)?;
                Ok(options)
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
                take_options(&mut self.flags, matches, &[$(Scope::$scope),+]);
                Ok(())
            }
        }
    };
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Settings.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Configuration file [variable: CULVERT_CONFIG] [default:
    /// $XDG_CONFIG_HOME/culvert/culvert.toml, /etc/culvert/culvert.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Common options")]
    pub config: Option<String>,
    /// Print errors only: no progress, no messages, no result of a transfer or an audit; --json
    /// still prints its document
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub quiet: bool,
}

options_of_settings! {
    /// Settings that every command takes.
    CommonArgs: Common
}

options_of_settings! {
    /// Settings that only `culvert node` takes.
    NodeOnlyArgs: Node, NodeDataPlane
}

options_of_settings! {
    /// How this host's data plane is set up.
    EngineArgs: DataPlane
}

impl EngineArgs {
    /// The first of the options that were given on the command line, as people type it.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        self.flags.given().next().map(|(flag, _)| flag.typed)
    }
}

impl GlobalArgs {
    /// As flags for the settings.
    #[must_use]
    pub fn flags(&self, engine: &EngineArgs) -> Flags {
        Flags { config: self.config.clone(), ..(*self.common.flags).clone() }.or((*engine.flags).clone())
    }
}

/// Adds the options of these scopes, scope by scope.
fn with_options(command: clap::Command, rows: &[Row], scopes: &[Scope]) -> clap::Command {
    let options = scopes.iter().flat_map(|scope| rows.iter().filter_map(|row| option(row, *scope)));
    command.args(options)
}

/// The option of a setting, if it has one of this scope.
fn option(row: &Row, scope: Scope) -> Option<Arg> {
    let flag = row.flag.filter(|flag| flag.scope == scope)?;
    let option = Arg::new(row.name)
        .long(flag.long())
        .value_name(flag.value_name)
        .help(row.flag_help())
        .help_heading(scope.heading())
        .action(ArgAction::Set)
        .global(scope == Scope::Common);
    Some(option)
}

fn take_options(flags: &mut Flags, matches: &ArgMatches, scopes: &[Scope]) {
    for (row, place) in flags.places() {
        if row.flag.is_some_and(|flag| scopes.contains(&flag.scope)) {
            *place = matches.get_one::<String>(row.name).cloned();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::{CommandFactory as _, Parser as _};
    use culvert_model::setting::Flag;

    use super::*;
    use crate::args::{Cli, Command};

    /// Name, help and heading of each option of a command that names a variable.
    fn settings_of(command: &clap::Command) -> BTreeSet<(String, String, Option<String>)> {
        let options = command.get_arguments().filter_map(|option| {
            let help = option.get_help()?.to_string();
            let heading = option.get_help_heading().map(str::to_owned);
            help.contains("[variable: ").then(|| (format!("--{}", option.get_long().unwrap_or("")), help, heading))
        });
        options.collect()
    }

    fn expected(scopes: &[Scope]) -> BTreeSet<(String, String, Option<String>)> {
        let rows = ROWS.iter().filter_map(|row| Some((row, row.flag.filter(|flag| scopes.contains(&flag.scope))?)));
        rows.map(|(row, flag)| (flag.typed.to_owned(), row.flag_help(), flag.scope.heading().map(str::to_owned)))
            .collect()
    }

    #[test]
    fn commands_have_the_options_of_the_table_and_no_others() {
        use Scope::{Common, DataPlane, Node, NodeDataPlane};
        let mut root = Cli::command();
        root.build();
        let config = settings_of(&root).into_iter().filter(|(option, ..)| option == "--config");
        let config: BTreeSet<_> = config.collect();
        let of = |path: &[&str]| {
            let command = path.iter().fold(&root, |command, name| command.find_subcommand(name).unwrap());
            settings_of(command).difference(&config).cloned().collect::<BTreeSet<_>>()
        };
        assert_eq!(config.len(), 1);
        assert_eq!(of(&["node"]), expected(&[Common, Node, NodeDataPlane, DataPlane]));
        let with_lanes = [&["send"][..], &["get"], &["bench", "net"], &["far-end"]];
        for path in with_lanes {
            assert_eq!(of(path), expected(&[Common, DataPlane]), "{path:?}");
        }
        let compared: Vec<String> =
            [&["node"][..]].iter().chain(&with_lanes).map(|path| format!("culvert {}", path.join(" "))).collect();
        let mut commands = Vec::new();
        collect(&root, "culvert", &mut commands);
        for (name, command) in commands.iter().filter(|(name, _)| !compared.contains(name)) {
            let options: BTreeSet<_> = settings_of(command).difference(&config).cloned().collect();
            assert_eq!(options, expected(&[Common]), "{name}");
        }
    }

    fn collect<'a>(command: &'a clap::Command, name: &str, found: &mut Vec<(String, &'a clap::Command)>) {
        found.push((name.to_owned(), command));
        let subcommands = command.get_subcommands().filter(|subcommand| subcommand.get_name() != "help");
        subcommands.for_each(|subcommand| collect(subcommand, &format!("{name} {}", subcommand.get_name()), found));
    }

    #[test]
    fn what_is_typed_arrives_under_its_row() {
        let mut line = vec!["culvert".to_owned(), "node".to_owned()];
        for flag in ROWS.iter().filter_map(|row| row.flag) {
            line.extend([flag.typed.to_owned(), flag.long().to_uppercase()]);
        }
        let cli = Cli::try_parse_from(line).unwrap();
        let Command::Node(node) = &cli.command else { panic!("{:?}", cli.command) };
        let flags = node.settings.flags.clone().or(cli.global.flags(&node.engine));
        let given: Vec<(&str, String)> = flags.given().map(|(flag, text)| (flag.typed, text.to_owned())).collect();
        let expected: Vec<(&str, String)> =
            ROWS.iter().filter_map(|row| row.flag).map(|flag| (flag.typed, flag.long().to_uppercase())).collect();
        assert_eq!(given, expected);
    }

    #[test]
    fn a_row_of_another_table_becomes_an_option() {
        let flag = Flag { typed: "--water-level", value_name: "METERS", scope: Scope::DataPlane };
        let row = Row {
            name: "water_level_m",
            help: "Level of the water",
            note: "",
            default: "none",
            example: "3",
            variable: Some("CULVERT_WATER_LEVEL"),
            flag: Some(flag),
        };
        let command = with_options(clap::Command::new("x"), &[row], &[Scope::DataPlane]);
        let help = "Level of the water [variable: CULVERT_WATER_LEVEL] [default: none]";
        let option = ("--water-level".to_owned(), help.to_owned(), Some("Data plane".to_owned()));
        assert_eq!(settings_of(&command), BTreeSet::from([option]));
    }
}
