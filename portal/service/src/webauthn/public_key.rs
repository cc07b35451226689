//! An authenticator's public key (COSE, RFC 9052 and 9053), and signatures by it.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};

use super::cbor::{self, Value};

/// ECDSA on P-256 with SHA-256.
pub const ES256: i64 = -7;
/// Ed25519.
pub const EDDSA: i64 = -8;
/// RSASSA-PKCS1-v1_5 with SHA-256.
pub const RS256: i64 = -257;

/// The labels of RFC 9053.
const KIND: i64 = 1;
const ALGORITHM: i64 = 3;
const CURVE: i64 = -1;
const X: i64 = -2;
const Y: i64 = -3;

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PublicKey {
    /// A point on P-256.
    P256(Vec<u8>),
    /// Of Ed25519.
    Ed25519(Vec<u8>),
    /// Of RSA.
    Rsa {
        /// The modulus.
        n: Vec<u8>,
        /// The exponent.
        e: Vec<u8>,
    },
}

impl PublicKey {
    /// Reads a key; `None` if it is none of those that the portal has asked for.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (key, _) = cbor::read(bytes)?;
        let number = |label| key.of_number(label).and_then(Value::number);
        let bytes = |label| key.of_number(label).and_then(Value::bytes);
        match (number(KIND)?, number(ALGORITHM)?) {
            (2, ES256) if number(CURVE) == Some(1) => {
                let (x, y) = (bytes(X)?, bytes(Y)?);
                (x.len() == 32 && y.len() == 32).then(|| Self::P256([&[4], x, y].concat()))
            }
            (1, EDDSA) if number(CURVE) == Some(6) => {
                bytes(X).filter(|key| key.len() == 32).map(|key| Self::Ed25519(key.to_vec()))
            }
            // An RSA key has its modulus where others have their curve.
            (3, RS256) => Some(Self::Rsa { n: bytes(CURVE)?.to_vec(), e: bytes(X)?.to_vec() }),
            _ => None,
        }
    }

    /// Whether it has signed a message.
    #[must_use]
    pub fn has_signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let verified = match self {
            Self::P256(point) => UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature),
            Self::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature),
            Self::Rsa { n, e } => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature)
            }
        };
        verified.is_ok()
    }
}
