//! The options of the commands for portals.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::numbers::number_in;

/// What a token may do if nobody says.
const SCOPES: [&str; 2] = ["transfers:read", "transfers:write"];
/// What a portal knows (`portal/model/src/scope.rs`; a test of the portal compares).
const KNOWN_SCOPES: [&str; 7] = [
    "transfers:read",
    "transfers:write",
    "people:read",
    "people:write",
    "settings:read",
    "settings:write",
    "audit:read",
];
/// The most days that a portal knows.
const DAYS_MAX: u32 = 3_650;

/// `culvert login`.
#[derive(Clone, Debug, Args)]
#[command(
    after_help = "Somebody who is logged in to the portal with a browser lets this command in, or --account asks for a \
        password, or there is a token already. Tokens are kept \
        in portals.json in the state directory, which nobody else may read. Several portals may be kept: commands \
        use the one that was logged in to last, or the one that --portal names."
)]
pub struct LoginArgs {
    /// The portal: https://HOST or https://HOST:PORT; http:// for this host only
    #[arg(value_name = "URL")]
    pub portal: String,
    /// Use the API token in this file instead of asking for one; /dev/stdin is a file, too
    #[arg(long, value_name = "FILE", conflicts_with_all = ["with_token", "switch"])]
    pub token_file: Option<PathBuf>,
    /// Use the API token that comes on standard input instead of asking for one
    #[arg(long, conflicts_with = "switch")]
    pub with_token: bool,
    /// Log in as this account with its password, instead of being let in with a browser
    #[arg(long, value_name = "NAME", conflicts_with_all = ["token_file", "with_token", "switch"])]
    pub account: Option<String>,
    /// File with the account's password, instead of asking on the terminal
    #[arg(long, value_name = "FILE", requires = "account")]
    pub password_file: Option<PathBuf>,
    /// What the token may do.
    #[command(flatten)]
    pub token: WantedToken,
    /// What the token is called at the portal [default: culvert on this host's name]
    #[arg(long, value_name = "NAME", conflicts_with_all = ["token_file", "with_token", "switch"])]
    pub name: Option<String>,
    /// File with the CA of the portal's certificate (PEM), instead of those that this host trusts
    #[arg(long, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Only make this portal, which you are logged in to, the one that commands use
    #[arg(long)]
    pub switch: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// A token that somebody wants.
#[derive(Clone, Debug, Args)]
pub struct WantedToken {
    /// What the token may do: transfers:read, transfers:write, people:read, people:write,
    /// settings:read, settings:write, audit:read; may be repeated [default:
    /// transfers:read,transfers:write]
    #[arg(long = "scope", value_name = "SCOPE", value_delimiter = ',', value_parser = KNOWN_SCOPES)]
    #[arg(hide_possible_values = true)]
    pub scopes: Vec<String>,
    /// For how many days the token is good [default: 90, or as many as the portal permits]
    #[arg(long, value_name = "N", value_parser = number_in(1..=DAYS_MAX))]
    pub days: Option<u32>,
}

impl WantedToken {
    /// What it may do: what somebody has typed, or what moving files needs.
    #[must_use]
    pub fn scopes_or_usual(&self) -> Vec<String> {
        if self.scopes.is_empty() { SCOPES.map(str::to_owned).to_vec() } else { self.scopes.clone() }
    }
}

/// `culvert logout`.
#[derive(Clone, Debug, Args)]
pub struct LogoutArgs {
    /// The portal [default: the one that commands use]
    #[arg(value_name = "URL")]
    pub portal: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert whoami`.
#[derive(Clone, Debug, Args)]
pub struct WhoamiArgs {
    /// The portal [default: the one that was logged in to last]
    #[arg(long, value_name = "URL")]
    pub portal: Option<String>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// `culvert token`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "A token makes, lists and revokes no tokens: whoever steals one would keep the account. These \
        commands ask for the account's password, and for a code of the second factor if there is one. Accounts \
        without a password make tokens with --browser.")]
pub struct TokenArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: TokenAction,
    /// The portal [default: the one that was logged in to last]
    #[arg(long, global = true, value_name = "URL")]
    pub portal: Option<String>,
    /// The account [default: the one that you are logged in as]
    #[arg(long, global = true, value_name = "NAME")]
    pub account: Option<String>,
    /// File with the account's password, instead of asking on the terminal
    #[arg(long, global = true, value_name = "FILE")]
    pub password_file: Option<PathBuf>,
    /// File with the CA of the portal's certificate (PEM) [default: as you are logged in]
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub json: bool,
}

/// What to do with tokens.
#[derive(Clone, Debug, Subcommand)]
pub enum TokenAction {
    /// List your tokens
    List,
    /// Make a token; prints its secret, this once
    Create {
        /// What it is called
        name: String,
        /// What it may do.
        #[command(flatten)]
        token: WantedToken,
        /// Write the secret to this new file, which nobody else may read, instead of printing it
        #[arg(long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Let somebody who is logged in with a browser make it, instead of asking for a password
        #[arg(long, conflicts_with_all = ["password_file", "account"])]
        browser: bool,
    },
    /// Revoke a token: it is no longer good
    Revoke {
        /// The token's id, as in the list, or its beginning
        id: String,
    },
}

/// `culvert portal`.
#[derive(Clone, Debug, Args)]
#[command(disable_help_flag = true, disable_version_flag = true)]
pub struct PortalArgs {
    /// What culvert-portal is told
    #[arg(value_name = "ARGUMENT", trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<OsString>,
}
