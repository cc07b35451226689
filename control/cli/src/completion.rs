//! `culvert completion` and `culvert version`.

use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use culvert_model::exit_code::ExitCode;

use crate::args::{Cli, CompletionArgs, VersionArgs};
use crate::exit::{CommandError, of_path};
use crate::report::{print_json, say};

/// Prints a shell's completions, or writes man pages.
///
/// # Errors
/// [`CommandError`].
pub fn run(args: &CompletionArgs) -> Result<ExitCode, CommandError> {
    if args.shell == "man" {
        let directory = args.directory.as_deref().ok_or_else(|| CommandError::usage("man pages need --directory"))?;
        crate::man::write_all(Cli::command(), directory).map_err(|error| {
            CommandError::new(
                of_path(&error),
                format!("man pages cannot be written to {}: {error}", directory.display()),
            )
        })?;
        return Ok(ExitCode::Done);
    }
    let shell: Shell = args.shell.parse().map_err(|_| {
        CommandError::usage(format!(
            "there are no completions for '{}': write bash, zsh, fish, elvish, powershell, or man",
            args.shell
        ))
    })?;
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut without_hidden(&Cli::command()), "culvert", &mut script);
    say(String::from_utf8_lossy(&script).trim_end())?;
    Ok(ExitCode::Done)
}

/// Prints versions.
///
/// # Errors
/// [`CommandError`].
pub fn version(args: &VersionArgs) -> Result<ExitCode, CommandError> {
    let (version, protocol) = (env!("CARGO_PKG_VERSION"), culvert_protocol::control::PROTOCOL_VERSION);
    let wire = culvert_protocol::wire::VERSION;
    if args.json {
        print_json(&serde_json::json!({ "culvert": version, "protocol": protocol, "wire": wire }))?;
    } else {
        say(&format!("culvert {}", version_text()))?;
    }
    Ok(ExitCode::Done)
}

/// The versions of program and protocols in one line.
#[must_use]
pub fn version_text() -> String {
    let (version, protocol) = (env!("CARGO_PKG_VERSION"), culvert_protocol::control::PROTOCOL_VERSION);
    format!("{version} (control protocol {protocol}, wire format {})", culvert_protocol::wire::VERSION)
}

/// The command line without hidden commands, which shells would offer otherwise.
fn without_hidden(full: &Command) -> Command {
    let visible: Vec<Command> = full.get_subcommands().filter(|command| !command.is_hide_set()).cloned().collect();
    let command = Command::new("culvert").version(env!("CARGO_PKG_VERSION")).propagate_version(true);
    command.args(full.get_arguments().cloned().collect::<Vec<_>>()).subcommands(visible)
}
