//! What the portal is given when it starts: its seams to the world, and what it is told.

use std::path::PathBuf;
use std::sync::Arc;

use culvert_portal_seams::clock::Clock;
use culvert_portal_seams::http::HttpOut;
use culvert_portal_seams::mail::Mailer;
use culvert_portal_seams::randomness::Randomness;

/// The portal's touch with the world.
#[derive(Debug, Clone)]
pub struct Seams {
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// Random bytes.
    pub randomness: Arc<dyn Randomness>,
    /// Mail to people.
    pub mailer: Arc<dyn Mailer>,
    /// HTTP to other services.
    pub http: Arc<dyn HttpOut>,
}

/// What the portal is told when it starts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where browsers find it, without a slash at the end: `https://portal.example.org`.
    pub public_url: String,
    /// A sorted list of hashes of breached passwords.
    pub password_list: Option<PathBuf>,
}
