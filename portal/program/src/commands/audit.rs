//! `audit`: the trail, proved and printed.

use std::path::Path;

use anyhow::{Context as _, bail};
use culvert_portal_model::audit::AuditHead;
use culvert_portal_service::actor::Actor;
use culvert_portal_service::audit;
use culvert_portal_service::audit::verify;
use culvert_portal_service::sequencer;

use super::{open, say};
use crate::args::{AuditCommand, Common};
use crate::serve::with_cause;

/// Runs a command.
///
/// # Errors
/// What went wrong, and what is wrong with the trail.
pub async fn run(common: &Common, command: AuditCommand) -> anyhow::Result<()> {
    let portal = open(common).await?;
    match command {
        AuditCommand::Verify { head } => {
            let kept = head.as_deref().map(read_head).transpose()?;
            sequencer::number_all(&portal).await.map_err(with_cause)?;
            let key = portal.signing.public_key();
            match verify(&portal.database, &key, kept.as_ref()).await.map_err(with_cause)? {
                Ok(count) => say(&format!("the audit trail is whole (entries: {count}), signed by key {key}"))?,
                Err(fault) => bail!("the audit trail is not whole: {fault}"),
            }
        }
        AuditCommand::Head => {
            let head = audit::head(&portal, &Actor::host()).await.map_err(with_cause)?;
            say(&serde_json::to_string(&head)?)?;
        }
        AuditCommand::Export => {
            let mut after = 0;
            loop {
                let entries = audit::export(&portal, &Actor::host(), after).await.map_err(with_cause)?;
                let Some(last) = entries.last() else { break };
                after = last.number;
                for entry in &entries {
                    say(&serde_json::to_string(entry)?)?;
                }
            }
        }
    }
    portal.database.close().await;
    Ok(())
}

fn read_head(path: &Path) -> anyhow::Result<AuditHead> {
    let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a signed end of the audit trail", path.display()))
}
