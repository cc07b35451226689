//! A provider's public keys (JSON Web Key Set, RFC 7517), and signatures by them.
//!
//! A key says by its kind which algorithms it is for, and by `alg` which one, if it says so. What a
//! token claims about its algorithm only chooses among those: so neither a token without signature
//! nor one whose "secret" is a public key can pass. There is no HMAC here.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384,
    RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// Keys of a set that are looked at.
const KEYS_MAX: usize = 100;

/// How a token is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 or RSASSA-PSS.
    Rsa(&'static RsaParameters),
    /// ECDSA on P-256.
    P256,
    /// ECDSA on P-384.
    P384,
    /// Ed25519.
    Ed25519,
}

/// Whether a key of a set has signed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// One has.
    Signed,
    /// None has.
    NotSigned,
    /// The set has no such key: it may have been made since the set was read.
    UnknownKey,
}

/// A provider's keys.
#[derive(Debug, Clone)]
pub struct KeySet(Vec<Key>);

#[derive(Debug, Clone)]
struct Key {
    id: Option<String>,
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    Rsa { n: Vec<u8>, e: Vec<u8> },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Algorithm {
    /// The algorithm of a header's `alg`; `None` for those that are not accepted.
    #[must_use]
    pub fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&RSA_PSS_2048_8192_SHA256),
            "PS384" => Self::Rsa(&RSA_PSS_2048_8192_SHA384),
            "PS512" => Self::Rsa(&RSA_PSS_2048_8192_SHA512),
            "ES256" => Self::P256,
            "ES384" => Self::P384,
            "EdDSA" => Self::Ed25519,
            _ => return None,
        })
    }
}

impl KeySet {
    /// Reads a set. Keys of kinds that are not known, and those for encryption, are passed over.
    ///
    /// # Errors
    /// A sentence, if it is no set.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        let document: Document =
            serde_json::from_slice(bytes).map_err(|error| format!("its keys cannot be read: {error}"))?;
        Ok(Self(document.keys.into_iter().take(KEYS_MAX).filter_map(Key::of).collect()))
    }

    /// How many keys there are that can be used.
    #[must_use]
    pub fn count(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Whether one of the keys has signed a message.
    #[must_use]
    pub fn verify(&self, word: &str, key_id: Option<&str>, message: &[u8], signature: &[u8]) -> Verdict {
        let Some(algorithm) = Algorithm::of_word(word) else { return Verdict::NotSigned };
        let named = |key: &&Key| key_id.is_none() || key.id.as_deref() == key_id;
        let mut candidates = self.0.iter().filter(named).peekable();
        if candidates.peek().is_none() {
            return Verdict::UnknownKey;
        }
        let has_signed = |key: &Key| {
            key.algorithm.as_deref().is_none_or(|own| own == word)
                && key.material.has_signed(algorithm, message, signature)
        };
        if candidates.any(has_signed) { Verdict::Signed } else { Verdict::NotSigned }
    }
}

impl Material {
    fn has_signed(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        let verified = match (self, algorithm) {
            (Self::Rsa { n, e }, Algorithm::Rsa(parameters)) => {
                RsaPublicKeyComponents { n, e }.verify(parameters, message, signature)
            }
            (Self::P256(point), Algorithm::P256) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature)
            }
            (Self::P384(point), Algorithm::P384) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signature)
            }
            (Self::Ed25519(key), Algorithm::Ed25519) => {
                UnparsedPublicKey::new(&ED25519, key).verify(message, signature)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<JsonWebKey>,
}

#[derive(Deserialize)]
struct JsonWebKey {
    kty: Option<String>,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl Key {
    fn of(key: JsonWebKey) -> Option<Self> {
        if key.purpose.as_deref().is_some_and(|purpose| purpose != "sig") {
            return None;
        }
        let bytes = |text: Option<&String>| URL_SAFE_NO_PAD.decode(text?).ok();
        // An uncompressed point (SEC 1, section 2.3.3).
        let point = |length| {
            let (x, y) = (bytes(key.x.as_ref())?, bytes(key.y.as_ref())?);
            (x.len() == length && y.len() == length).then(|| [&[4], x.as_slice(), y.as_slice()].concat())
        };
        let material = match (key.kty.as_deref()?, key.crv.as_deref()) {
            ("RSA", _) => Material::Rsa { n: bytes(key.n.as_ref())?, e: bytes(key.e.as_ref())? },
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            ("OKP", Some("Ed25519")) => Material::Ed25519(bytes(key.x.as_ref())?),
            _ => return None,
        };
        Some(Self { id: key.kid, algorithm: key.alg, material })
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn base64(bytes: &[u8]) -> String {
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// RFC 8037, appendix A: a key and a signature by it.
    #[test]
    fn ed25519_is_that_of_the_rfc() {
        let keys = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let message = b"eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc";
        let signature = "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        let keys = KeySet::read(keys.as_bytes()).unwrap();
        assert_eq!(keys.verify("EdDSA", None, message, &signature), Verdict::Signed);
        assert_eq!(keys.verify("EdDSA", Some("other"), message, &signature), Verdict::UnknownKey);
        assert_eq!(keys.verify("ES256", None, message, &signature), Verdict::NotSigned);
        assert_eq!(keys.verify("EdDSA", None, b"another", &signature), Verdict::NotSigned);
    }

    #[test]
    fn an_elliptic_key_signs_by_its_own_algorithm_only() {
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref()).unwrap();
        let point = pair.public_key().as_ref();
        let (x, y) = (base64(&point[1..33]), base64(&point[33..]));
        let read = |more: &str| {
            let text = format!(r#"{{"keys":[{{"kty":"EC","crv":"P-256","kid":"k","x":"{x}","y":"{y}"{more}}}]}}"#);
            KeySet::read(text.as_bytes()).unwrap()
        };
        let signature = pair.sign(&random, b"message").unwrap();
        let verdict = |keys: &KeySet, word| keys.verify(word, Some("k"), b"message", signature.as_ref());
        assert_eq!(verdict(&read(""), "ES256"), Verdict::Signed);
        for word in ["none", "HS256", "RS256", "ES384", "EdDSA", "es256", ""] {
            assert_eq!(verdict(&read(""), word), Verdict::NotSigned, "{word}");
        }
        assert_eq!(verdict(&read(r#","alg":"ES384""#), "ES256"), Verdict::NotSigned, "it is for another");
        assert_eq!(verdict(&read(r#","use":"enc""#), "ES256"), Verdict::UnknownKey, "it is for encryption");
    }

    #[test]
    fn what_is_no_set_is_told_and_unknown_keys_are_passed_over() {
        for bad in ["", "[]", "{}", r#"{"keys":1}"#, r#"{"keys":[1]}"#] {
            assert!(KeySet::read(bad.as_bytes()).is_err(), "{bad}");
        }
        let pair = Ed25519KeyPair::generate().unwrap();
        let x = base64(pair.public_key().as_ref());
        let text = format!(
            r#"{{"keys":[{{}},{{"kty":"oct","k":"AAAA"}},{{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}},
                {{"kty":"OKP","crv":"Ed25519","x":"{x}"}}]}}"#
        );
        let keys = KeySet::read(text.as_bytes()).unwrap();
        assert_eq!(keys.0.len(), 1);
        assert_eq!(keys.verify("EdDSA", None, b"m", pair.sign(b"m").as_ref()), Verdict::Signed);
    }
}
