//! `culvert-portal`: parses the command line, runs the command, and reports its error.

use std::process::ExitCode;

use clap::Parser as _;
use culvert_portal::args::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&anyhow::anyhow!("cannot start threads: {error}")),
    };
    match runtime.block_on(culvert_portal::run(cli)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error),
    }
}

fn fail(error: &anyhow::Error) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "culvert-portal: {error:#}");
    ExitCode::FAILURE
}
