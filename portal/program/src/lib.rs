//! The program `culvert-portal`: settings, keys, listeners, and commands on the portal's host.
//!
//! [`args`] says what it is told; [`state`] opens its directory, keys and database; [`serve`] puts
//! service and API together and runs until it is stopped; [`commands`] are what an administrator
//! does on the host while it runs or not.
#![forbid(unsafe_code)]

pub mod access;
pub mod args;
pub mod commands;
pub mod database_url;
pub mod door;
pub mod keys;
pub mod listener;
pub mod logging;
pub mod public_url;
pub mod secret_file;
pub mod serve;
pub mod state;
pub mod tls;

use args::{Cli, Command};

/// Runs a command.
///
/// # Errors
/// What went wrong, as a sentence.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    access::make_privately();
    match cli.command {
        None => serve::run(&cli.common, &cli.serve).await,
        Some(Command::Users(command)) => {
            commands::users::run(&cli.common, cli.serve.public_url.as_deref(), command).await
        }
        Some(Command::Audit(command)) => commands::audit::run(&cli.common, command).await,
        Some(Command::Backup { to }) => commands::backup::back_up(&cli.common, &to).await,
        Some(Command::Restore { from }) => commands::backup::restore(&cli.common, &from).await,
        Some(Command::Reseal { new_key }) => commands::reseal::run(&cli.common, &new_key).await,
        Some(Command::Openapi) => commands::openapi::run(),
    }
}
