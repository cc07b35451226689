//! The definitions of all commands and options. Shell completions and man pages are made from them too.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use culvert_protocol::control::Overwrite;
use culvert_protocol::rate_control::Mode;
use culvert_protocol::seal::Cipher;
use culvert_tuning::command::{DoctorArgs, TuneArgs};

use crate::settings::Flags;
use crate::units::{parse_bytes, parse_rate};

/// Moves files between two hosts over UDP: encrypted, verified, as fast as cores, network and disks allow, and says what limits it.
#[derive(Debug, Parser)]
#[command(name = "culvert", version, arg_required_else_help = true, propagate_version = true)]
#[command(
    after_help = "Begin with:\n  culvert demo                          two nodes on this machine move and verify generated data\n  culvert send ./dir user@host:/dest    send a directory; culvert must be installed on both hosts, nothing else"
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
    /// Directory of keys, profiles, records and journals [variable: CULVERT_STATE] [default: $XDG_STATE_HOME/culvert; the system's node's for its account, and where root administers it]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Common options")]
    pub state: Option<String>,
    /// Configuration file [variable: CULVERT_CONFIG] [default: $XDG_CONFIG_HOME/culvert/culvert.toml, /etc/culvert/culvert.toml]
    #[arg(long, global = true, value_name = "FILE", help_heading = "Common options")]
    pub config: Option<String>,
    /// Say nothing but errors: no progress, no messages, and no result of a transfer; --json prints its answer all the same
    #[arg(short, long, global = true, help_heading = "Common options")]
    pub quiet: bool,
}

