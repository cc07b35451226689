//! The checks of a registration and of a login (sections 7.1 and 7.2).

use aws_lc_rs::digest::{SHA256, digest};

use super::authenticator_data::AuthenticatorData;
use super::cbor::{self, Value};
use super::client_data::{ClientData, Deed};
use super::public_key::PublicKey;

/// Where passkeys are used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Site {
    /// The site's name: the host of its address.
    pub name: String,
    /// Its pages: scheme, host and port.
    pub origin: String,
}

/// A credential that was registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registered {
    /// Its name.
    pub id: Vec<u8>,
    /// Its key as the authenticator wrote it.
    pub key: Vec<u8>,
    /// How often it has signed.
    pub counter: u32,
}

/// A credential that is known.
#[derive(Debug, Clone, Copy)]
pub struct Known<'a> {
    /// Its key as the authenticator wrote it.
    pub key: &'a [u8],
    /// How often it had signed.
    pub counter: u32,
}

/// What an authenticator gives to show that it has a credential.
#[derive(Debug, Clone, Copy)]
pub struct Assertion<'a> {
    /// What the browser says.
    pub client_data: &'a [u8],
    /// What the authenticator says.
    pub authenticator_data: &'a [u8],
    /// The signature over both.
    pub signature: &'a [u8],
}

/// Why a passkey is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be read.
    #[error("what the browser sent is no passkey of a kind that was asked for")]
    Unreadable,
    /// It was made for something else.
    #[error("the passkey was used on a page of another site, or for something else")]
    Elsewhere,
    /// The authenticator has not asked who is there.
    #[error("the authenticator has not verified the person: use one with a PIN, a finger or a face")]
    NotVerified,
    /// The key has not signed it.
    #[error("the passkey's signature is wrong")]
    NotSigned,
    /// It has signed less often than before: there are two of it.
    #[error("the passkey's counter went back: it may have been copied. Remove it")]
    Copied,
}

/// Checks a new credential, whose challenge was found before.
///
/// # Errors
/// [`Refused`].
pub fn registration(site: &Site, client_data: &[u8], attestation: &[u8]) -> Result<Registered, Refused> {
    let client = ClientData::read(client_data).ok_or(Refused::Unreadable)?;
    let (attestation, _) = cbor::read(attestation).ok_or(Refused::Unreadable)?;
    let bytes = attestation.of_text("authData").and_then(Value::bytes).ok_or(Refused::Unreadable)?;
    let data = AuthenticatorData::read(bytes).ok_or(Refused::Unreadable)?;
    check(site, Deed::Create, &client, &data)?;
    let credential = data.credential.ok_or(Refused::Unreadable)?;
    Ok(Registered { id: credential.id.to_vec(), key: credential.key_bytes.to_vec(), counter: data.counter })
}

/// Checks that somebody has a credential, whose challenge was found before. Gives the new counter.
///
/// # Errors
/// [`Refused`].
pub fn assertion(site: &Site, known: &Known<'_>, shown: &Assertion<'_>) -> Result<u32, Refused> {
    let client = ClientData::read(shown.client_data).ok_or(Refused::Unreadable)?;
    let data = AuthenticatorData::read(shown.authenticator_data).ok_or(Refused::Unreadable)?;
    check(site, Deed::Get, &client, &data)?;
    let key = PublicKey::read(known.key).ok_or(Refused::Unreadable)?;
    let message = [shown.authenticator_data, digest(&SHA256, shown.client_data).as_ref()].concat();
    if !key.has_signed(&message, shown.signature) {
        return Err(Refused::NotSigned);
    }
    // Those that are kept in several places do not count (section 6.1.1).
    let counts = data.counter != 0 || known.counter != 0;
    if counts && data.counter <= known.counter { Err(Refused::Copied) } else { Ok(data.counter) }
}

