//! What credentials were found to be a moment ago.
//!
//! It is believed for a second, so that a busy client costs one look at the database a second and
//! not one a request. Whoever is deactivated is out everywhere within that second.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use culvert_portal_model::audit::Who;
use culvert_portal_model::role::Role;
use culvert_portal_model::scope::Scope;
use jiff::Timestamp;

/// For how long what was found is believed.
const BELIEVED_MILLISECONDS: i64 = 1_000;
/// How many findings are kept: more clients at once cost more looks.
const KEPT_MAX: usize = 10_000;

/// What credentials were found to be a moment ago.
#[derive(Debug, Default)]
pub struct Credentials(Mutex<HashMap<String, (Found, Timestamp)>>);

/// What credentials were found to be.
#[derive(Debug, Clone)]
pub struct Found {
    /// Who has them.
    pub who: Who,
    /// What their account may do.
    pub roles: Vec<Role>,
    /// What a token may be used for.
    pub scopes: Option<Vec<Scope>>,
    /// Whether their account has a second factor.
    pub has_second_factor: bool,
    /// When they last proved who they are.
    pub proved_at: Option<Timestamp>,
    /// Whether that was by logging in, and not since.
    pub has_only_logged_in: bool,
}

impl Credentials {
    /// What was found under a hash a moment ago.
    #[must_use]
    pub fn get(&self, hash: &str, now: Timestamp) -> Option<Found> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (found, at) = kept.get(hash)?;
        let age = now.as_millisecond() - at.as_millisecond();
        (0..BELIEVED_MILLISECONDS).contains(&age).then(|| found.clone())
    }

    /// Keeps what was found.
    pub fn keep(&self, hash: String, found: Found, now: Timestamp) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= KEPT_MAX {
            kept.clear();
        }
        kept.insert(hash, (found, now));
    }

    /// Forgets everything: somebody's rights have changed.
    pub fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
