//! What a browser says of the page on which somebody uses a passkey (section 5.8.1).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

/// What somebody does with a passkey.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Registers it.
    Create,
    /// Shows it.
    Get,
}

/// What a browser says.
#[derive(Debug, Clone, Deserialize)]
pub struct ClientData {
    #[serde(rename = "type")]
    kind: String,
    challenge: String,
    origin: String,
    #[serde(default, rename = "crossOrigin")]
    is_cross_origin: bool,
}

impl ClientData {
    /// Reads it.
    #[must_use]
    pub fn read(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    /// For which challenge it is.
    #[must_use]
    pub fn challenge(&self) -> Option<Vec<u8>> {
        URL_SAFE_NO_PAD.decode(&self.challenge).ok()
    }

    /// Whether it is about this, on a page of this origin, which no other page frames.
    #[must_use]
    pub fn is_of(&self, deed: Deed, origin: &str) -> bool {
        let kind = match deed {
            Deed::Create => "webauthn.create",
            Deed::Get => "webauthn.get",
        };
        self.kind == kind && self.origin == origin && !self.is_cross_origin
    }
}
