//! What every handler has at hand.

use std::sync::Arc;

use culvert_portal_service::portal::Portal;
use tokio::sync::watch;

use crate::address::TrustedProxies;
use crate::metrics::ApiMetrics;
use crate::streams::Streams;

/// The API's state. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Api {
    /// The service.
    pub portal: Arc<Portal>,
    /// Whose word about a client's address is believed.
    pub proxies: Arc<TrustedProxies>,
    /// Whether browsers reach the portal over TLS: cookies are for TLS only then.
    pub is_secure: bool,
    /// What is counted.
    pub metrics: Arc<ApiMetrics>,
    /// Becomes true when the portal stops: streams end then.
    pub stopping: watch::Receiver<bool>,
    /// Streams of events that are open.
    pub streams: Streams,
}
