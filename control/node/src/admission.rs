//! Whom a node admits.

use culvert_objects::fs::reach::Reach;
use culvert_protocol::identity::PublicKey;

/// Whom a node admits, and what they may access.
#[derive(Clone, Debug)]
pub enum Admission {
    /// Any partner with a profile, with the permissions in it.
    Profiles,
    /// A single key, whose owner started this node over ssh and has the permissions of the account.
    Owner {
        /// The key.
        key: PublicKey,
        /// What it may access.
        reach: Reach,
    },
}
