//! An ID token (OpenID Connect Core, section 3.1.3.7): read, and checked against what is expected.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::key_set::{KeySet, Verdict};

/// The longest token: one with thousands of groups.
const BYTES_MAX: usize = 512 * 1024;
/// The longest subject (OpenID Connect Core, section 2).
const SUBJECT_BYTES_MAX: usize = 255;
/// By how much a provider's clock may be wrong.
pub const SKEW_SECONDS: i64 = 120;

/// What a token must say.
#[derive(Debug, Clone)]
pub struct Expected<'a> {
    /// Whom it must be from.
    pub issuer: &'a str,
    /// Whom it must be for.
    pub client_id: &'a str,
    /// For which log-in.
    pub nonce: &'a str,
    /// The time, in seconds since 1970.
    pub now: i64,
    /// The person must have proved who they are after this time, if it is given.
    pub proved_after: Option<i64>,
}

/// Who somebody is, and what else the provider says of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Claims {
    /// What the provider calls them, for ever.
    pub subject: String,
    /// Everything that it says.
    pub all: Map<String, Value>,
}

/// Why a token is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is no token.
    #[error("the ID token cannot be read: {0}")]
    Unreadable(&'static str),
    /// Nobody knows who signed it.
    #[error("the ID token is signed with {algorithm} by no key that the provider publishes")]
    NotSigned {
        /// What its header says.
        algorithm: String,
    },
    /// It says something else than it must.
    #[error("the ID token's {claim} is {found}, not {expected}")]
    Wrong {
        /// The claim.
        claim: &'static str,
        /// What it is, shortened.
        found: String,
        /// What it must be.
        expected: String,
    },
}

/// A token that nobody has looked at yet.
#[derive(Debug)]
pub struct Unverified<'a> {
    header: Header,
    message: &'a str,
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

impl<'a> Unverified<'a> {
    /// Reads a token in its compact form (RFC 7515, section 7.1).
    ///
    /// # Errors
    /// [`Refused::Unreadable`].
    pub fn read(text: &'a str) -> Result<Self, Refused> {
        if text.len() > BYTES_MAX {
            return Err(Refused::Unreadable("it is too long"));
        }
        let (message, signature) = text.rsplit_once('.').ok_or(Refused::Unreadable("it has no signature"))?;
        let (header, claims) = message.split_once('.').ok_or(Refused::Unreadable("it has no claims"))?;
        let bytes = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| Refused::Unreadable("it is not base64url"));
        let header: Header = serde_json::from_slice(&bytes(header)?)
            .map_err(|_| Refused::Unreadable("its header has no algorithm, or is no JSON"))?;
        if header.crit.is_some() {
            // Whoever does not know what is critical must refuse it (RFC 7515, section 4.1.11).
            return Err(Refused::Unreadable("its header has extensions that must be understood"));
        }
        let claims = serde_json::from_slice(&bytes(claims)?)
            .map_err(|_| Refused::Unreadable("its claims are no JSON object"))?;
        Ok(Self { header, message, signature: bytes(signature)?, claims })
    }

    /// Whether a key of a set has signed it.
    #[must_use]
    pub fn verdict(&self, keys: &KeySet) -> Verdict {
        keys.verify(&self.header.alg, self.header.kid.as_deref(), self.message.as_bytes(), &self.signature)
    }

    /// What it says, if a key has signed it and it says what it must.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn checked(self, keys: &KeySet, expected: &Expected<'_>) -> Result<Claims, Refused> {
        if self.verdict(keys) != Verdict::Signed {
            return Err(Refused::NotSigned { algorithm: short(&self.header.alg) });
        }
        check(&self.claims, expected)?;
        let subject = self.claims.get("sub").and_then(Value::as_str).unwrap_or_default();
        if subject.is_empty() || subject.len() > SUBJECT_BYTES_MAX || subject.contains('\0') {
            return Err(wrong("sub", self.claims.get("sub"), "a text of 1 to 255 characters"));
        }
        Ok(Claims { subject: subject.to_owned(), all: self.claims })
    }
}

fn check(claims: &Map<String, Value>, expected: &Expected<'_>) -> Result<(), Refused> {
    let text = |claim| claims.get(claim).and_then(Value::as_str);
    if text("iss") != Some(expected.issuer) {
        return Err(wrong("iss", claims.get("iss"), expected.issuer));
    }
    check_audience(claims, expected.client_id)?;
    if text("nonce") != Some(expected.nonce) {
        return Err(wrong("nonce", claims.get("nonce"), "the one of this log-in"));
    }
    let time = |claim| claims.get(claim).and_then(Value::as_f64).map(|seconds| seconds as i64);
    let (least, most) = (expected.now - SKEW_SECONDS, expected.now + SKEW_SECONDS);
    if time("exp").is_none_or(|seconds| seconds <= least) {
        return Err(wrong("exp", claims.get("exp"), &format!("after {}", expected.now)));
    }
    if time("iat").is_none_or(|seconds| seconds > most) {
        return Err(wrong("iat", claims.get("iat"), &format!("before {}", expected.now)));
    }
    if claims.contains_key("nbf") && time("nbf").is_none_or(|seconds| seconds > most) {
        return Err(wrong("nbf", claims.get("nbf"), &format!("before {}", expected.now)));
    }
    if let Some(after) = expected.proved_after
        && time("auth_time").is_none_or(|seconds| seconds < after - SKEW_SECONDS)
    {
        return Err(wrong("auth_time", claims.get("auth_time"), &format!("after {after}")));
    }
    Ok(())
}

