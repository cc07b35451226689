//! Secrets that the portal hands out: 256 random bits each, kept only as hashes.
//!
//! A plain hash will do where the secret is random: there is nothing to guess.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use culvert_portal_seams::randomness::{Randomness, bytes};

use crate::fault::Fault;

/// What a secret is for. Its prefix tells scanners of repositories what they have found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The cookie of somebody who has logged in.
    Session,
    /// An API token.
    Token,
    /// An invitation.
    Invitation,
    /// A link that was mailed or printed.
    Link,
    /// What a device without a browser polls with.
    Device,
    /// What a browser has between two steps of an exchange.
    Ceremony,
}

impl Kind {
    /// What its secrets begin with.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Session => "culvert_ses_",
            Self::Token => "culvert_pat_",
            Self::Invitation => "culvert_inv_",
            Self::Link => "culvert_lnk_",
            Self::Device => "culvert_dev_",
            Self::Ceremony => "culvert_cer_",
        }
    }
}

/// Makes a secret.
#[must_use]
pub fn make(kind: Kind, randomness: &dyn Randomness) -> String {
    format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(bytes::<32>(randomness)))
}

/// The hash under which a secret is kept; `None` if the text cannot be a secret of that kind.
#[must_use]
pub fn hash(kind: Kind, secret: &str) -> Option<String> {
    let rest = secret.strip_prefix(kind.prefix())?;
    let well_formed = rest.len() == 43 && URL_SAFE_NO_PAD.decode(rest).is_ok_and(|bytes| bytes.len() == 32);
    well_formed.then(|| hex(digest(&SHA256, secret.as_bytes()).as_ref()))
}

/// The hash of a secret that somebody has copied out of a link.
///
/// # Errors
/// [`Fault`] of the field `secret` if it cannot be one: it is not spent, but was never given.
pub fn copied(kind: Kind, secret: &str) -> Result<String, Fault> {
    hash(kind, secret).ok_or_else(|| {
        let detail = format!(
            "this is not the secret of a link: give what stands behind # in the link and nothing else, \
             {} and 43 characters",
            kind.prefix()
        );
        Fault::of_field("secret", detail)
    })
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Bytes from hexadecimal.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use culvert_portal_seams::randomness::SystemRandomness;

    use super::*;

    #[test]
    fn a_secret_is_long_and_is_of_one_kind() {
        let secret = make(Kind::Token, &SystemRandomness);
        assert_eq!(secret.len(), 55);
        assert!(hash(Kind::Token, &secret).is_some_and(|hash| hash.len() == 64));
        assert_eq!(hash(Kind::Session, &secret), None);
        for other in ["", "culvert_pat_", &secret[..54], &format!("{secret}A"), &secret.replace("pat", "PAT")] {
            assert_eq!(hash(Kind::Token, other), None, "{other}");
        }
    }

    #[test]
    fn hexadecimal_is_read_back() {
        assert_eq!(from_hex(&hex(&[0, 1, 254, 255])), Some(vec![0, 1, 254, 255]));
        assert_eq!(from_hex("0"), None);
        assert_eq!(from_hex("zz"), None);
        assert_eq!(from_hex("é"), None);
    }
}
