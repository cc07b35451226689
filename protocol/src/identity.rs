//! The identity of a node: an Ed25519 key, and the fingerprint by which people compare keys.
//!
//! Nodes authenticate each other with raw public keys (RFC 7250) pinned in profiles. A fingerprint
//! looks like SSH's, because administrators know that format: `SHA256:` and the Base64 of the hash
//! of the key's SubjectPublicKeyInfo.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use serde::{Deserialize, Serialize};

/// The DER that goes before an Ed25519 key's 32 bytes in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

//= W-30
//# Both ends present a raw Ed25519 public key (RFC 7250).
/// A node's public key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

/// Text or bytes that are not a key, fingerprint or signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not 64 hexadecimal digits.
    #[error("'{0}' is not a public key: a key is 64 hexadecimal digits")]
    NotAKey(String),
    /// Not an Ed25519 SubjectPublicKeyInfo.
    #[error("the partner's key is not an Ed25519 key, the only kind that Culvert uses")]
    NotEd25519,
    /// The key file does not hold a private key.
    #[error("the file does not hold an Ed25519 private key in PKCS#8 form")]
    NotAPrivateKey,
    /// A signature does not match key and text.
    #[error("the signature does not match this key and text")]
    BadSignature,
}

impl PublicKey {
    /// The key as TLS and `openssl pkey` know it.
    #[must_use]
    pub fn to_spki(self) -> [u8; 44] {
        let mut spki = [0; 44];
        spki[..12].copy_from_slice(&SPKI_PREFIX);
        spki[12..].copy_from_slice(&self.0);
        spki
    }

    /// Reads a SubjectPublicKeyInfo.
    ///
    /// # Errors
    /// [`IdentityError::NotEd25519`] for any other kind of key.
    pub fn from_spki(spki: &[u8]) -> Result<Self, IdentityError> {
        let key = spki.strip_prefix(&SPKI_PREFIX).ok_or(IdentityError::NotEd25519)?;
        Ok(Self(key.try_into().map_err(|_| IdentityError::NotEd25519)?))
    }

    /// The fingerprint that people compare.
    #[must_use]
    pub fn fingerprint(self) -> String {
        format!("SHA256:{}", base64_unpadded(digest(&SHA256, &self.to_spki()).as_ref()))
    }

    /// The beginning of the fingerprint as words, for people who compare keys over the telephone.
    #[must_use]
    pub fn words(self) -> String {
        crate::fingerprint_words::words_of(digest(&SHA256, &self.to_spki()).as_ref())
    }

    /// Checks a signature.
    ///
    /// # Errors
    /// [`IdentityError::BadSignature`] if it is not this key's over `text`.
    pub fn verify(self, text: &[u8], signature: &[u8]) -> Result<(), IdentityError> {
        UnparsedPublicKey::new(&ED25519, self.0).verify(text, signature).map_err(|_| IdentityError::BadSignature)
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl std::fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl std::str::FromStr for PublicKey {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        from_hex(text).map(Self).ok_or_else(|| IdentityError::NotAKey(text.to_owned()))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A node's private key.
pub struct Identity {
    pair: Ed25519KeyPair,
    pkcs8: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.public_key())
    }
}

impl Identity {
    /// Makes a new key from the operating system's randomness.
    ///
    /// # Panics
    /// If the operating system provides none.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "nothing from outside takes part; without random bytes there is no identity"
    )]
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the operating system gives random bytes");
        let pkcs8 = pair.to_pkcs8v1().expect("a fresh key can be written").as_ref().to_vec();
        Self { pair, pkcs8: pkcs8.into() }
    }

    /// Reads a key that [`Identity::to_pkcs8`] wrote.
    ///
    /// # Errors
    /// [`IdentityError::NotAPrivateKey`] for anything else.
    pub fn from_pkcs8(pkcs8: &[u8]) -> Result<Self, IdentityError> {
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8).map_err(|_| IdentityError::NotAPrivateKey)?;
        Ok(Self { pair, pkcs8: pkcs8.to_vec().into() })
    }

    /// The private key in PKCS#8 form, for the key file and for TLS.
    #[must_use]
    pub fn to_pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    /// The public half.
    #[must_use]
    #[expect(clippy::expect_used, reason = "the pair is this node's own, and its key has 32 bytes")]
    pub fn public_key(&self) -> PublicKey {
        let der = self.pair.public_key().as_ref();
        PublicKey(der.try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    /// Signs `text`.
    #[must_use]
    pub fn sign(&self, text: &[u8]) -> Vec<u8> {
        self.pair.sign(text).as_ref().to_vec()
    }
}

/// Lower-case hexadecimal.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    // A transfer of a million files writes a million hashes: no formatter, one allocation.
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len().saturating_mul(2));
    for byte in bytes {
        for digit in [byte >> 4, byte & 15] {
            #[expect(clippy::indexing_slicing, reason = "four bits are below sixteen")]
            text.push(DIGITS[usize::from(digit)].into());
        }
    }
    text
}

/// Reads exactly `N` bytes of hexadecimal.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let (digits, rest) = text.as_bytes().as_chunks::<2>();
    if digits.len() != N || !rest.is_empty() || !text.is_ascii() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, digits) in bytes.iter_mut().zip(digits) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[expect(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "groups of one to three bytes, six bits each"
)]
fn base64_unpadded(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for at in 0..=group.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_its_text() {
        let identity = Identity::generate();
        let again = Identity::from_pkcs8(identity.to_pkcs8()).unwrap();
        let key = identity.public_key();
        assert_eq!(again.public_key(), key);
        assert_eq!(key.to_string().parse(), Ok(key));
        assert_eq!(PublicKey::from_spki(&key.to_spki()), Ok(key));
        assert!(Identity::from_pkcs8(b"nothing").is_err());
        assert!(PublicKey::from_spki(&[0; 44]).is_err());
        assert!("abc".parse::<PublicKey>().is_err());
    }

    #[test]
    fn signatures_bind_key_and_text() {
        let (ours, other) = (Identity::generate(), Identity::generate());
        let signature = ours.sign(b"text");
        assert_eq!(ours.public_key().verify(b"text", &signature), Ok(()));
        assert!(ours.public_key().verify(b"another", &signature).is_err());
        assert!(other.public_key().verify(b"text", &signature).is_err());
        assert!(ours.public_key().verify(b"text", &signature[1..]).is_err());
    }

    #[test]
    fn the_fingerprint_is_the_one_openssl_computes() {
        // openssl genpkey … | openssl pkey -pubin -outform DER | sha256sum | xxd -r -p | base64
        let key = PublicKey([0; 32]);
        assert_eq!(key.fingerprint().len(), "SHA256:".len() + 43);
        assert_eq!(base64_unpadded(b"foobar"), "Zm9vYmFy");
        assert_eq!(base64_unpadded(b"fooba"), "Zm9vYmE");
        assert_eq!(base64_unpadded(b"foob"), "Zm9vYg");
    }
}
