//! Options of commands that move files: `send`, `get`, `demo`, and the far end of the first two.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use culvert_model::units::{parse_bytes, parse_rate};
use culvert_node::settings::{parse_cores, parse_ports};
use culvert_protocol::control::Overwrite;
use culvert_protocol::rate_control::Mode;
use culvert_protocol::seal::Cipher;

use crate::args::common::EngineArgs;
use crate::numbers::{checked, number_in, number_of};

/// The default of `--ssh`.
pub const SSH_DEFAULT: &str = "ssh";
/// The default of `--remote-program`.
pub const REMOTE_PROGRAM_DEFAULT: &str = "culvert";

/// `culvert send` and `culvert get`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "A path on a partner is NAME:PATH (a profile), culvert://HOST:PORT/PATH, or USER@HOST:PATH, HOST:PATH or ssh://USER@HOST:PORT/PATH, which start the far end over ssh.\nWith 'get', a path may be a pattern with *, ? and [...], which is matched on the partner: quote it for this host's shell.\nA source is stored under its own name; one that ends in / is stored as its contents.\nRun the same command again to resume an interrupted transfer."
)]
pub struct SendArgs {
    /// Sources, and the destination as the last argument
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// How.
    #[command(flatten)]
    pub options: TransferOptions,
    /// Retries after a temporary failure
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = number_of::<u32>("retries"))]
    pub retries: u32,
    /// Print the result as one JSON object, even if the transfer fails
    #[arg(long)]
    pub json: bool,
    /// Report each step and each file: 'get' as soon as it is stored, 'send' as soon as the
    /// receiver has acknowledged all its bytes, or at the end. If a running node carries the
    /// transfer out, steps only. With --dry-run, list every file with what would happen to it and
    /// why
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit with code 9 instead of 0 if there was nothing to do
    #[arg(long)]
    pub error_on_no_transfer: bool,
    /// Capture the packets of this command's lanes to a pcap file; if a node runs, use 'culvert
    /// capture' instead
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// The ssh command with its options, for example 'ssh -i KEY'
    #[arg(long, value_name = "COMMAND", default_value = SSH_DEFAULT, help_heading = "Over ssh")]
    pub ssh: String,
    /// The program to run on the other host
    #[arg(long, value_name = "PATH", default_value = REMOTE_PROGRAM_DEFAULT, help_heading = "Over ssh")]
    pub remote_program: String,
    /// TCP and UDP ports for the far end, if a firewall limits them, for example 7273-7280; free
    /// ones are used
    #[arg(long, value_name = "LIST", help_heading = "Over ssh", value_parser = checked(parse_ports))]
    pub remote_ports: Option<String>,
    /// Cores for the far end's lanes
    #[arg(long, value_name = "LIST", help_heading = "Over ssh", value_parser = checked(parse_cores))]
    pub remote_cores: Option<String>,
    /// This host's data plane.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// How a transfer is carried out.
#[derive(Clone, Debug, Args)]
pub struct TransferOptions {
    /// Maximum rate in bits per second, for example 10G [default: what the path carries]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// Rate control: fair shares the path with other traffic, background yields to it, fixed sends
    /// at exactly --rate
    #[arg(long, value_name = "MODE", default_value = "fair")]
    pub mode: Mode,
    /// Number of flows [default: one per lane]
    #[arg(long, value_name = "N", value_parser = number_in(1u16..=256))]
    pub flows: Option<u16>,
    /// Checksum of chunks and files: blake3 or none
    #[arg(long, value_name = "HASH", default_value = "blake3", value_parser = ["blake3", "none"])]
    pub checksum: String,
    /// Cipher: aes-256-gcm or aes-128-gcm
    #[arg(long, value_name = "CIPHER", default_value = "aes-256-gcm")]
    pub cipher: Cipher,
    /// What to do with files that exist: never (refuse unless they are the same), changed (replace
    /// those that differ in size or time), content (compare large files by checksums and send only
    /// what differs), always (replace)
    #[arg(long, value_name = "POLICY", default_value = "never")]
    pub overwrite: Overwrite,
    /// Preserve modes exactly, and the times of directories (those of files are always preserved).
    /// Otherwise new files get the source's mode through the receiver's umask, and replaced files
    /// keep theirs. Read-only directories at the destination are made writable while files are
    /// stored in them. Modes and times that the destination refuses are reported and do not fail
    /// the transfer
    #[arg(long)]
    pub preserve: bool,
    /// Transfer nothing; report how many files would be new, replaced, skipped, resumed or left
    /// out, and whether there is room for them. The exit code is that of the transfer, as far as it
    /// can be predicted
    #[arg(long)]
    pub dry_run: bool,
}

/// `culvert demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Amount of data
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_bytes)]
    pub size: u64,
    /// Number of files
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = number_in(1u32..=1_000_000))]
    pub files: u32,
    /// Directory for the data [default: the directory of temporary files]
    #[arg(long, value_name = "DIR")]
    pub directory: Option<PathBuf>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert far-end`.
#[derive(Clone, Debug, Args)]
pub struct FarEndArgs {
    /// TCP port, and UDP ports of the lanes
    #[arg(long, value_name = "LIST")]
    pub far_ports: Option<String>,
    /// The data plane.
    #[command(flatten)]
    pub engine: EngineArgs,
}
