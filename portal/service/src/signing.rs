//! The portal's own key (Ed25519). It signs the end of the audit trail, and later what controllers
//! are told. All portals of a database have the same; it is kept there, sealed.

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use culvert_portal_seams::randomness::bytes;
use culvert_portal_store::{Database, keys};
use zeroize::Zeroizing;

use crate::fault::Fault;
use crate::sealing::Sealer;
use crate::secret::{from_hex, hex};
use crate::world::Seams;

/// The kind under which keys are sealed.
const KIND: &str = "portal key";
const NAME: &str = "signing";

/// The key.
pub struct SigningKey(Ed25519KeyPair);

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
        keys::insert_if_absent(&mut writing, NAME, &sealed, seams.clock.now()).await?;
        writing.commit().await?;
        // Another portal may have been first.
        let kept = keys::get(&mut database.read().await?, NAME).await?;
        Self::open(sealer, &kept.ok_or_else(|| Fault::internal("the new signing key is not there"))?)
    }

    fn open(sealer: &Sealer, sealed: &[u8]) -> Result<Self, Fault> {
        let seed = sealer
            .open(KIND, NAME, sealed)
            .map_err(|error| Fault::internal(format!("the portal's key in the database cannot be opened: {error}")))?;
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed)
            .map_err(|_| Fault::internal("the portal's key in the database is not one"))?;
        Ok(Self(pair))
    }

    /// The public key, in hexadecimal.
    #[must_use]
    pub fn public_key(&self) -> String {
        hex(self.0.public_key().as_ref())
    }

    /// Signs a message; the signature is in hexadecimal.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> String {
        hex(self.0.sign(message).as_ref())
    }
}

/// Whether a signature is that key's.
#[must_use]
pub fn is_signed(key: &str, message: &[u8], signature: &str) -> bool {
    let (Some(key), Some(signature)) = (from_hex(key), from_hex(signature)) else { return false };
    UnparsedPublicKey::new(&ED25519, key).verify(message, &signature).is_ok()
}
