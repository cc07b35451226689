//! The definitions of all commands and options. Shell completions and man pages are made from them
//! too.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use culvert_dataplane::datapath::udp::SUPER_BUFFER_BYTES;
use culvert_engine::limits::MEASURE_BYTES_MAX;
use culvert_model::units::{parse_bytes, parse_rate};
use culvert_node::settings::{Flags, parse_cores, parse_ports};
use culvert_protocol::control::Overwrite;
use culvert_protocol::identity::PublicKey;
use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;
use culvert_protocol::rate_control::Mode;
use culvert_protocol::seal::Cipher;
use culvert_tuning::command::{DoctorArgs, TuneArgs};

use crate::numbers::{checked, number_in, number_of, size_in};
use crate::path::args::parse_seconds;

/// What starts a far end, unless told otherwise.
pub const SSH_DEFAULT: &str = "ssh";
/// The program that it starts, unless told otherwise.
pub const REMOTE_PROGRAM_DEFAULT: &str = "culvert";

/// Move files between two hosts over UDP: encrypted, verified, as fast as cores, network and disks
/// allow. Reports what limited the transfer.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Start with:\n  culvert demo                          move generated data between two nodes on this machine\n  culvert send ./dir user@host:/dest    send a directory over ssh; both hosts need culvert, nothing else"
)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Clone, Debug, Default, Args)]
pub struct GlobalArgs {
    /// Directory of keys, profiles, records and journals [variable: CULVERT_STATE] [default:
    /// $XDG_STATE_HOME/culvert; /var/lib/culvert for the culvert account and for root's node
    /// commands]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Common options")]
    pub state: Option<String>,
    /// Configuration file [variable: CULVERT_CONFIG] [default:
    /// $XDG_CONFIG_HOME/culvert/culvert.toml, /etc/culvert/culvert.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Common options")]
    pub config: Option<String>,
    /// Print errors only: no progress, no messages, no result of a transfer or an audit; --json
    /// still prints its document
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub quiet: bool,
}

/// How this host's data plane is set up.
#[derive(Clone, Debug, Default, Args)]
pub struct EngineArgs {
    /// Cores to run lanes on, one lane per core: 2,3 or 2-5 [variable: CULVERT_CORES] [default:
    /// half of the cores, at most 4]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub cores: Option<String>,
    /// Memory for chunk buffers; limits how much data can be in flight [variable: CULVERT_MEMORY]
    /// [default: 64MiB per lane]
    #[arg(long, value_name = "SIZE", help_heading = "Data plane")]
    pub memory: Option<String>,
    /// Local address of the lanes' sockets [variable: CULVERT_BIND] [default: all addresses]
    #[arg(long, value_name = "ADDRESS", help_heading = "Data plane")]
    pub bind: Option<String>,
    /// UDP ports for the lanes, for example 7273-7276; each lane uses a free one [variable:
    /// CULVERT_PORTS] [default: any port; for a node, those after its TCP port]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub ports: Option<String>,
    /// Largest IP packet to send, in bytes [variable: CULVERT_MTU] [default: what the path carries]
    #[arg(long, value_name = "BYTES", help_heading = "Data plane")]
    pub mtu: Option<String>,
    /// Datapath: auto, udp or af_xdp [variable: CULVERT_DATAPATH] [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub datapath: Option<String>,
    /// Network interface for AF_XDP [variable: CULVERT_INTERFACE] [default: the one that leads to
    /// the partner, or the only one; with --datapath auto, AF_XDP is used only on an interface
    /// named here]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub interface: Option<String>,
    /// Use this AF_XDP mode and no other: zerocopy, copy or skb [variable: CULVERT_AF_XDP_MODE]
    /// [default: auto, the best that works]
    #[arg(long, value_name = "MODE", help_heading = "Data plane")]
    pub af_xdp_mode: Option<String>,
    /// Microseconds of busy polling per AF_XDP system call [variable: CULVERT_BUSY_POLL] [default:
    /// 0, use interrupts]
    #[arg(long, value_name = "MICROSECONDS", help_heading = "Data plane")]
    pub busy_poll: Option<String>,
}

impl EngineArgs {
    /// The first of the options that were given on the command line, as people type it.
    #[must_use]
    pub fn given(&self) -> Option<&'static str> {
        let Self { cores, memory, bind, ports, mtu, datapath, interface, af_xdp_mode, busy_poll } = self;
        let options = [
            (cores, "--cores"),
            (memory, "--memory"),
            (bind, "--bind"),
            (ports, "--ports"),
            (mtu, "--mtu"),
            (datapath, "--datapath"),
            (interface, "--interface"),
            (af_xdp_mode, "--af-xdp-mode"),
            (busy_poll, "--busy-poll"),
        ];
        options.into_iter().find(|(value, _)| value.is_some()).map(|(_, name)| name)
    }
}

