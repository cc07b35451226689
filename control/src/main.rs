//! The `culvert` program: reads the command line, carries it out, and says what went wrong.

use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, FromArgMatches as _};
use culvert_control::cli::{self, args::Cli, habits, report, said};
use culvert_link::say_aside;
use culvert_protocol::foreign_text::plain_lines;

fn main() -> ExitCode {
    let matches = Cli::command().try_get_matches().unwrap_or_else(|error| {
        let arguments: Vec<_> = std::env::args_os().skip(1).collect();
        habits::advised(error, &Cli::command(), &arguments).exit()
    });
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    match cli::run(cli) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => {
            say_aside!("culvert: {}", plain_lines(&said::unless_said(&error.to_string())));
            if asks_for_json(&matches) && !report::has_answered() {
                // Standard output may be what failed.
                let _ = report::print_json(&error.answer());
            }
            ExitCode::from(error.exit_code)
        }
    }
}

/// Whether the command was given `--json`, which some have and others have not.
fn asks_for_json(matches: &ArgMatches) -> bool {
    let here = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    here || matches.subcommand().is_some_and(|(_, matches)| asks_for_json(matches))
}
