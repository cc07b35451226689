//! The options of `culvert path`.

use clap::{Args, Subcommand};

use crate::units::parse_rate;

/// `culvert path`.
#[derive(Clone, Debug, Args)]
pub struct PathArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: PathAction,
}

/// What to do with paths.
#[derive(Clone, Debug, Subcommand)]
pub enum PathAction {
    /// Measure the path to a partner: round trip, loss, delay, MTU, order, available rate, route; before any data moves
    Check(CheckArgs),
    /// What is known of the path to a partner: earlier checks and transfers
    History(HistoryArgs),
}

/// `culvert path check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The partner must know this node's key and permit path checks (table [path] of its culvert.toml).\nExit codes: 0 everything was measured, 6 a partial result, 1 nothing could be measured, 4 not permitted, 5 another check runs there."
)]
pub struct CheckArgs {
    /// The partner: a profile's name, or culvert://HOST:PORT
    pub partner: String,
    /// How long packets are counted for loss; 1e-5 takes 300 000 packets
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Packets in a second that are counted for loss
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=45_000))]
    pub packets_per_second: u32,
    /// Payload of those packets
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = clap::value_parser!(u16).range(116..=8_900))]
    pub size: u16,
    /// The highest rate of anything that is sent [default: the table [path] of culvert.toml, or 10G]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// The longest that the whole check may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub limit: u32,
    /// Fill the bottleneck's buffer too, for a second: others on the path feel it
    #[arg(long)]
    pub buffer: bool,
    /// Do not look for the available rate
    #[arg(long)]
    pub no_rate: bool,
    /// Do not trace routes
    #[arg(long)]
    pub no_trace: bool,
    /// Do not look for the MTU
    #[arg(long)]
    pub no_mtu: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert path history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// The partner; without it, all that have records
    pub partner: Option<String>,
    /// At most so many of each direction
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// Print JSON, a line for each record
    #[arg(long)]
    pub json: bool,
}

/// Reads a number of seconds.
///
/// # Errors
/// In words.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("'{text}' is not a number of seconds between 0.01 and 86400")),
    }
}
