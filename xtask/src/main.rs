//! The repository's tasks, for people and for CI: what is typed is the same for both.
#![forbid(unsafe_code)]
// What a task does and finds is what it prints.
#![allow(clippy::print_stdout)]

mod ebpf;
mod house;
mod packages;
mod steps;
mod test_output;
mod vmtest;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tasks of the Culvert repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every test; as root, install the programs that some of them use first
    Test {
        /// Passed on to cargo test, for instance a test's name
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Formatting, house rules, lints, documentation, licences and advisories
    Check,
    /// The house rules alone: arrows between crates, circles of files, sizes, rules of the wire
    House,
    /// Everything that CI runs: check, then test, then the virtual machine
    Ci,
    /// AF_XDP in zero-copy mode on a real driver, in a virtual machine; needs QEMU, and downloads a Debian kernel
    Vmtest {
        /// Of the optimized program, for its figures
        #[arg(long)]
        release: bool,
    },
    /// Compile the XDP steering program (ebpf/) to the object that is committed
    BuildEbpf {
        /// Compile, and compare with the committed object instead of replacing it
        #[arg(long)]
        check: bool,
    },
    /// Build a Debian package of the program; prints its path
    Deb {
        /// A program that is built already, instead of a release build
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Where the package goes
        #[arg(long, value_name = "DIRECTORY", default_value = "target/debian")]
        output: PathBuf,
        /// Who is named as its maintainer
        #[arg(long, value_name = "NAME <ADDRESS>", default_value = xtask::deb::MAINTAINER)]
        maintainer: String,
        /// Revision of the package, after the version
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        revision: u32,
    },
    /// Measure the engine beside the machine's limits and the installed peers, or another build of it (`--against`);
    /// prints tables of ratios
    Bench {
        /// Passed on to the benchmark: --help lists the tables
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Rate control on simulated paths: every bound of docs/rate-control.md, from a seed
    Sim {
        /// Passed on to the simulator: --help lists the options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Two namespaces with a long, lossy path between them, to try things on: --rtt 100ms --rate 1Gbit --loss 0.01; root
    Lab {
        /// Passed on to the emulator: --help lists the options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Real transfers on an emulated path beside iperf3 with CUBIC and BBR; prints a table; root
    WanTable {
        /// Passed on to the emulator: --help lists the options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Arguments::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one line, without the backtrace that RUST_BACKTRACE would add: it would be of this program only.
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Test { arguments } => steps::test(&arguments),
        Task::Check => steps::check(),
        Task::House => house::check(),
        Task::Ci => {
            steps::check()?;
            steps::test(&[])?;
            vmtest::run(false)
        }
        Task::Vmtest { release } => vmtest::run(release),
        Task::BuildEbpf { check } => ebpf::build(check),
        Task::Deb { program, output, maintainer, revision } => steps::deb(program, &output, maintainer, revision),
        Task::Bench { arguments } => steps::bench(&arguments),
        Task::Sim { arguments } => steps::simulate(&arguments),
        Task::Lab { arguments } => steps::emulate("lab", &arguments),
        Task::WanTable { arguments } => steps::emulate("table", &arguments),
    }
}
