//! What the program is told: flags, or variables of the environment.
//!
//! No variable has a name that a Kubernetes service called `culvert` or `culvert-portal` would put
//! into every pod of its namespace (`…_PORT`, `…_SERVICE_HOST`, `…_PORT_7280_TCP_ADDR`).

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use culvert_portal_api::address::Network;
use culvert_portal_model::role::Role;

/// The web service in front of Culvert nodes. Without a command, it serves.
#[derive(Debug, Parser)]
#[command(name = "culvert-portal", bin_name = "culvert portal", version)]
pub struct Cli {
    /// What all commands are told.
    #[command(flatten)]
    pub common: Common,
    /// What serving is told.
    #[command(flatten)]
    pub serve: Serve,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What all commands are told.
#[derive(Debug, Clone, Args)]
pub struct Common {
    /// Directory for the database and the keys [default: $XDG_STATE_HOME/culvert/portal, for root
    /// /var/lib/culvert-portal]
    #[arg(long, global = true, value_name = "DIR", env = "CULVERT_PORTAL_STATE")]
    pub state: Option<PathBuf>,
    /// postgresql://USER@HOST/NAME for several portals [default: SQLite in the state directory]
    #[arg(long, global = true, value_name = "URL", env = "CULVERT_PORTAL_DATABASE", hide_env_values = true)]
    pub database: Option<String>,
    /// File with the password of the PostgreSQL user
    #[arg(long, global = true, value_name = "FILE", env = "CULVERT_PORTAL_DATABASE_PASSWORD_FILE")]
    pub database_password_file: Option<PathBuf>,
    /// File with the key that seals secrets in the database: 32 bytes [default: made in the state
    /// directory]
    #[arg(long, global = true, value_name = "FILE", env = "CULVERT_PORTAL_SEALING_KEY_FILE")]
    pub sealing_key_file: Option<PathBuf>,
    /// File with a passphrase from which the sealing key is made, instead of a key file
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "CULVERT_PORTAL_SEALING_PASSPHRASE_FILE",
        conflicts_with = "sealing_key_file"
    )]
    pub sealing_passphrase_file: Option<PathBuf>,
    /// Form of log lines: text or json
    #[arg(long, global = true, default_value = "text", env = "CULVERT_PORTAL_LOG")]
    pub log: LogForm,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// A JSON object a line.
    Json,
}

/// What serving is told.
#[derive(Debug, Clone, Args)]
pub struct Serve {
    /// Address to listen on
    #[arg(
        long,
        value_name = "ADDRESS",
        default_value = "127.0.0.1:7280",
        value_parser = address,
        env = "CULVERT_PORTAL_LISTEN"
    )]
    pub listen: SocketAddr,
    /// Address for metrics, which need no login there; off for none
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:7281", env = "CULVERT_PORTAL_METRICS")]
    pub metrics: String,
    /// Where browsers find the portal, for links [default: what it listens on]
    #[arg(long, global = true, value_name = "URL", env = "CULVERT_PORTAL_PUBLIC_URL")]
    pub public_url: Option<String>,
    /// File with the certificate chain for TLS (PEM); read again when it changes
    #[arg(long, value_name = "FILE", requires = "tls_key", env = "CULVERT_PORTAL_TLS_CERT")]
    pub tls_cert: Option<PathBuf>,
    /// File with the certificate's key (PEM)
    #[arg(long, value_name = "FILE", requires = "tls_cert", env = "CULVERT_PORTAL_TLS_KEY")]
    pub tls_key: Option<PathBuf>,
    /// Network of reverse proxies whose X-Forwarded-For is believed; may be repeated
    #[arg(long, value_name = "CIDR", value_delimiter = ',', env = "CULVERT_PORTAL_TRUSTED_PROXY")]
    pub trusted_proxy: Vec<Network>,
    /// Mail server: smtp://USER@HOST:PORT (STARTTLS; user and port may be absent), smtps://…, or
    /// smtp+plain:// on loopback
    #[arg(long, value_name = "URL", env = "CULVERT_PORTAL_SMTP", hide_env_values = true)]
    pub smtp: Option<String>,
    /// File with the password for the mail server
    #[arg(long, value_name = "FILE", requires = "smtp", env = "CULVERT_PORTAL_SMTP_PASSWORD_FILE")]
    pub smtp_password_file: Option<PathBuf>,
    /// Sender of mails
    #[arg(long, value_name = "ADDRESS", requires = "smtp", env = "CULVERT_PORTAL_MAIL_FROM")]
    pub mail_from: Option<String>,
    /// File with further certificate authorities (PEM) for mail servers, webhooks and identity
    /// providers
    #[arg(long, value_name = "FILE", env = "CULVERT_PORTAL_CA_FILE")]
    pub ca_file: Option<PathBuf>,
    /// File with hashes of breached passwords, sorted (SHA-1, one a line)
    #[arg(long, value_name = "FILE", env = "CULVERT_PORTAL_PASSWORD_LIST")]
    pub password_list: Option<PathBuf>,
}

/// What is done on the portal's host.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Manage people without logging in: list, create, reset, deactivate, roles
    #[command(subcommand)]
    Users(UsersCommand),
    /// Verify or export the audit trail
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Write a copy of the database while the portal runs (SQLite; use pg_dump for PostgreSQL)
    Backup {
        /// The new file
        #[arg(value_name = "FILE")]
        to: PathBuf,
    },
    /// Put a copy back while the portal is stopped; what was there is kept beside it
    Restore {
        /// The copy
        #[arg(value_name = "FILE")]
        from: PathBuf,
    },
    /// Seal all secrets of the database under another key
    Reseal {
        /// File with the new key: 32 bytes; made if it is not there
        #[arg(long, value_name = "FILE")]
        new_key: PathBuf,
    },
    /// Print the description of the API (OpenAPI 3.1)
    Openapi,
}

/// What is done with people.
#[derive(Debug, Subcommand)]
pub enum UsersCommand {
    /// List accounts
    List {
        /// Print a JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Make an account, and print a link by which its person sets a password
    Create {
        /// The name to log in with
        name: String,
        /// What the person may do; may be repeated
        #[arg(long = "role", value_name = "ROLE", default_value = "user")]
        roles: Vec<Role>,
        /// Where mail goes
        #[arg(long)]
        email: Option<String>,
    },
    /// Print a link by which a person sets a new password, or remove their second factor
    Reset {
        /// Remove codes, passkeys and recovery codes of somebody who has lost them; the password
        /// stays
        #[arg(long)]
        second_factor: bool,
        /// The account's name
        name: String,
    },
    /// End everything by which a person can get in
    Deactivate {
        /// The account's name
        name: String,
    },
    /// Let a person in: one who waits for approval, or was deactivated
    Activate {
        /// The account's name
        name: String,
    },
    /// Replace a person's roles
    Roles {
        /// The account's name
        name: String,
        /// The roles
        #[arg(required = true)]
        roles: Vec<Role>,
    },
}

/// What is done with the audit trail.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Prove that nobody has changed, removed or cut off entries
    Verify {
        /// A signed end that was kept elsewhere (`audit head`, or GET /api/v1/audit/head)
        #[arg(long, value_name = "FILE")]
        head: Option<PathBuf>,
    },
    /// Print the signed end, to be kept elsewhere
    Head,
    /// Print all entries, a JSON object a line
    Export,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "it must be an address with a port, as 127.0.0.1:7280 or [::1]:7280".to_owned())
}
