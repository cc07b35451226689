//! The definitions of all commands and options, from which shell completions and man pages are
//! generated too.
//!
//! The structs have as many fields as their command has options.

mod bench;
mod common;
mod moving;
mod node;
mod transfer;

use clap::{Args, Parser, Subcommand};
use culvert_tuning::command::{DoctorArgs, TuneArgs};

pub use crate::args::bench::{BenchArgs, BenchWhat, LimitArgs, NetArgs};
pub use crate::args::common::{EngineArgs, GlobalArgs};
pub use crate::args::moving::{DemoArgs, FarEndArgs, REMOTE_PROGRAM_DEFAULT, SSH_DEFAULT, SendArgs, TransferOptions};
pub use crate::args::node::{IdentityAction, IdentityArgs, NodeArgs, ProfileAction, ProfileArgs, ProfileChange};
pub use crate::args::transfer::{TransferAction, TransferArgs};
pub use crate::portal::args::{LoginArgs, LogoutArgs, PortalArgs, TokenArgs, WhoamiArgs};

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
    /// Log in to a portal, and keep a token for it
    Login(LoginArgs),
    /// Log out of a portal: its token is revoked
    Logout(LogoutArgs),
    /// Show as whom commands ask the portal
    Whoami(WhoamiArgs),
    /// List, make or revoke your tokens at a portal
    Token(TokenArgs),
    /// Run culvert-portal, the web service, or one of its commands: users, audit, backup …
    #[command(
        after_help = "'culvert portal' without arguments serves; everything behind 'portal' is passed on to culvert-portal, which 'culvert portal --help' describes."
    )]
    Portal(PortalArgs),
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

/// `culvert status` and `culvert monitor`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
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