/// It must be for this portal; if it is for others too, this portal must be who asked for it.
fn check_audience(claims: &Map<String, Value>, client_id: &str) -> Result<(), Refused> {
    let audience = claims.get("aud");
    let (is_for, with_others) = match audience {
        Some(Value::String(one)) => (one == client_id, false),
        Some(Value::Array(several)) => (several.iter().any(|one| one.as_str() == Some(client_id)), several.len() > 1),
        _ => (false, false),
    };
    if !is_for {
        return Err(wrong("aud", audience, client_id));
    }
    match claims.get("azp") {
        Some(party) if party.as_str() != Some(client_id) => Err(wrong("azp", Some(party), client_id)),
        None if with_others => Err(wrong("azp", None, client_id)),
        _ => Ok(()),
    }
}

fn wrong(claim: &'static str, found: Option<&Value>, expected: &str) -> Refused {
    let found = found.map_or_else(|| "missing".to_owned(), |value| short(&value.to_string()));
    Refused::Wrong { claim, found, expected: short(expected) }
}

/// For a line of the log.
fn short(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(100).collect()
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use serde_json::json;

    use super::*;

    const NOW: i64 = 1_800_000_000;

    fn expected() -> Expected<'static> {
        Expected { issuer: "https://id.example.org", client_id: "portal", nonce: "n", now: NOW, proved_after: None }
    }

    fn signed(pair: &Ed25519KeyPair, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let message = format!("{}.{}", part(header), part(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(pair.sign(message.as_bytes()).as_ref()))
    }

    fn keys(pair: &Ed25519KeyPair) -> KeySet {
        let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
        KeySet::read(json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "x": x}]}).to_string().as_bytes()).unwrap()
    }

    fn check_with(change: &Value, expected: &Expected<'_>) -> Result<Claims, Refused> {
        let pair = Ed25519KeyPair::generate().unwrap();
        let mut claims = json!({"iss": "https://id.example.org", "aud": "portal", "sub": "s", "nonce": "n",
            "exp": NOW + 60, "iat": NOW});
        for (name, value) in change.as_object().unwrap() {
            claims[name] = value.clone();
        }
        claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let text = signed(&pair, &json!({"alg": "EdDSA"}), &claims);
        Unverified::read(&text)?.checked(&keys(&pair), expected)
    }

    #[test]
    fn what_must_be_said_is_said() {
        assert_eq!(check_with(&json!({}), &expected()).unwrap().subject, "s");
        for good in [
            json!({"aud": ["portal"]}),
            json!({"aud": ["portal", "other"], "azp": "portal"}),
            json!({"exp": NOW - 119}),
            json!({"iat": NOW + 119}),
            json!({"nbf": NOW + 119}),
            json!({"exp": NOW as f64 + 0.5}),
        ] {
            assert!(check_with(&good, &expected()).is_ok(), "{good}");
        }
        for bad in [
            json!({"iss": "https://id.example.org/"}),
            json!({"iss": null}),
            json!({"aud": "other"}),
            json!({"aud": []}),
            json!({"aud": null}),
            json!({"aud": ["portal", "other"]}),
            json!({"azp": "other"}),
            json!({"nonce": "m"}),
            json!({"nonce": null}),
            json!({"exp": NOW - 120}),
            json!({"exp": null}),
            json!({"exp": "tomorrow"}),
            json!({"iat": NOW + 121}),
            json!({"iat": null}),
            json!({"nbf": NOW + 121}),
            json!({"nbf": "x"}),
            json!({"sub": null}),
            json!({"sub": ""}),
            json!({"sub": 7}),
            json!({"sub": "x".repeat(256)}),
            json!({"sub": "a\0b"}),
        ] {
            let refused = check_with(&bad, &expected()).unwrap_err();
            let claim = bad.as_object().unwrap().keys().next().unwrap().as_str();
            let told = refused.to_string();
            assert!(told.contains(claim) || (claim == "aud" && told.contains("azp")), "{bad}: {told}");
        }
    }

    #[test]
    fn a_proof_must_be_recent_where_that_is_asked() {
        let expected = Expected { proved_after: Some(NOW), ..expected() };
        assert!(check_with(&json!({"auth_time": NOW}), &expected).is_ok());
        assert!(check_with(&json!({"auth_time": NOW - 121}), &expected).is_err());
        assert!(check_with(&json!({}), &expected).is_err());
    }

    #[test]
    fn only_its_own_signature_counts() {
        let (pair, foreign) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let claims = json!({"iss": "https://id.example.org", "aud": "portal", "sub": "s", "nonce": "n",
            "exp": NOW + 60, "iat": NOW});
        let refused = |text: &str| Unverified::read(text).and_then(|token| token.checked(&keys(&pair), &expected()));
        assert!(refused(&signed(&pair, &json!({"alg": "EdDSA"}), &claims)).is_ok());
        for bad in [
            signed(&foreign, &json!({"alg": "EdDSA"}), &claims),
            signed(&pair, &json!({"alg": "none"}), &claims),
            signed(&pair, &json!({"alg": "HS256"}), &claims),
            signed(&pair, &json!({"alg": "EdDSA", "crit": ["exp"]}), &claims),
            signed(&pair, &json!({"alg": "EdDSA", "kid": "unknown"}), &claims),
            signed(&pair, &json!({"typ": "JWT"}), &claims),
            signed(&pair, &json!({"alg": "EdDSA"}), &json!([])),
        ] {
            assert!(refused(&bad).is_err(), "{bad}");
        }
        let good = signed(&pair, &json!({"alg": "EdDSA"}), &claims);
        let (message, _) = good.rsplit_once('.').unwrap();
        for bad in ["", ".", "..", "a.b", "a.b.c", "é.é.é", &format!("{message}."), message, &good[1..]] {
            assert!(refused(bad).is_err(), "{bad}");
        }
    }
}
