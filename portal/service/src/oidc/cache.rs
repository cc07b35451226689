//! What is known of providers, for a while: their descriptions and keys.
//!
//! Whoever sends tokens with names of keys that do not exist must not make the portal ask the
//! provider each time: keys are read again for an unknown one, but not twice in half a minute.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use culvert_portal_model::id::Id;
use jiff::Timestamp;

use super::discovery::Metadata;
use super::key_set::KeySet;

/// How long a description and keys are used.
const USED_SECONDS: i64 = 600;
/// How long after keys were read for an unknown one they are not read again for another.
const ASKED_AGAIN_SECONDS: i64 = 30;
/// Providers of which something is kept.
const KEPT_MAX: usize = 100;

/// What is known of providers.
#[derive(Debug, Default)]
pub struct ProviderCache(Mutex<HashMap<(Id, i64), Known>>);

/// What is known of a provider in one version of its settings.
#[derive(Debug, Default)]
struct Known {
    metadata: Option<(Arc<Metadata>, Timestamp)>,
    keys: Option<(Arc<KeySet>, Timestamp)>,
    asked_again_at: Option<Timestamp>,
}

impl ProviderCache {
    /// A provider's description, if it was read a short while ago.
    #[must_use]
    pub fn metadata(&self, provider: (Id, i64), now: Timestamp) -> Option<Arc<Metadata>> {
        self.with(provider, |known| fresh(known.metadata.as_ref(), now))
    }

    /// Keeps a description.
    pub fn keep_metadata(&self, provider: (Id, i64), metadata: Arc<Metadata>, now: Timestamp) {
        self.with(provider, |known| known.metadata = Some((metadata, now)));
    }

    /// A provider's keys, if they were read a short while ago.
    #[must_use]
    pub fn keys(&self, provider: (Id, i64), now: Timestamp) -> Option<Arc<KeySet>> {
        self.with(provider, |known| fresh(known.keys.as_ref(), now))
    }

    /// Keeps keys.
    pub fn keep_keys(&self, provider: (Id, i64), keys: Arc<KeySet>, now: Timestamp) {
        self.with(provider, |known| known.keys = Some((keys, now)));
    }

    /// Whether keys may be read again now because a token names one that is not among them.
    #[must_use]
    pub fn may_ask_again(&self, provider: (Id, i64), now: Timestamp) -> bool {
        self.with(provider, |known| {
            let may = known.asked_again_at.is_none_or(|at| !is_within(at, now, ASKED_AGAIN_SECONDS));
            if may {
                known.asked_again_at = Some(now);
            }
            may
        })
    }

    fn with<T>(&self, provider: (Id, i64), look: impl FnOnce(&mut Known) -> T) -> T {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KEPT_MAX && !known.contains_key(&provider) {
            known.clear();
        }
        look(known.entry(provider).or_default())
    }
}

fn fresh<T>(kept: Option<&(Arc<T>, Timestamp)>, now: Timestamp) -> Option<Arc<T>> {
    kept.filter(|(_, at)| is_within(*at, now, USED_SECONDS)).map(|(value, _)| value.clone())
}

/// Also if the clock was set back, nothing is used for ever.
fn is_within(at: Timestamp, now: Timestamp, seconds: i64) -> bool {
    (0..seconds).contains(&(now.as_second() - at.as_second()))
}
