//! Whom this node knows: what the engine asks of its profiles, and of what is known of paths.

use std::fmt;

use culvert_model::profile::{NamedProfile, Profile};
use culvert_protocol::control::Refusal;
use culvert_protocol::identity::PublicKey;

use crate::records::Waiting;

/// The partners that a node knows. All of it may wait for a disk and is asked outside of the
/// runtime's thread.
pub trait Partners: fmt::Debug + Send + Sync {
    /// The profile of a name.
    ///
    /// # Errors
    /// Why there is none.
    fn named(&self, name: &str) -> Result<Profile, Refusal>;

    /// The profile that has an address, `host:port`.
    ///
    /// # Errors
    /// Why nobody can tell.
    fn with_address(&self, address: &str) -> Result<Option<NamedProfile>, Refusal>;

    /// The profile that has a key.
    ///
    /// # Errors
    /// Why nobody can tell.
    fn with_key(&self, key: PublicKey) -> Result<Option<NamedProfile>, Refusal>;

    /// Notes a key that this node met and does not know, for its admin to approve.
    fn note_stranger(&self, key: PublicKey, name: &str, address: &str);
}

/// What is known of the paths to partners.
pub trait PathAdvice: fmt::Debug + Send + Sync {
    /// The rate at which a transfer to a partner may begin, in bits per second; none if nothing
    /// is known.
    fn start_rate(&self, partner: PublicKey) -> Waiting<'_, Option<u64>>;
}

/// Nothing is known of any path.
#[derive(Clone, Copy, Debug)]
pub struct NoAdvice;

impl PathAdvice for NoAdvice {
    fn start_rate(&self, _partner: PublicKey) -> Waiting<'_, Option<u64>> {
        Box::pin(std::future::ready(None))
    }
}
