//! Options of `culvert bench`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use culvert_dataplane::datapath::udp::SUPER_BUFFER_BYTES;
use culvert_engine::limits::MEASURE_BYTES_MAX;
use culvert_model::units::parse_bytes;
use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;

use crate::args::common::EngineArgs;
use crate::args::moving::TransferOptions;
use crate::numbers::{number_in, size_in};
use crate::path::args::parse_seconds;

/// `culvert bench`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// What to measure.
    #[command(subcommand)]
    pub what: BenchWhat,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchWhat {
    /// Measure the raw limit: encrypted, segmented datagrams without a protocol, from one core to
    /// another
    Limit(LimitArgs),
    /// Measure the engine from memory to memory, over loopback or to a partner
    Net(NetArgs),
    /// Measure a disk with sequential direct writes and reads
    Disk {
        /// A directory on the disk
        directory: PathBuf,
        /// Amount of data
        #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_bytes)]
        size: u64,
    },
    /// Measure the cycles per byte of each stage
    Ledger,
}

/// `culvert bench limit`.
#[derive(Clone, Debug, Args)]
pub struct LimitArgs {
    /// Only receive, at this address and port
    #[arg(long, value_name = "ADDRESS", conflicts_with = "send")]
    pub receive: Option<String>,
    /// Only send, to this address and port
    #[arg(long, value_name = "ADDRESS")]
    pub send: Option<String>,
    /// Payload of each datagram
    #[arg(long, value_name = "BYTES", default_value_t = 8_948, value_parser = number_in(DATAGRAM_BYTES_MIN..=SUPER_BUFFER_BYTES as u16))]
    pub datagram: u16,
    /// Duration
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0, value_parser = parse_seconds)]
    pub seconds: f64,
    /// Core to run on
    #[arg(long, value_name = "CORE", value_parser = number_in(0usize..=65_535))]
    pub core: Option<usize>,
    /// Datapath: udp or af_xdp; with af_xdp each end needs a command of its own, with --send or
    /// --receive
    #[arg(long, value_name = "NAME", default_value = "udp", value_parser = ["udp", "af_xdp"])]
    pub datapath: String,
    /// Network interface for AF_XDP [default: the one that leads to the other end, or the only one]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// Use this AF_XDP mode and no other: zerocopy, copy or skb [default: the best that works]
    #[arg(long, value_name = "MODE", value_parser = ["zerocopy", "copy", "skb"])]
    pub af_xdp_mode: Option<String>,
    /// Do not encrypt, to measure the cost of moving packets alone
    #[arg(long)]
    pub plain: bool,
    /// Send as fast as possible, regardless of loss; the result is what arrives
    #[arg(long, requires = "send")]
    pub no_window: bool,
}

/// `culvert bench net`.
#[derive(Clone, Debug, Args)]
pub struct NetArgs {
    /// The partner [default: a second node on this machine]
    pub partner: Option<String>,
    /// Amount of data
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = size_in(1..=MEASURE_BYTES_MAX))]
    pub size: u64,
    /// How.
    #[command(flatten)]
    pub options: TransferOptions,
    /// The data plane.
    #[command(flatten)]
    pub engine: EngineArgs,
}
