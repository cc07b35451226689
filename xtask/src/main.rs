//! The repository's tasks, for people and for CI: both use the same commands.
#![forbid(unsafe_code)]
// The output of a task is its result.
#![allow(clippy::print_stdout)]

mod ebpf;
mod house;
mod packages;
mod steps;
mod testing;
mod vmtest;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use testing::Selection;

/// Tasks of the Culvert repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Run every test, or those named; as root, install the programs that some of them use first
    Test {
        /// Groups (transfers, faults, hostile, network, commands), modules, packages, or parts of
        /// tests' names
        #[arg(value_name = "NAME")]
        names: Vec<String>,
        /// Optimized programs
        #[arg(long)]
        release: bool,
        /// How many test programs run at a time [default: the number of cores and one more]
        #[arg(long, value_name = "NUMBER")]
        workers: Option<usize>,
        /// Passed on to each test program, for example --ignored --nocapture
        #[arg(last = true, value_name = "LIBTEST OPTIONS")]
        libtest: Vec<String>,
    },
    /// Formatting, house rules, lints, documentation, licenses and advisories
    Check,
    /// Only the house rules: dependencies between crates, cycles of files, sizes, reading order,
    /// quotes of protocol rules, invariants
    House {
        /// Write docs/invariants.md from the sources first
        #[arg(long)]
        write: bool,
    },
    /// Everything that CI runs: check, then test, then the virtual machine
    Ci,
    /// AF_XDP in zero-copy mode on a real driver, in a virtual machine; needs QEMU, and downloads a
    /// Debian kernel
    Vmtest {
        /// Use the optimized program, for its figures
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
        /// Use an existing program instead of a release build
        #[arg(long, value_name = "FILE")]
        program: Option<PathBuf>,
        /// Where to put the package
        #[arg(long, value_name = "DIRECTORY", default_value = "target/debian")]
        output: PathBuf,
        /// Maintainer of the package
        #[arg(long, value_name = "NAME <ADDRESS>", default_value = xtask::deb::MAINTAINER)]
        maintainer: String,
        /// Revision of the package, after the version
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        revision: u32,
    },
    /// Compare the engine with the machine's limits and installed peers, or with another build
    /// (`--against`); prints tables of ratios
    Bench {
        /// Passed on to the benchmark: --help lists the tables
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure the portal on both databases: requests, logins under attack, streams, memory
    PortalBench,
    /// Rate control on simulated paths: every bound of docs/rate-control.md, from a seed
    Sim {
        /// Passed on to the simulator: --help lists the options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Two namespaces with a long, lossy path between them, for experiments: --rtt 100ms --rate
    /// 1Gbit --loss 0.01; needs root
    Lab {
        /// Passed on to the emulator: --help lists the options
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Real transfers on an emulated path, compared with iperf3 (CUBIC and BBR); prints a table;
    /// needs root
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
            // On one line, without the backtrace that RUST_BACKTRACE would add, which would concern
            // only this program.
            println!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Test { names, release, workers, libtest } => steps::test(&Selection { names, libtest, release, workers }),
        Task::Check => steps::check(),
        Task::House { write } => {
            if write {
                house::write()?;
            }
            house::check()
        }
        Task::Ci => {
            steps::check()?;
            steps::test(&Selection::default())?;
            vmtest::run(false)
        }
        Task::Vmtest { release } => vmtest::run(release),
        Task::BuildEbpf { check } => ebpf::build(check),
        Task::Deb { program, output, maintainer, revision } => steps::deb(program, &output, maintainer, revision),
        Task::Bench { arguments } => steps::bench(&arguments),
        Task::PortalBench => steps::portal_bench(),
        Task::Sim { arguments } => steps::simulate(&arguments),
        Task::Lab { arguments } => steps::emulate("lab", &arguments),
        Task::WanTable { arguments } => steps::emulate("table", &arguments),
    }
}
