//! What the engine asks about partners: their profiles, and what was measured of their paths.

use std::fmt;

use culvert_model::profile::{NamedProfile, Profile};
use culvert_protocol::control::Refusal;
use culvert_protocol::identity::PublicKey;

use crate::records::Waiting;

/// The partners that a node knows. Every method may wait for a disk, so the engine calls them
/// outside the runtime's thread.
pub trait Partners: fmt::Debug + Send + Sync {
    /// The profile with this name.
    ///
    /// # Errors
    /// Why there is none.
    fn named(&self, name: &str) -> Result<Profile, Refusal>;

    /// The profile with this address, `host:port`.
    ///
    /// # Errors
    /// Why the profiles cannot be read.
    fn with_address(&self, address: &str) -> Result<Option<NamedProfile>, Refusal>;

    /// The profile with this key.
    ///
    /// # Errors
    /// Why the profiles cannot be read.
    fn with_key(&self, key: PublicKey) -> Result<Option<NamedProfile>, Refusal>;

    /// Notes an unknown key, for the admin to approve.
    fn note_stranger(&self, key: PublicKey, name: &str, address: &str);
}

/// What is known of the paths to partners.
pub trait PathAdvice: fmt::Debug + Send + Sync {
    /// The rate at which a transfer to a partner may begin, in bits per second; `None` if nothing
    /// is known of the path.
    fn start_rate(&self, partner: PublicKey) -> Waiting<'_, Option<u64>>;
}

/// Advice of a program that knows no paths.
#[derive(Clone, Copy, Debug)]
pub struct NoAdvice;

impl PathAdvice for NoAdvice {
    fn start_rate(&self, _partner: PublicKey) -> Waiting<'_, Option<u64>> {
        Box::pin(std::future::ready(None))
    }
}
