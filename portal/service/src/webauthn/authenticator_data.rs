//! What an authenticator says (Web Authentication, section 6.1).
//!
//! ```text
//! hash of the site (32) | flags (1) | counter (4) | new credential, if there is one | extensions
//! new credential: model (16) | length of its name (2) | its name | its key (CBOR)
//! ```

use super::public_key::PublicKey;

const SITE_BYTES: usize = 32;
const MODEL_BYTES: usize = 16;
/// The longest credential (section 5.1).
const CREDENTIAL_BYTES_MAX: usize = 1_023;
const IS_PRESENT: u8 = 1 << 0;
const IS_VERIFIED: u8 = 1 << 2;
const HAS_CREDENTIAL: u8 = 1 << 6;

/// What an authenticator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthenticatorData<'a> {
    /// The hash of the site's name.
    pub site: &'a [u8],
    /// Whether somebody was there.
    pub is_present: bool,
    /// Whether they have shown that it is them.
    pub is_verified: bool,
    /// How often it has signed; always 0 if it does not count.
    pub counter: u32,
    /// The new credential, when one is registered.
    pub credential: Option<Credential<'a>>,
}

/// A new credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential<'a> {
    /// Its name.
    pub id: &'a [u8],
    /// Its key as the authenticator wrote it.
    pub key_bytes: &'a [u8],
    /// Its key.
    pub key: PublicKey,
}

impl<'a> AuthenticatorData<'a> {
    /// Reads it; `None` if it is cut off or has a key that was not asked for.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Self> {
        let (site, rest) = bytes.split_at_checked(SITE_BYTES)?;
        let (flags, rest) = rest.split_first()?;
        let (counter, rest) = rest.split_first_chunk::<4>()?;
        let credential = if flags & HAS_CREDENTIAL == 0 { None } else { Some(Credential::read(rest)?) };
        Some(Self {
            site,
            is_present: flags & IS_PRESENT != 0,
            is_verified: flags & IS_VERIFIED != 0,
            counter: u32::from_be_bytes(*counter),
            credential,
        })
    }
}

impl<'a> Credential<'a> {
    fn read(bytes: &'a [u8]) -> Option<Self> {
        let (_, rest) = bytes.split_at_checked(MODEL_BYTES)?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let (id, rest) = rest.split_at_checked(length)?;
        if id.is_empty() || length > CREDENTIAL_BYTES_MAX {
            return None;
        }
        let (_, behind) = super::cbor::read(rest)?;
        let key_bytes = &rest[..rest.len() - behind.len()];
        Some(Self { id, key_bytes, key: PublicKey::read(key_bytes)? })
    }
}
