//! What an administrator does on the portal's host. Whoever can read the database and the sealing
//! key needs no login.

pub mod audit;
pub mod backup;
pub mod openapi;
pub mod reseal;
pub mod users;

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use culvert_portal_seams::clock::SystemClock;
use culvert_portal_seams::http::ScriptedHttp;
use culvert_portal_seams::mail::NoMailer;
use culvert_portal_seams::randomness::SystemRandomness;
use culvert_portal_service::people::passwords::{LEAST, Passwords};
use culvert_portal_service::portal::Portal;
use culvert_portal_service::world::{Options, Seams};
use culvert_portal_store::Database;

use crate::args::Common;
use crate::serve::with_cause;
use crate::state::Wish;
use crate::{logging, state};

/// Opens the portal for a command: the same database and keys, no listener, no mail.
async fn open(common: &Common) -> anyhow::Result<Portal> {
    // As long as the process runs: nobody replaces the database under it.
    std::mem::forget(state::share(&state::find(common)?)?);
    open_alone(common).await
}

/// As [`open`], where this command has the state directory for itself.
async fn open_alone(common: &Common) -> anyhow::Result<Portal> {
    logging::begin(common.log);
    let directory = state::find(common)?;
    let database = state::database(common, &directory, Wish::Find).await?;
    on(common, database, &directory).await
}

/// A portal on a database that is open.
async fn on(common: &Common, database: Database, directory: &Path) -> anyhow::Result<Portal> {
    let seams = Seams {
        clock: Arc::new(SystemClock),
        randomness: Arc::new(SystemRandomness),
        mailer: Arc::new(NoMailer),
        http: Arc::new(ScriptedHttp::default()),
    };
    let sealer = state::sealer(common, directory, &database, Wish::Find).await?;
    let passwords = Passwords::new(LEAST, &SystemRandomness).map_err(with_cause)?;
    // Links of commands have the path only: the portal's own address is the serving process's.
    let options = Options { public_url: String::new(), password_list: None };
    Portal::open(database, seams, sealer, passwords, options).await.map_err(with_cause)
}

/// Writes a line to standard output.
fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(writeln!(out, "{line}")?)
}
