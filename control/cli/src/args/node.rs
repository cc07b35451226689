//! Options of a node, of its key and of its partners' profiles.

use clap::{Args, Subcommand};

use crate::args::common::{EngineArgs, NodeOnlyArgs};

/// `culvert node`.
#[derive(Clone, Debug, Args)]
pub struct NodeArgs {
    /// Settings.
    #[command(flatten)]
    pub settings: NodeOnlyArgs,
    /// Stop when standard input is closed: for commands that start a node for themselves
    #[arg(long, hide = true)]
    pub end_with_stdin: bool,
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
