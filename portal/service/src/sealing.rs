//! Secrets that the portal must be able to read again, sealed (AES-256-GCM) before they reach the
//! database: second factors, secrets of identity providers, webhooks and stores.
//!
//! Each is bound to its kind and its row, so one that is copied to another row cannot be opened
//! there. The sealing key is in a file beside the database, or comes from a passphrase; whoever has
//! only the database, or a backup of it, has no secret.
//!
//! ```text
//! version (1 byte, 1) | key id (4) | nonce (12) | ciphertext | tag (16)
//! ```

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::digest::{SHA256, digest};
use culvert_portal_seams::randomness::{Randomness, bytes};
use zeroize::Zeroizing;

/// Bytes of a sealing key.
pub const KEY_BYTES: usize = 32;
const VERSION: u8 = 1;
const KEY_ID_BYTES: usize = 4;
const HEAD_BYTES: usize = 1 + KEY_ID_BYTES + NONCE_LEN;

/// Why something sealed could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// It was sealed under a key that is not here.
    #[error("it is sealed under another key: start the portal with the key file that it had before")]
    OtherKey,
    /// It was changed, or is somebody else's.
    #[error("it was changed after it was sealed, or belongs to another row")]
    Broken,
}

/// Seals and opens.
pub struct Sealer {
    keys: Vec<(u32, LessSafeKey)>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sealer").field("keys", &self.keys.len()).finish()
    }
}

impl Sealer {
    /// Seals under `current`, and opens what is sealed under it or under one of `former`.
    #[must_use]
    pub fn new(current: &[u8; KEY_BYTES], former: &[Zeroizing<[u8; KEY_BYTES]>]) -> Self {
        let key = |bytes: &[u8; KEY_BYTES]| {
            let unbound = UnboundKey::new(&AES_256_GCM, bytes).expect("a key of AES-256 has 32 bytes");
            (key_id(bytes), LessSafeKey::new(unbound))
        };
        Self { keys: std::iter::once(key(current)).chain(former.iter().map(|bytes| key(bytes))).collect() }
    }

    /// Seals a secret for one row of one kind.
    #[must_use]
    pub fn seal(&self, kind: &str, row: &str, secret: &[u8], randomness: &dyn Randomness) -> Vec<u8> {
        let (id, key) = &self.keys[0];
        let nonce: [u8; NONCE_LEN] = bytes(randomness);
        let mut sealed = Vec::with_capacity(HEAD_BYTES + secret.len() + AES_256_GCM.tag_len());
        sealed.push(VERSION);
        sealed.extend_from_slice(&id.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        let mut text = Zeroizing::new(secret.to_vec());
        let tag = key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(aad(kind, row)), &mut text)
            .expect("a secret is shorter than GCM's limit of 64 GiB");
        sealed.extend_from_slice(&text);
        sealed.extend_from_slice(tag.as_ref());
        sealed
    }

    /// Opens what was sealed for that row of that kind.
    ///
    /// # Errors
    /// [`SealError`].
    pub fn open(&self, kind: &str, row: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (head, text) = sealed.split_at_checked(HEAD_BYTES).ok_or(SealError::Broken)?;
        let (version, rest) = head.split_first().ok_or(SealError::Broken)?;
        let (id, nonce) = rest.split_at(KEY_ID_BYTES);
        let id = u32::from_be_bytes(id.try_into().map_err(|_| SealError::Broken)?);
        if *version != VERSION {
            return Err(SealError::Broken);
        }
        let (_, key) = self.keys.iter().find(|(known, _)| *known == id).ok_or(SealError::OtherKey)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Broken)?;
        let mut text = Zeroizing::new(text.to_vec());
        let bytes =
            key.open_in_place(nonce, Aad::from(aad(kind, row)), &mut text).map_err(|_| SealError::Broken)?.len();
        text.truncate(bytes);
        Ok(text)
    }
}

fn key_id(key: &[u8; KEY_BYTES]) -> u32 {
    let hash = digest(&SHA256, &[b"culvert sealing key id".as_slice(), key].concat());
    u32::from_be_bytes([hash.as_ref()[0], hash.as_ref()[1], hash.as_ref()[2], hash.as_ref()[3]])
}

/// Kind and row, so that neither can be taken for a part of the other.
fn aad(kind: &str, row: &str) -> Vec<u8> {
    let length = u32::try_from(kind.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), kind.as_bytes(), row.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use culvert_portal_seams::randomness::SystemRandomness;

    use super::*;

    #[test]
    fn what_was_sealed_is_opened_in_its_row_only() {
        let sealer = Sealer::new(&[1; 32], &[]);
        let sealed = sealer.seal("webhook", "a", b"secret", &SystemRandomness);
        assert_eq!(sealer.open("webhook", "a", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(sealer.open("webhook", "b", &sealed), Err(SealError::Broken));
        assert_eq!(sealer.open("webhoo", "ka", &sealed), Err(SealError::Broken));
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_accepted() {
        let sealer = Sealer::new(&[1; 32], &[]);
        let sealed = sealer.seal("webhook", "a", b"secret", &SystemRandomness);
        for at in 0..sealed.len() * 8 {
            let mut changed = sealed.clone();
            changed[at / 8] ^= 1 << (at % 8);
            assert!(sealer.open("webhook", "a", &changed).is_err(), "bit {at}");
        }
        for length in 0..sealed.len() {
            assert!(sealer.open("webhook", "a", &sealed[..length]).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn a_former_key_opens_and_a_foreign_one_is_named() {
        let old = Sealer::new(&[1; 32], &[]);
        let sealed = old.seal("webhook", "a", b"secret", &SystemRandomness);
        let new = Sealer::new(&[2; 32], &[Zeroizing::new([1; 32])]);
        assert_eq!(new.open("webhook", "a", &sealed).unwrap().as_slice(), b"secret");
        assert_eq!(Sealer::new(&[2; 32], &[]).open("webhook", "a", &sealed), Err(SealError::OtherKey));
        let again = new.seal("webhook", "a", b"secret", &SystemRandomness);
        assert_eq!(old.open("webhook", "a", &again), Err(SealError::OtherKey));
    }
}
