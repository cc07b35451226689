//! `reseal`: all secrets of the database under another key, in one transaction.

use std::path::Path;

use anyhow::{Context as _, bail};
use culvert_portal_seams::randomness::SystemRandomness;
use culvert_portal_service::fault::Fault;
use culvert_portal_service::sealing::Sealer;
use culvert_portal_store::keys::reseal;

use super::{open_alone, say};
use crate::args::Common;
use crate::serve::with_cause;
use crate::{keys, state};

/// Reseals everything.
///
/// # Errors
/// What went wrong; everything is sealed under the old key then.
pub async fn run(common: &Common, new_key: &Path) -> anyhow::Result<()> {
    let directory = state::find(common)?;
    // A portal that runs would go on to seal under the old key.
    let _in_use = state::take_alone(&directory)?;
    let portal = open_alone(common).await?;
    let others = portal.database.connections_of_others().await?;
    if others > 0 {
        bail!("portals or commands are connected to the database (connections: {others}): stop all of them first");
    }
    let old = keys::sealing_key(common, &directory)?.context("the sealing key is gone")?;
    let new = keys::read_or_make(new_key)?;
    if *old == *new {
        bail!("{} is the key that everything is sealed under already", new_key.display());
    }
    let new = Sealer::new(&new, &[]);
    let mut writing = portal.database.write().await?;
    let resealed = reseal(&mut writing, |kind, row, sealed| {
        let secret = portal
            .sealer
            .open(kind, row, sealed)
            .map_err(|error| Fault::internal(format!("the {kind} {row} cannot be opened: {error}")))?;
        Ok::<_, Fault>(new.seal(kind, row, &secret, &SystemRandomness))
    });
    let count = resealed.await.map_err(with_cause)?;
    writing.commit().await?;
    portal.database.close().await;
    say(&format!(
        "resealed all secrets ({count} in all). Start all portals of this database with --sealing-key-file {}",
        new_key.display()
    ))
}
