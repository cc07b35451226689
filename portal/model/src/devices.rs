//! Letting in devices without a browser (RFC 8628), as the API shows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::scope::Scope;

/// What a device is told when it asks to be let in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceCode {
    /// The secret that the device asks with whether it was let in. It shows it to nobody.
    pub device_code: String,
    /// What the device shows to its person: eight letters with a hyphen in the middle.
    pub user_code: String,
    /// The page on which the person enters it.
    pub verification_uri: String,
    /// The same page with the code entered, for a link or a QR code.
    pub verification_uri_complete: String,
    /// The codes are good for so many seconds.
    pub expires_in: u32,
    /// The device asks at most every so many seconds.
    pub interval: u32,
}

/// A device that waits to be let in, as its person sees it before they decide.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DeviceRequest {
    /// The code that the device shows.
    pub user_code: String,
    /// What the device calls itself. It is its own word.
    pub client: String,
    /// The address that it asks from.
    pub address: String,
    /// What it wants to be allowed.
    pub scopes: Vec<Scope>,
    /// For how many days it wants its token to be good, if it has said so.
    pub days: Option<u32>,
    /// When it asked.
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    /// Until when it can be let in.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
