//! Whom a node lets in.

use culvert_objects::fs::reach::Reach;
use culvert_protocol::identity::PublicKey;

/// Whom a node lets in, and how far.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Any partner with a profile, as far as it permits.
    Profiles,
    /// One key only, whose owner started this node over ssh and may do what they may do there.
    Owner {
        /// The key.
        key: PublicKey,
        /// What may be reached.
        reach: Reach,
    },
}