impl GlobalArgs {
    /// As flags for the settings.
    #[must_use]
    pub fn flags(&self, engine: &EngineArgs) -> Flags {
        let engine = engine.clone();
        Flags {
            config: self.config.clone(),
            state: self.state.clone(),
            cores: engine.cores,
            memory: engine.memory,
            bind: engine.bind,
            ports: engine.ports,
            mtu: engine.mtu,
            datapath: engine.datapath,
            interface: engine.interface,
            af_xdp_mode: engine.af_xdp_mode,
            busy_poll: engine.busy_poll,
            ..Flags::default()
        }
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Move generated data between two nodes on this machine, and verify it
    Demo(DemoArgs),
    /// Send files and directories; returns once they are stored and verified
    Send(SendArgs),
    /// Fetch files and directories; returns once they are stored and verified
    Get(SendArgs),
    /// Run a node, which serves partners, the local API and metrics
    Node(NodeArgs),
    /// Show or create this node's key
    Identity(IdentityArgs),
    /// Manage partners: their names, keys, addresses and permissions
    Profile(ProfileArgs),
    /// Manage a node's transfers: submit, list, show, wait, watch, pause, resume, cancel, restart,
    /// receipt
    Transfer(TransferArgs),
    /// Measure the network path to another host
    Path(crate::path::args::PathArgs),
    /// Show the node, its lanes and its transfers
    Status(StatusArgs),
    /// Show the node's status, updated continuously
    Monitor(StatusArgs),
    /// Capture the packets of the node's lanes to a pcap file
    Capture(crate::capture::args::CaptureArgs),
    /// Tune this host: audit, plan, apply, confirm, roll back
    #[command(
        after_help = "A host is tuned as a whole, so journals are in /var/lib/culvert/tuning for all users unless a state directory is named."
    )]
    Tune(TuneArgs),
    /// Check whether this host can run at full speed, and what is missing
    Doctor(DoctorArgs),
    /// Measure this host against its own limits
    Bench(BenchArgs),
    /// Show settings and where they come from
    Config(ConfigArgs),
    /// Print shell completions, or write man pages
    Completion(CompletionArgs),
    /// Print the versions of program and protocol
    Version(VersionArgs),
    /// The far end of a transfer that was started over ssh
    #[command(hide = true)]
    FarEnd(FarEndArgs),
    /// The data plane process
    #[command(hide = true)]
    Dataplane,
    /// The process that removes the data plane's receive rules from the NIC
    #[command(hide = true, name = culvert_dataplane::keeper::COMMAND)]
    RuleKeeper,
}

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
    pub directory: Option<OsString>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Address and TCP port to listen on for partners [variable: CULVERT_LISTEN] [default: all
    /// addresses, port 7272]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address and TCP port to serve /metrics on, or off [variable: CULVERT_METRICS] [default:
    /// 127.0.0.1:9472]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// Name that partners see [variable: CULVERT_NAME] [default: the host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Socket on which systemd starts the data plane as a separate unit [variable:
    /// CULVERT_DATAPLANE_SOCKET] [default: none; the node starts the data plane itself]
    #[arg(long, value_name = "PATH", help_heading = "Data plane")]
    pub dataplane_socket: Option<String>,
    /// The data plane.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// `culvert identity`.
#[derive(Clone, Debug, Args)]
pub struct IdentityArgs {
    /// What to do; without it, show.
    #[command(subcommand)]
    pub action: Option<IdentityAction>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with the identity.
#[derive(Clone, Copy, Debug, Subcommand)]
pub enum IdentityAction {
    /// Create the key unless there is one
    Init,
}

/// `culvert profile`.
#[derive(Clone, Debug, Args)]
pub struct ProfileArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ProfileAction,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with profiles.
#[derive(Clone, Debug, Subcommand)]
pub enum ProfileAction {
    /// List the profiles
    List,
    /// Show a profile
    Show {
        /// Name of the profile
        name: String,
    },
    /// Add a profile
    Add {
        /// Name of the profile
        name: String,
        /// The partner's key, as printed by 'culvert identity' there
        #[arg(long, value_name = "KEY")]
        key: String,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
    },
    /// Change a profile
    Edit {
        /// Name of the profile
        name: String,
        /// The partner's new key
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
        /// A directory that is no longer permitted; may be repeated
        #[arg(long, value_name = "PATH")]
        forbid: Vec<std::path::PathBuf>,
    },
    /// Remove a profile; its key becomes unknown
    Remove {
        /// Name of the profile
        name: String,
    },
    /// List keys that are waiting for approval
    Pending,
    /// Print the command that adds this node to a partner's profiles
    Invite {
        /// Name for this node at the partner [default: this node's name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Address at which the partner reaches this node, HOST or HOST:PORT; may be repeated
        /// [default: this host's name]
        #[arg(long = "address", value_name = "HOST")]
        addresses: Vec<String>,
    },
    /// Approve a pending key; the profile gets the address it connected from, unless --address
    /// gives another
    Approve {
        /// Fingerprint of the key, or any unique prefix of it
        fingerprint: String,
        /// Name for the new profile
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
    },
    /// Connect to a partner, compare its key, and check that it accepts this node
    Verify {
        /// Name of the profile
        name: String,
    },
}

/// Parts of a profile.
#[derive(Clone, Debug, Args)]
pub struct ProfileChange {
    /// Address of the partner's node, HOST or HOST:PORT; may be repeated [default port: 7272]
    #[arg(long = "address", value_name = "HOST")]
    pub addresses: Vec<String>,
    /// A directory that the partner may use: PATH:read, PATH:write or PATH:both; may be repeated
    #[arg(long = "permit", value_name = "PATH:HOW")]
    pub permit: Vec<String>,
}

/// `culvert transfer`.
#[derive(Clone, Debug, Args)]
pub struct TransferArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TransferAction,
    /// Print JSON
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with transfers.
#[derive(Clone, Debug, Subcommand)]
pub enum TransferAction {
    /// Hand a transfer to the running node and return at once; sends, or fetches with --get
    Submit {
        /// Fetch instead of sending
        #[arg(long)]
        get: bool,
        /// Sources, and the destination as the last argument
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
        /// How.
        #[command(flatten)]
        options: TransferOptions,
    },
    /// List transfers, the newest first
    List {
        /// Show at most this many
        #[arg(long, value_name = "N", default_value_t = 20, value_parser = number_of::<usize>("transfers"))]
        limit: usize,
        /// Show only those that have not ended
        #[arg(long)]
        active: bool,
    },
    /// Show a transfer
    Show {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Wait until a transfer has ended, and exit with its exit code
    Wait {
        /// Transfer id, or any unique prefix of it
        transfer: String,
        /// Stop waiting after this time
        #[arg(long, value_name = "SECONDS", value_parser = number_of::<u64>("seconds"))]
        timeout: Option<u64>,
        /// Exit with code 9 instead of 0 if there was nothing to do
        #[arg(long)]
        error_on_no_transfer: bool,
    },
    /// Follow a transfer until it has ended; with --json, print a line for each change and the
    /// result as the last line
    Watch {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Pause a transfer until it is resumed, even across restarts of the node
    Pause {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Resume a paused transfer where it stopped
    Resume {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Cancel a transfer
    Cancel {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Run a transfer that has ended again
    Restart {
        /// Transfer id, or any unique prefix of it
        transfer: String,
    },
    /// Show and verify the receipt of a transfer, or one from a file
    Receipt {
        /// Transfer id, or a file with a receipt
        what: OsString,
        /// Require this key as the sender's
        #[arg(long, value_name = "KEY", value_parser = key_or_fingerprint)]
        sender: Option<String>,
        /// Require this key as the receiver's
        #[arg(long, value_name = "KEY", value_parser = key_or_fingerprint)]
        receiver: Option<String>,
    },
}

/// Takes what a receipt's keys are compared with.
fn key_or_fingerprint(text: &str) -> Result<String, String> {
    match text.parse::<PublicKey>() {
        Err(error) if !text.starts_with("SHA256:") => Err(format!("{error}, nor a fingerprint (SHA256:…)")),
        _ => Ok(text.to_owned()),
    }
}

/// `culvert status` and `culvert monitor`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

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
        directory: OsString,
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

/// `culvert config`.
#[derive(Clone, Debug, Args)]
pub struct ConfigArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// What to do with the configuration.
#[derive(Clone, Debug, Subcommand)]
pub enum ConfigAction {
    /// Show every setting
    Show {
        /// Show where each one comes from
        #[arg(long)]
        origin: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// `culvert completion`.
#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    /// bash, zsh, fish, elvish or powershell; or man, to write man pages to --directory
    pub shell: String,
    /// Directory for the man pages
    #[arg(long, value_name = "DIR")]
    pub directory: Option<std::path::PathBuf>,
}

/// `culvert version`.
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Print one JSON object
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
