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
        // Whoever reads what a command prints has seen enough, as behind `| head`.
        Err(error) if is_broken_pipe(&error) => ExitCode::from(141),
        Err(error) => fail(&error),
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn fail(error: &anyhow::Error) -> ExitCode {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "culvert-portal: {error:#}");
    ExitCode::FAILURE
}
