//! Runs the simulator's matrix: `cargo run -p culvert-simulator --example sim -- --quick`.

use clap::Parser;
use culvert_simulator::command::{SimArguments, SimError, run};

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    arguments: SimArguments,
}

fn main() -> Result<(), SimError> {
    run(&Cli::parse().arguments, &mut std::io::stdout())
}