/// How this host's data plane is set up.
#[derive(Clone, Debug, Default, Args)]
pub struct EngineArgs {
    /// Cores of the lanes, one each: 2,3 or 2-5 [variable: CULVERT_CORES] [default: half of the cores, at most 4]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub cores: Option<String>,
    /// Memory for chunk buffers; bounds what can be under way [variable: CULVERT_MEMORY] [default: 64MiB a lane]
    #[arg(long, value_name = "SIZE", help_heading = "Data plane")]
    pub memory: Option<String>,
    /// Address that the lanes bind [variable: CULVERT_BIND] [default: all]
    #[arg(long, value_name = "ADDRESS", help_heading = "Data plane")]
    pub bind: Option<String>,
    /// UDP ports of the lanes, one each of those that are free: 7273-7276 [variable: CULVERT_PORTS] [default: any; a node's follow its TCP port]
    #[arg(long, value_name = "LIST", help_heading = "Data plane")]
    pub ports: Option<String>,
    /// Largest IP packet in bytes [variable: CULVERT_MTU] [default: what the path carries]
    #[arg(long, value_name = "BYTES", help_heading = "Data plane")]
    pub mtu: Option<String>,
    /// How packets move: auto, udp or af_xdp [variable: CULVERT_DATAPATH] [default: auto]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub datapath: Option<String>,
    /// Network interface for AF_XDP [variable: CULVERT_INTERFACE] [default: the one that leads to the partner, or the only one; auto uses AF_XDP only on a named one]
    #[arg(long, value_name = "NAME", help_heading = "Data plane")]
    pub interface: Option<String>,
    /// The only mode of AF_XDP to try: zerocopy, copy or skb [variable: CULVERT_AF_XDP_MODE] [default: auto, the best]
    #[arg(long, value_name = "MODE", help_heading = "Data plane")]
    pub af_xdp_mode: Option<String>,
    /// Microseconds that AF_XDP polls the driver in each call [variable: CULVERT_BUSY_POLL] [default: 0, interrupts]
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
    /// Two nodes on this machine move and verify generated data
    Demo(DemoArgs),
    /// Send files and directories; returns when they are stored and verified
    Send(SendArgs),
    /// Fetch files and directories; returns when they are stored and verified
    Get(SendArgs),
    /// Run the node: answers partners, serves the API and metrics
    Node(NodeArgs),
    /// Show or make this node's key
    Identity(IdentityArgs),
    /// Partners: names, keys, addresses, and what they may do here
    Profile(ProfileArgs),
    /// Transfers of a node: submit, list, show, wait, cancel, receipt
    Transfer(TransferArgs),
    /// What the network between this host and another can do, before and while data moves
    Path(crate::cli::path::args::PathArgs),
    /// The node, its lanes and its transfers
    Status(StatusArgs),
    /// A full-screen view of the node
    Monitor(StatusArgs),
    /// Write what the node's lanes send and receive to a pcap file, for Wireshark
    Capture(crate::cli::capture::args::CaptureArgs),
    /// Tune this host: audit, plan, apply, confirm, roll back
    #[command(
        after_help = "A host is tuned once, whoever types the command: unless a state directory is named, journals are in /var/lib/culvert/tuning."
    )]
    Tune(TuneArgs),
    /// Can this host run at full speed, what is missing, and how to get it
    Doctor(DoctorArgs),
    /// Measure this host against its own limits
    Bench(BenchArgs),
    /// Settings and where they come from
    Config(ConfigArgs),
    /// Shell completions and man pages
    Completion(CompletionArgs),
    /// Versions of program and protocol
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
    after_help = "A path on a partner is NAME:PATH (a profile), culvert://HOST:PORT/PATH, or USER@HOST:PATH, HOST:PATH or ssh://USER@HOST:PORT/PATH, which start the far end over ssh.\nWith 'get' a path may be a pattern of *, ? and [...], which is matched there: quote it for this host's shell.\nA source that ends in / is sent as its contents, one that does not under its own name.\nThe same command again goes on where it was interrupted."
)]
pub struct SendArgs {
    /// What to move, and as the last argument where to
    #[arg(required = true, value_name = "PATH")]
    pub paths: Vec<OsString>,
    /// How.
    #[command(flatten)]
    pub options: TransferOptions,
    /// How often a temporary failure is tried again
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub retries: u32,
    /// Print the result as one JSON object, also if the transfer fails
    #[arg(long)]
    pub json: bool,
    /// Tell what is being done; with --dry-run, list every file with what would become of it and why
    #[arg(short, long)]
    pub verbose: bool,
    /// Exit with code 9 if there was nothing to do, and not with 0
    #[arg(long)]
    pub error_on_no_transfer: bool,
    /// Write what this command's lanes send and receive to a pcap file; where a node runs, 'culvert capture' does so
    #[arg(long, value_name = "FILE")]
    pub capture: Option<PathBuf>,
    /// The ssh command, as in 'ssh -i KEY'
    #[arg(long, value_name = "COMMAND", default_value = "ssh", help_heading = "Over ssh")]
    pub ssh: String,
    /// The program to start on the other host
    #[arg(long, value_name = "PATH", default_value = "culvert", help_heading = "Over ssh")]
    pub remote_program: String,
    /// TCP port and UDP ports of the far end, for firewalls: it takes free ones of 7273-7280
    #[arg(long, value_name = "LIST", help_heading = "Over ssh")]
    pub remote_ports: Option<String>,
    /// Cores of the far end's lanes
    #[arg(long, value_name = "LIST", help_heading = "Over ssh")]
    pub remote_cores: Option<String>,
    /// This host's data plane.
    #[command(flatten)]
    pub engine: EngineArgs,
}

