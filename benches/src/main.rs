//! `cargo xtask bench`: the engine's speed, as ratios to other programs.
//!
//! Absolute rates mean little on a shared machine, so every table is measured in one run: its
//! contenders take turns ([`contest`]), and the engine's median is divided by theirs. The
//! contenders are the path's raw limit and the installed peers ([`peers`]), in a lab of two network
//! namespaces with one core for each side. With `--against` another build of the engine is a
//! contender ([`versions`]), which shows whether a change made the engine slower.
#![forbid(unsafe_code)]
// A benchmark's result is what it prints.
#![allow(clippy::print_stdout)]

mod af_xdp;
mod contest;
mod engine;
mod field;
mod files;
mod junk;
mod many_files;
mod memory;
mod peers;
mod resident;
mod table;
mod versions;

use std::path::PathBuf;

use anyhow::ensure;
use clap::{Parser, ValueEnum};

/// The engine beside the machine's limits and the installed peers
#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Arguments {
    /// Only these tables
    #[arg(value_enum)]
    tables: Vec<Table>,
    /// Rounds; each contender runs once in each
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Gigabytes that a run moves
    #[arg(long, default_value_t = 8)]
    gigabytes: u64,
    /// MTU of the lab's link, for the tables of memory
    #[arg(long, default_values_t = [9_000, 1_500])]
    mtu: Vec<u32>,
    /// Another culvert program, for example from before a change, for the table of versions
    #[arg(long, value_name = "PATH")]
    against: Option<PathBuf>,
    /// Only send junk to this address and port until killed: started by the AF_XDP table alongside
    /// a transfer
    #[arg(long, value_name = "ADDRESS", hide = true)]
    junk: Option<std::net::SocketAddr>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Table {
    /// Memory to memory: the engine, its raw limit, TCP, encrypted GridFTP
    Memory,
    /// A file in the page cache to a file on disk
    File,
    /// 100,000 small files, memory file system to memory file system
    ManyFiles,
    /// Resident memory of every process
    Resident,
    /// Cycles for each byte, stage by stage
    Ledger,
    /// Through AF_XDP: the engine, the raw limit with and without the cipher, the steering program,
    /// a flood of junk
    AfXdp,
    /// This build compared with the one of --against, alternating; only with that option
    Versions,
}

impl Arguments {
    fn wants(&self, table: Table) -> bool {
        self.tables.is_empty() || self.tables.contains(&table)
    }

    /// The program to compare with: checked before the measurements, which take long.
    fn other_build(&self) -> anyhow::Result<Option<versions::Build>> {
        let Some(path) = &self.against else {
            ensure!(!self.tables.contains(&Table::Versions), "the table 'versions' needs --against PATH");
            return Ok(None);
        };
        ensure!(self.wants(Table::Versions), "--against is for the table 'versions': name that too");
        versions::Build::at(path).map(Some)
    }
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    if let Some(to) = arguments.junk {
        return junk::send(to);
    }
    let wanted = |table| arguments.wants(table);
    let against = arguments.other_build()?;
    if let Some(why) = culvert_tests::lab::missing() {
        println!("skipped: {why}");
        return Ok(());
    }
    println!("{}", engine::machine());
    if wanted(Table::Memory) {
        for &mtu in &arguments.mtu {
            memory::run(mtu, arguments.gigabytes, arguments.rounds)?;
        }
    }
    if wanted(Table::File) {
        files::run(arguments.gigabytes.min(4), arguments.rounds)?;
    }
    if wanted(Table::ManyFiles) {
        many_files::run(arguments.rounds)?;
    }
    if wanted(Table::Resident) {
        resident::run()?;
    }
    if wanted(Table::Ledger) {
        engine::ledger()?;
    }
    if wanted(Table::AfXdp) {
        af_xdp::run(arguments.gigabytes, arguments.rounds)?;
    }
    if let Some(against) = against {
        versions::run(against, &arguments.mtu, arguments.gigabytes, arguments.rounds)?;
    }
    Ok(())
}
