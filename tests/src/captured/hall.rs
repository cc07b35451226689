//! Where plays take place.

use std::sync::Arc;

use culvert_protocol::identity::Identity;

use super::truth::Truth;

/// The identities, the runtime and the files shared by all plays on a thread.
pub(super) struct Hall {
    pub(super) runtime: tokio::runtime::Runtime,
    pub(super) here: Arc<Identity>,
    pub(super) there: Arc<Identity>,
    pub(super) truth: Arc<Truth>,
}
