//! Events for those who follow, from where they left off.

use culvert_portal_model::permission::Action;
use culvert_portal_store::events;
use culvert_portal_store::outbox;

use crate::actor::{Actor, Reach};
use crate::chain::EVENTS;
use crate::fault::Fault;
use crate::portal::Portal;

/// Events that are given at a time.
const BATCH: i64 = 200;

/// Where somebody begins to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beginning {
    /// The number behind which they begin.
    pub number: i64,
    /// Whether events that they asked for are no longer kept: they must read the lists again.
    pub has_gap: bool,
}

/// An event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its number: whoever has seen it goes on behind it.
    pub number: i64,
    /// What happened.
    pub kind: String,
    /// JSON of one line.
    pub body: String,
}

/// Whose events somebody may follow.
///
/// # Errors
/// [`Fault`].
pub async fn may_follow(portal: &Portal, actor: &Actor) -> Result<Reach, Fault> {
    portal.permit(actor, Action::EventFollow).await
}

/// Where somebody begins who has seen everything up to `last`, or who begins now.
///
/// # Errors
/// [`Fault`].
pub async fn begin(portal: &Portal, last: Option<i64>) -> Result<Beginning, Fault> {
    let mut reading = portal.database.read().await?;
    let head = outbox::head(&mut reading, EVENTS).await?;
    let Some(last) = last else { return Ok(Beginning { number: head.number, has_gap: false }) };
    let oldest = events::oldest(&mut reading).await?.unwrap_or(head.number + 1);
    // A number that was never given is of another database, as after a restore.
    let has_gap = last + 1 < oldest || last > head.number;
    Ok(Beginning { number: if has_gap { head.number } else { last }, has_gap })
}

/// Events behind a number, oldest first.
///
/// # Errors
/// [`Fault`].
pub async fn after(portal: &Portal, reach: Reach, number: i64) -> Result<Vec<Event>, Fault> {
    let rows = events::after(&mut portal.database.read().await?, number, reach.owner(), BATCH).await?;
    Ok(rows.into_iter().map(|row| Event { number: row.number, kind: row.kind, body: row.body }).collect())
}
