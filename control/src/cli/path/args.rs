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
    /// Have a perfSONAR host measure: what it offers, or a test from it to this host
    Pscheduler(PschedulerArgs),
    /// Measure to a STAMP or TWAMP-Light reflector
    Stamp(TwoWayArgs),
    /// Measure to a TWAMP server
    Twamp(TwoWayArgs),
    /// Deliver what waits for the archive, where no node runs that does it
    Publish,
}

/// `culvert path pscheduler`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without --test it shows what the host offers. The test runs from the perfSONAR host to --dest; for throughput a plain 'iperf3 -s' must run there,\nfor latency a TWAMP server, which a node with [responder] twamp is."
)]
pub struct PschedulerArgs {
    /// The perfSONAR host: NAME, NAME:PORT or https://NAME
    pub host: String,
    /// throughput, latency, rtt, trace or mtu
    #[arg(long, value_name = "TEST")]
    pub test: Option<culvert_perfsonar::pscheduler::TestKind>,
    /// Where to: this host's name as the perfSONAR host knows it [default: this host's name]
    #[arg(long, value_name = "HOST")]
    pub dest: Option<String>,
    /// From where, if not from the perfSONAR host itself
    #[arg(long, value_name = "HOST")]
    pub source: Option<String>,
    /// The far end of throughput runs pScheduler too, rather than a plain iperf3
    #[arg(long)]
    pub two_ended: bool,
    /// Seconds of throughput
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u32).range(5..=3_600))]
    pub seconds: u32,
    /// TCP streams of throughput
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=128))]
    pub streams: u32,
    /// Packets of latency and rtt
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub packets: u32,
    /// A tool that must be used, for instance iperf3
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// Keep the result in the history of this partner
    #[arg(long, value_name = "NAME")]
    pub partner: Option<String>,
    /// The longest that the test may take, waiting for its turn included
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub limit: u64,
    /// How its certificate is trusted: ca, pin (the first one seen, then no other) or insecure
    #[arg(long, value_name = "HOW", default_value = "pin", value_parser = ["ca", "pin", "insecure"])]
    pub trust: String,
    /// CA certificates for --trust ca [default: the host's own]
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<std::path::PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert path stamp` and `culvert path twamp`.
#[derive(Clone, Debug, Args)]
pub struct TwoWayArgs {
    /// The reflector or server: HOST or HOST:PORT [default port: 862]
    pub host: String,
    /// How many packets
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub packets: u32,
    /// From one packet to the next
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1, value_parser = parse_interval)]
    pub interval: f64,
    /// UDP payload of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 44, value_parser = clap::value_parser!(u16).range(44..=65_000))]
    pub size: u16,
    /// DSCP of the packets
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=63))]
    pub dscp: u8,
    /// The secret of authenticated STAMP
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<std::path::PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Reads an interval.
///
/// # Errors
/// In words.
pub fn parse_interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.000_02..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("'{text}' is not a number of seconds between 0.00002 and 60")),
    }
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
    /// The highest rate of anything that is sent [default: `path.rate` of culvert.toml, or 10G]
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
