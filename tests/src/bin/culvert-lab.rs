//! Runs the WAN emulator by hand, `culvert-lab lab --rtt 100ms --rate 1Gbit --loss 0.01`, and makes
//! the table of docs/rate-control.md.

use std::process::ExitCode;

use clap::Parser;
use culvert_tests::wan::command::{LabArguments, lab};
use culvert_tests::wan::table::{TableArguments, table};

#[derive(Parser)]
enum Cli {
    /// Makes an emulated path between two network namespaces
    Lab(LabArguments),
    /// Measures Culvert and iperf3 on emulated paths
    Table(TableArguments),
}

fn main() -> ExitCode {
    let mut out = std::io::stdout();
    let result = match Cli::parse() {
        Cli::Lab(arguments) => lab(&arguments, &mut out),
        Cli::Table(arguments) => table(&arguments, &mut out).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("culvert-lab: {error}");
        ExitCode::FAILURE
    })
}
