//! The options of `culvert path`.

use clap::{Args, Subcommand};
use culvert_model::units::parse_rate;

use crate::numbers::{number_in, number_of};

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
    /// Measure the path to a partner before data moves: round-trip time, loss, one-way delay,
    /// reordering, MTU, available rate, route
    Check(CheckArgs),
    /// Show earlier checks of the path to a partner, and the transfers over it
    History(HistoryArgs),
    /// Run a test on a perfSONAR host, or show which tests it offers
    Pscheduler(PschedulerArgs),
    /// Measure round-trip time and loss to a STAMP or TWAMP-Light reflector
    Stamp(TwoWayArgs),
    /// Measure round-trip time and loss to a TWAMP server
    Twamp(TwoWayArgs),
    /// Send queued results to the archive; a running node does this by itself
    Publish,
}

/// `culvert path pscheduler`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Without --test, the tests that the host offers are listed. A test runs from the perfSONAR host to --dest:\nthroughput needs a plain 'iperf3 -s' there, latency a TWAMP server, such as a node with [responder] twamp."
)]
pub struct PschedulerArgs {
    /// The perfSONAR host: NAME, NAME:PORT or https://NAME
    pub host: String,
    /// Test to run: throughput, latency, rtt, trace or mtu
    #[arg(long, value_name = "TEST")]
    pub test: Option<culvert_perfsonar::pscheduler::TestKind>,
    /// Destination of the test, by a name that the perfSONAR host can resolve [default: this host's
    /// name]
    #[arg(long, value_name = "HOST")]
    pub dest: Option<String>,
    /// Source of the test [default: the perfSONAR host itself]
    #[arg(long, value_name = "HOST")]
    pub source: Option<String>,
    /// The destination of a throughput test runs pScheduler too, not a plain iperf3
    #[arg(long)]
    pub two_ended: bool,
    /// Duration of a throughput test
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = number_in(5u32..=3_600))]
    pub seconds: u32,
    /// TCP streams of a throughput test
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = number_in(1u32..=128))]
    pub streams: u32,
    /// Packets of a latency or rtt test
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number_in(1u32..=100_000))]
    pub packets: u32,
    /// Insist on this tool, for instance iperf3
    #[arg(long, value_name = "NAME")]
    pub tool: Option<String>,
    /// Add the result to this partner's history
    #[arg(long, value_name = "NAME")]
    pub partner: Option<String>,
    /// Give up after this time, including the wait for the test's turn
    #[arg(long, value_name = "SECONDS", default_value_t = 900, value_parser = number_in(1u64..=86_400))]
    pub limit: u64,
    /// How to verify the host's certificate: ca, pin (trust the first one seen and no other) or
    /// insecure
    #[arg(long, value_name = "HOW", default_value = "pin", value_parser = ["ca", "pin", "insecure"])]
    pub trust: String,
    /// CA certificates for --trust ca [default: this host's]
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
    /// Number of packets
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number_in(1u32..=100_000_000))]
    pub packets: u32,
    /// Time between packets
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1, value_parser = parse_interval)]
    pub interval: f64,
    /// UDP payload of each packet
    #[arg(long, value_name = "BYTES", default_value_t = 44, value_parser = number_in(44u16..=65_000))]
    pub size: u16,
    /// DSCP of the packets
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = number_in(0u8..=63))]
    pub dscp: u8,
    /// File with the shared secret of authenticated STAMP
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<std::path::PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Parses an interval in seconds.
///
/// # Errors
/// A sentence.
pub fn parse_interval(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.000_02..=60.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("'{text}' is not a number of seconds between 0.00002 and 60")),
    }
}

/// `culvert path check`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "The partner must know this node's key and permit path checks (table [path] of its culvert.toml).\nExit status: 0 everything was measured, 6 only part of it, 1 nothing, 4 not permitted, 5 the partner is busy with another check."
)]
pub struct CheckArgs {
    /// The partner: the name of a profile, or culvert://HOST:PORT
    pub partner: String,
    /// Duration of the loss measurement; measuring a loss rate of 10⁻⁵ takes 300,000 packets
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Packets per second of the loss measurement
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = number_in(1u32..=45_000))]
    pub packets_per_second: u32,
    /// Payload of each packet of the loss measurement
    #[arg(long, value_name = "BYTES", default_value_t = 200, value_parser = number_in(116u16..=8_900))]
    pub size: u16,
    /// Never send faster than this [default: path.rate in culvert.toml, or 10G]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Give up on the whole check after this time
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = number_in(1u32..=86_400))]
    pub limit: u32,
    /// Also measure the bottleneck's buffer, by filling it for a second; other traffic on the path
    /// suffers meanwhile
    #[arg(long)]
    pub buffer: bool,
    /// Skip the available rate
    #[arg(long)]
    pub no_rate: bool,
    /// Skip the route
    #[arg(long)]
    pub no_trace: bool,
    /// Skip the MTU
    #[arg(long)]
    pub no_mtu: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert path history`.
#[derive(Clone, Debug, Args)]
pub struct HistoryArgs {
    /// The partner [default: all that have records]
    pub partner: Option<String>,
    /// Show at most this many records of each direction
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = number_of::<usize>("records"))]
    pub limit: usize,
    /// Print one JSON object per record
    #[arg(long)]
    pub json: bool,
}

/// Parses a number of seconds.
///
/// # Errors
/// A sentence.
pub fn parse_seconds(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(seconds) if (0.01..=86_400.0).contains(&seconds) => Ok(seconds),
        _ => Err(format!("'{text}' is not a number of seconds between 0.01 and 86400")),
    }
}
