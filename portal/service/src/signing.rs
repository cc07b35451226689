//! The portal's own key (Ed25519). It signs the end of the audit trail, and later what controllers
//! are told. All portals of a database have the same; it is kept there, sealed. Whoever can only
//! write to the database neither signs with it nor makes the marks ([`SigningKey::mark`]) by which
//! the portal knows rows that it has written itself.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::outbox::{self, Head};
use culvert_portal_store::{Database, keys};
use zeroize::Zeroizing;

use crate::chain::{AUDIT, head_message};
use crate::fault::Fault;
use crate::sealing::Sealer;
use crate::secret::{from_hex, hex};
use crate::world::Seams;

/// The kind under which keys are sealed.
const KIND: &str = "portal key";
const NAME: &str = "signing";

/// What the key of marks is derived with.
const MARKS: &[u8] = b"culvert portal marks 1";

/// The key.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    marks: hmac::Key,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("SigningKey").field(&self.public_key()).finish()
    }
}

impl SigningKey {
    /// The key of a database, made if there is none.
    ///
    /// # Errors
    /// [`Fault`]: the database cannot be used, or its keys are sealed under another key.
    pub async fn of_database(database: &Database, seams: &Seams, sealer: &Sealer) -> Result<Self, Fault> {
        if let Some(sealed) = keys::get(&mut database.read().await?, NAME).await? {
            return Self::open(sealer, &sealed);
        }
        let seed = Zeroizing::new(bytes::<32>(&*seams.randomness));
        let sealed = sealer.seal(KIND, NAME, seed.as_slice(), &*seams.randomness);
        let mut writing = database.write().await?;
        // Another portal may have been first.
        if keys::insert_if_absent(&mut writing, NAME, &sealed, seams.clock.now()).await? {
            // From here on, an end of the trail that is not signed is none of the portal's.
            let signature = Self::of_seed(seed.as_slice())?.sign(&head_message(0, ""));
            outbox::move_head(&mut writing, AUDIT, &Head { number: 0, hash: String::new(), signature }).await?;
        }
        writing.commit().await?;
        let kept = keys::get(&mut database.read().await?, NAME).await?;
        Self::open(sealer, &kept.ok_or_else(|| Fault::internal("the new signing key is not there"))?)
    }

    fn open(sealer: &Sealer, sealed: &[u8]) -> Result<Self, Fault> {
        let seed = sealer
            .open(KIND, NAME, sealed)
            .map_err(|error| Fault::internal(format!("the portal's key in the database cannot be opened: {error}")))?;
        Self::of_seed(&seed)
    }

    fn of_seed(seed: &[u8]) -> Result<Self, Fault> {
        let pair = Ed25519KeyPair::from_seed_unchecked(seed)
            .map_err(|_| Fault::internal("the portal's key in the database is not one"))?;
        let derived = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, seed), MARKS);
        Ok(Self { pair, marks: hmac::Key::new(hmac::HMAC_SHA256, derived.as_ref()) })
    }

    /// The public key, in hexadecimal.
    #[must_use]
    pub fn public_key(&self) -> String {
        hex(self.pair.public_key().as_ref())
    }

    /// Signs a message; the signature is in hexadecimal.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> String {
        hex(self.pair.sign(message).as_ref())
    }

    /// A mark (HMAC-SHA-256, in hexadecimal) that only the portal makes, of what a thing consists
    /// of and what it is for.
    #[must_use]
    pub fn mark(&self, purpose: &str, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.marks);
        // Each with its length, so that no two lists of parts are one text.
        for part in std::iter::once(&purpose.as_bytes()).chain(parts) {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        hex(context.sign().as_ref())
    }
}

/// Whether a signature is that key's.
#[must_use]
pub fn is_signed(key: &str, message: &[u8], signature: &str) -> bool {
    let (Some(key), Some(signature)) = (from_hex(key), from_hex(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, key).verify(message, &signature).is_ok()
}
