//! The settings as they were a moment ago, for decisions that every request needs.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use culvert_portal_model::settings::Settings;
use culvert_portal_store::{Database, settings};
use jiff::Timestamp;

use crate::fault::Fault;

/// The name of the settings in the database.
pub const NAME: &str = "portal";
/// How old the settings may be that a decision is made by: what one portal changes the others know
/// by then.
const AGE_MAX: Duration = Duration::from_secs(2);

/// The settings as they were a moment ago.
#[derive(Debug, Default)]
pub struct CurrentSettings(Mutex<Option<(Settings, Timestamp)>>);

impl CurrentSettings {
    /// The settings, at most two seconds old.
    ///
    /// # Errors
    /// [`Fault`] if they cannot be read.
    pub async fn get(&self, database: &Database, now: Timestamp) -> Result<Settings, Fault> {
        {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some((settings, at)) = kept.as_ref()
                && is_fresh(*at, now)
            {
                return Ok(settings.clone());
            }
        }
        let found: Option<(Settings, i64)> = settings::get(&mut database.read().await?, NAME).await?;
        let settings = found.map(|(settings, _)| settings).unwrap_or_default();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((settings.clone(), now));
        Ok(settings)
    }

    /// Reads them anew the next time: they were changed here.
    pub fn forget(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// Also if the clock was set back, something is not fresh for ever.
fn is_fresh(at: Timestamp, now: Timestamp) -> bool {
    let age = now.as_millisecond() - at.as_millisecond();
    (0..=AGE_MAX.as_millis() as i64).contains(&age)
}
