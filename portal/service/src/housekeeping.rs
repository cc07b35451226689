//! Removes what has ended, in small steps that let others write between them.

use std::time::Duration;

use culvert_portal_store::{ceremonies, deliveries, devices, events, idempotency, limits, links, sessions};
use jiff::{SignedDuration, Timestamp};

use crate::fault::Fault;
use crate::portal::Portal;

/// How often.
const PERIOD: Duration = Duration::from_secs(60);
/// Rows of one transaction: far below the 50 ms for which others may wait.
const STEP: i64 = 500;
/// The pause between two of them.
const PAUSE: Duration = Duration::from_millis(20);
/// Ended sessions are kept so long: their addresses tell which networks an account is used from.
const SESSIONS_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Events are kept so long for those who were away.
const EVENTS_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Answers are kept so long for those who repeat a request.
const ANSWERS_KEPT: SignedDuration = SignedDuration::from_hours(24);

/// Deliveries that have ended are kept so long, and so many of each webhook.
const DELIVERIES_KEPT: SignedDuration = SignedDuration::from_hours(30 * 24);
const DELIVERIES_OF_WEBHOOK: i64 = 500;

/// Keeps house, for ever.
pub async fn run(portal: &Portal) {
    loop {
        // A database that cannot be reached now is tidied up later.
        let _ = keep_house(portal).await;
        tokio::time::sleep(PERIOD).await;
    }
}

/// Removes all that has ended.
///
/// # Errors
/// [`Fault`] if the database cannot be written.
pub async fn keep_house(portal: &Portal) -> Result<(), Fault> {
    let now = portal.now();
    let before = |kept: SignedDuration| now.checked_sub(kept).unwrap_or(Timestamp::MIN);
    loop {
        let mut writing = portal.database.write().await?;
        let mut most = sessions::purge(&mut writing, before(SESSIONS_KEPT), STEP).await?;
        most = most.max(events::purge(&mut writing, before(EVENTS_KEPT), STEP).await?);
        most = most.max(idempotency::purge(&mut writing, before(ANSWERS_KEPT), STEP).await?);
        most = most.max(limits::purge(&mut writing, now, STEP).await?);
        most = most.max(devices::purge(&mut writing, now, STEP).await?);
        most = most.max(ceremonies::purge(&mut writing, now, STEP).await?);
        most = most.max(deliveries::purge(&mut writing, before(DELIVERIES_KEPT), STEP).await?);
        most = most.max(deliveries::purge_excess(&mut writing, DELIVERIES_OF_WEBHOOK, STEP).await?);
        links::purge(&mut writing, now).await?;
        writing.commit().await?;
        if most < STEP as u64 {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
}
