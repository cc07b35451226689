//! `culvert tune` and `culvert doctor` alone, for the tests of this crate, so that they do not need
//! the `culvert` binary, which runs the same code.
//!
//! ```text
//! cargo run -p culvert-tuning --example tune -- doctor
//! cargo run -p culvert-tuning --example tune -- --state /tmp/tuning tune plan
//! ```

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use culvert_tuning::command::{CommandContext, DoctorArgs, TuneArgs};

/// The state directory of the system node.
const STATE_DIRECTORY: &str = "/var/lib/culvert/tuning";

#[derive(Debug, Parser)]
struct Cli {
    /// Where journals are kept
    #[arg(long, default_value = STATE_DIRECTORY, global = true)]
    state: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Host tuning: audit, plan, apply, confirm, roll back
    Tune(TuneArgs),
    /// Show whether this host can run at full speed, and what to do
    Doctor(DoctorArgs),
}

fn main() -> io::Result<ExitCode> {
    let cli = Cli::parse();
    let mut context = CommandContext {
        program: std::env::current_exe()?,
        arguments: vec!["--state".to_owned(), cli.state.display().to_string(), "tune".to_owned()],
        state_directory: cli.state,
        tune: "culvert tune".to_owned(),
        out: &mut io::stdout(),
        err: &mut io::stderr(),
        versions: vec![("culvert".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
        readiness: Vec::new(),
        has_af_xdp: false,
        quiet: false,
    };
    let done = match cli.command {
        Command::Tune(arguments) => arguments.run(&mut context),
        Command::Doctor(arguments) => arguments.run(&mut context),
    };
    Ok(ExitCode::from(done.unwrap_or_else(|failure| {
        eprintln!("culvert: {failure}");
        failure.code
    })))
}