/// How a transfer is carried out.
#[derive(Clone, Debug, Args)]
pub struct TransferOptions {
    /// Send no faster than this, in bits per second: 10G [default: what the path takes]
    #[arg(long, value_name = "RATE", value_parser = parse_rate)]
    pub rate: Option<u64>,
    /// fixed holds --rate; fair fills an empty path and leaves others their share; background yields
    #[arg(long, value_name = "MODE", default_value = "fair")]
    pub mode: Mode,
    /// Number of flows [default: one for each lane]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub flows: Option<u16>,
    /// Hash of chunks and files: blake3 or none
    #[arg(long, value_name = "HASH", default_value = "blake3", value_parser = ["blake3", "none"])]
    pub checksum: String,
    /// aes-256-gcm or aes-128-gcm
    #[arg(long, value_name = "CIPHER", default_value = "aes-256-gcm")]
    pub cipher: Cipher,
    /// Files that exist: never (refuse unless they are the same), changed (replace those that differ in size or time), content (compare
    /// large files by hashes and send only what differs), always
    #[arg(long, value_name = "POLICY", default_value = "never")]
    pub overwrite: Overwrite,
    /// Keep modes exactly, and directories' times (files' times are always kept). Without it what is new gets the source's mode as far as
    /// the receiver's umask permits, and a file that replaces another keeps that one's. Read-only directories of the destination are opened
    /// while something is stored in them. What the destination refuses of modes and times is said, and fails nothing
    #[arg(long)]
    pub preserve: bool,
    /// Only tell what would be done: how many files are new, replaced, skipped or resumed, what would be left out, and whether there is
    /// room. Exits as the transfer would, as far as that can be told
    #[arg(long)]
    pub dry_run: bool,
}

/// `culvert demo`.
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// How much data
    #[arg(long, value_name = "SIZE", default_value = "2G", value_parser = parse_bytes)]
    pub size: u64,
    /// In how many files
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub files: u32,
    /// Where to put the data meanwhile
    #[arg(long, value_name = "DIR")]
    pub directory: Option<OsString>,
    /// Print the result as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Address and TCP port of the control connection [variable: CULVERT_LISTEN] [default: all addresses, port 7272]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address and TCP port of /metrics, or off [variable: CULVERT_METRICS] [default: 127.0.0.1:9472]
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<String>,
    /// What the node calls itself [variable: CULVERT_NAME] [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Socket at which systemd starts the data plane as a unit of its own [variable: CULVERT_DATAPLANE_SOCKET] [default: none; the node starts it itself]
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
    /// Make the key if there is none
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
    /// Show one
    Show {
        /// Its name
        name: String,
    },
    /// Make one
    Add {
        /// Its name
        name: String,
        /// The partner's key, as 'culvert identity' prints it there
        #[arg(long, value_name = "KEY")]
        key: String,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
    },
    /// Change one
    Edit {
        /// Its name
        name: String,
        /// The partner's new key
        #[arg(long, value_name = "KEY")]
        key: Option<String>,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
        /// Directories that are no longer permitted
        #[arg(long, value_name = "PATH")]
        forbid: Vec<std::path::PathBuf>,
    },
    /// Remove one: the partner is a stranger again
    Remove {
        /// Its name
        name: String,
    },
    /// List keys that asked and are not approved
    Pending,
    /// Print the command with which a partner's admin makes a profile of this node
    Invite {
        /// What the partner is to call this node [default: its name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
        /// Where the partner reaches this node, HOST or HOST:PORT; may be repeated [default: this host's name]
        #[arg(long = "address", value_name = "HOST")]
        addresses: Vec<String>,
    },
    /// Approve a key that asked; it keeps the address where it asked from or was found, unless --address names one
    Approve {
        /// Its fingerprint, or as much of its beginning as no other has
        fingerprint: String,
        /// The new profile's name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// What else.
        #[command(flatten)]
        change: ProfileChange,
    },
    /// Connect to a partner, compare its key, and ask whether it knows this node
    Verify {
        /// The profile's name
        name: String,
    },
}

