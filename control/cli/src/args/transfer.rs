//! Options of `culvert transfer`.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use culvert_protocol::identity::PublicKey;

use crate::args::moving::TransferOptions;
use crate::numbers::number_of;

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
    /// Cancel a transfer; returns when it is canceled
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

/// Accepts a key or a fingerprint.
fn key_or_fingerprint(text: &str) -> Result<String, String> {
    match text.parse::<PublicKey>() {
        Err(error) if !text.starts_with("SHA256:") => Err(format!("{error}, nor a fingerprint (SHA256:…)")),
        _ => Ok(text.to_owned()),
    }
}