fn check(site: &Site, deed: Deed, client: &ClientData, data: &AuthenticatorData<'_>) -> Result<(), Refused> {
    let is_here = data.site == digest(&SHA256, site.name.as_bytes()).as_ref();
    if !is_here || !client.is_of(deed, &site.origin) {
        return Err(Refused::Elsewhere);
    }
    if data.is_present && data.is_verified { Ok(()) } else { Err(Refused::NotVerified) }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    struct Authenticator {
        pair: EcdsaKeyPair,
        random: SystemRandom,
    }

    fn site() -> Site {
        Site { name: "portal.example.org".to_owned(), origin: "https://portal.example.org".to_owned() }
    }

    fn client(kind: &str, origin: &str) -> Vec<u8> {
        format!(r#"{{"type":"{kind}","challenge":"AAAA","origin":"{origin}","crossOrigin":false}}"#).into_bytes()
    }

    impl Authenticator {
        fn new() -> Self {
            let random = SystemRandom::new();
            let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
            let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, made.as_ref()).unwrap();
            Self { pair, random }
        }

        fn key(&self) -> Vec<u8> {
            let point = self.pair.public_key().as_ref();
            [&[0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21, 0x58, 32], &point[1..33], &[0x22, 0x58, 32], &point[33..]].concat()
        }

        fn data(&self, name: &str, flags: u8, counter: u32) -> Vec<u8> {
            let site = digest(&SHA256, name.as_bytes());
            let mut data = [site.as_ref(), &[flags], &counter.to_be_bytes()].concat();
            if flags & 0x40 != 0 {
                data.extend([0; 16]);
                data.extend([0, 3, 7, 8, 9]);
                data.extend(self.key());
            }
            data
        }

        fn attestation(&self, data: &[u8]) -> Vec<u8> {
            let length = u8::try_from(data.len()).unwrap();
            let head =
                [&[0xa3, 0x63], b"fmt".as_slice(), &[0x64], b"none", &[0x67], b"attStmt", &[0xa0, 0x68]].concat();
            [&head, b"authData".as_slice(), &[0x58, length], data].concat()
        }

        fn show(&self, client: &[u8], data: &[u8], counter: u32) -> Result<u32, Refused> {
            let message = [data, digest(&SHA256, client).as_ref()].concat();
            let signature = self.pair.sign(&self.random, &message).unwrap();
            let shown = Assertion { client_data: client, authenticator_data: data, signature: signature.as_ref() };
            assertion(&site(), &Known { key: &self.key(), counter }, &shown)
        }
    }

    #[test]
    fn a_passkey_is_registered_and_shown() {
        let authenticator = Authenticator::new();
        let page = client("webauthn.create", "https://portal.example.org");
        let data = authenticator.data("portal.example.org", 0x45, 1);
        let made = registration(&site(), &page, &authenticator.attestation(&data)).unwrap();
        assert_eq!(made, Registered { id: vec![7, 8, 9], key: authenticator.key(), counter: 1 });
        for length in 0..data.len() {
            let cut = authenticator.attestation(&data[..length]);
            assert_eq!(registration(&site(), &page, &cut), Err(Refused::Unreadable), "{length} bytes");
        }
        let shown = client("webauthn.get", "https://portal.example.org");
        let data = |flags, counter| authenticator.data("portal.example.org", flags, counter);
        assert_eq!(authenticator.show(&shown, &data(5, 2), 1), Ok(2));
        assert_eq!(authenticator.show(&shown, &data(5, 0), 0), Ok(0), "one that does not count");
        for counter in [0, 1, 5] {
            assert_eq!(authenticator.show(&shown, &data(5, counter), 5), Err(Refused::Copied), "{counter}");
        }
        assert_eq!(authenticator.show(&shown, &data(1, 2), 1), Err(Refused::NotVerified));
        assert_eq!(authenticator.show(&shown, &data(4, 2), 1), Err(Refused::NotVerified));
    }

    #[test]
    fn what_was_made_elsewhere_is_refused() {
        let authenticator = Authenticator::new();
        let here = authenticator.data("portal.example.org", 5, 2);
        for (kind, origin) in [
            ("webauthn.create", "https://portal.example.org"),
            ("webauthn.get", "https://portal.example.org.evil.example"),
            ("webauthn.get", "http://portal.example.org"),
            ("webauthn.get", "https://portal.example.org:8443"),
            ("payment.get", "https://portal.example.org"),
        ] {
            assert_eq!(authenticator.show(&client(kind, origin), &here, 1), Err(Refused::Elsewhere), "{kind} {origin}");
        }
        let page = client("webauthn.get", "https://portal.example.org");
        let framed = String::from_utf8(page.clone()).unwrap().replace("false", "true").into_bytes();
        assert_eq!(authenticator.show(&framed, &here, 1), Err(Refused::Elsewhere));
        let other = authenticator.data("evil.example", 5, 2);
        assert_eq!(authenticator.show(&page, &other, 1), Err(Refused::Elsewhere));
        assert_eq!(authenticator.show(b"{}", &here, 1), Err(Refused::Unreadable));
        let foreign = Authenticator::new();
        let known = Known { key: &foreign.key(), counter: 1 };
        let signature = authenticator.pair.sign(&authenticator.random, b"x").unwrap();
        let shown = Assertion { client_data: &page, authenticator_data: &here, signature: signature.as_ref() };
        assert_eq!(assertion(&site(), &known, &shown), Err(Refused::NotSigned));
    }
}