/// Parts of a profile.
#[derive(Clone, Debug, Args)]
pub struct ProfileChange {
    /// Where its node listens, HOST or HOST:PORT; may be repeated [default port: 7272]
    #[arg(long = "address", value_name = "HOST")]
    pub addresses: Vec<String>,
    /// A directory that it may use: PATH:read, PATH:write or PATH:both; may be repeated
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
    /// Give a transfer to the running node and return at once: like send, or with --get like get
    Submit {
        /// Fetch instead of send
        #[arg(long)]
        get: bool,
        /// What to move, and as the last argument where to
        #[arg(required = true, value_name = "PATH")]
        paths: Vec<OsString>,
        /// How.
        #[command(flatten)]
        options: TransferOptions,
    },
    /// List transfers, the newest first
    List {
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Only those that have not ended
        #[arg(long)]
        active: bool,
    },
    /// Show one
    Show {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Wait until one has ended; exits as it did
    Wait {
        /// Its id, or as much of it as no other begins with
        transfer: String,
        /// Give up after so many seconds
        #[arg(long, value_name = "SECONDS")]
        timeout: Option<u64>,
        /// Exit with code 9 if there was nothing to do, and not with 0
        #[arg(long)]
        error_on_no_transfer: bool,
    },
    /// Follow one until it has ended; with --json a line for each change, and at last the result
    Watch {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Stop one until it is resumed, also over a restart of the node
    Pause {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Let a paused one go on where it stopped
    Resume {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Stop one
    Cancel {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Carry one that has ended out once more
    Restart {
        /// Its id, or as much of it as no other begins with
        transfer: String,
    },
    /// Show and verify a receipt: of a transfer, or from a file
    Receipt {
        /// A transfer's id, or a receipt's file
        what: OsString,
        /// The key that must have sent
        #[arg(long, value_name = "KEY")]
        sender: Option<String>,
        /// The key that must have received
        #[arg(long, value_name = "KEY")]
        receiver: Option<String>,
    },
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
    /// The raw limit: segmented and sealed datagrams without a protocol, from one core to another
    Limit(LimitArgs),
    /// The engine from memory to memory, over loopback or to a partner
    Net(NetArgs),
    /// A disk: sequential direct writes and reads
    Disk {
        /// A directory on it
        directory: OsString,
        /// How much
        #[arg(long, value_name = "SIZE", default_value = "4G", value_parser = parse_bytes)]
        size: u64,
    },
    /// Cycles for each byte in each stage
    Ledger,
}

/// `culvert bench limit`.
#[derive(Clone, Debug, Args)]
pub struct LimitArgs {
    /// Only receive, on this address and port
    #[arg(long, value_name = "ADDRESS", conflicts_with = "send")]
    pub receive: Option<String>,
    /// Only send, to this address and port
    #[arg(long, value_name = "ADDRESS")]
    pub send: Option<String>,
    /// Bytes of each datagram's payload
    #[arg(long, value_name = "BYTES", default_value_t = 8_948)]
    pub datagram: u16,
    /// For how long
    #[arg(long, value_name = "SECONDS", default_value_t = 3.0)]
    pub seconds: f64,
    /// The core to run on
    #[arg(long, value_name = "CORE")]
    pub core: Option<usize>,
    /// How packets move: udp or af_xdp; for af_xdp each end runs by itself, with --send or --receive
    #[arg(long, value_name = "NAME", default_value = "udp", value_parser = ["udp", "af_xdp"])]
    pub datapath: String,
    /// Network interface for AF_XDP [default: the one that leads to the other end, or the only one]
    #[arg(long, value_name = "NAME")]
    pub interface: Option<String>,
    /// The only mode of AF_XDP to try: zerocopy, copy or skb [default: the best]
    #[arg(long, value_name = "MODE", value_parser = ["zerocopy", "copy", "skb"])]
    pub af_xdp_mode: Option<String>,
    /// Without the cipher: what is left is the cost of moving packets
    #[arg(long)]
    pub plain: bool,
    /// Send as fast as packets can leave, whatever the receiver loses; what arrives is the result
    #[arg(long, requires = "send")]
    pub no_window: bool,
}

/// `culvert bench net`.
#[derive(Clone, Debug, Args)]
pub struct NetArgs {
    /// The partner; without it, a second node on this machine
    pub partner: Option<String>,
    /// How much
    #[arg(long, value_name = "SIZE", default_value = "16G", value_parser = parse_bytes)]
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
        /// And where it comes from
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
    /// bash, zsh, fish, elvish, powershell; or man, which writes man pages to --directory
    pub shell: String,
    /// Where man pages go
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
