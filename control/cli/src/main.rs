//! The `culvert` program: parses the command line, runs the command, and reports its error.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory as _, Error, FromArgMatches as _};
use culvert_cli::args::Cli;
use culvert_cli::exit::CommandError;
use culvert_cli::portal::program;
use culvert_cli::{command_tips, remedies, report};
use culvert_link::say_aside;
use culvert_protocol::foreign_text::plain_lines;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // Options behind the word are the portal's, even if there is one of the same name here.
    if let Some((word, rest)) = arguments.split_first()
        && word == program::WORD
    {
        return report_failure(&program::become_portal(rest), false);
    }
    let matches = match Cli::command().try_get_matches() {
        Ok(matches) => matches,
        Err(error) => {
            return report_parse_error(&command_tips::with_tips(error, &Cli::command(), &arguments), &arguments);
        }
    };
    let cli = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => return report_parse_error(&error, &arguments),
    };
    match culvert_cli::run(cli).and_then(|code| report::finish().map(|()| code)) {
        Ok(code) => ExitCode::from(code as u8),
        Err(error) => report_failure(&error, asks_for_json(&matches)),
    }
}

/// Reports why a command has failed.
fn report_failure(error: &CommandError, asks_for_json: bool) -> ExitCode {
    say_error(error);
    if asks_for_json && !report::has_answered() {
        // Standard output may be what failed.
        let _ = report::print_json(&error.answer());
    }
    ExitCode::from(error.exit_code)
}

fn say_error(error: &CommandError) {
    say_aside!("culvert: {}", plain_lines(&remedies::without_repetition(&error.to_string())));
}

/// Reports a command line that does not parse, or shows the help or version that it asks for.
fn report_parse_error(error: &Error, arguments: &[OsString]) -> ExitCode {
    let printed = report::outcome(error.print().and_then(|()| std::io::stdout().flush()));
    // Nobody can be told that standard error cannot be written.
    if let (Err(unwritten), false) = (&printed, error.use_stderr()) {
        say_error(unwritten);
        return ExitCode::from(unwritten.exit_code);
    }
    if error.use_stderr() && arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json") {
        let _ = report::print_json(&CommandError::misspelled(error).answer());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(culvert_model::exit_code::ExitCode::Usage as u8))
}

/// Whether the command has the option `--json` and it was given.
fn asks_for_json(matches: &ArgMatches) -> bool {
    let here = matches.try_get_one::<bool>("json").ok().flatten().copied().unwrap_or(false);
    here || matches.subcommand().is_some_and(|(_, matches)| asks_for_json(matches))
}
