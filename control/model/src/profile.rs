//! Profiles of partners, and keys that are pending approval.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use culvert_protocol::control::PermissionAnswer;
use culvert_protocol::identity::PublicKey;
use serde::{Deserialize, Serialize};

use crate::address::DEFAULT_PORT;

/// What a partner may do in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Fetch from it.
    Read,
    /// Store into it.
    Write,
    /// Both.
    Both,
}

impl Permission {
    /// Whether it lets a partner fetch.
    #[must_use]
    pub const fn reads(self) -> bool {
        matches!(self, Self::Read | Self::Both)
    }

    /// Whether it lets a partner store.
    #[must_use]
    pub const fn writes(self) -> bool {
        matches!(self, Self::Write | Self::Both)
    }
}

impl std::str::FromStr for Permission {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "read" => Ok(Self::Read),
            "write" => Ok(Self::Write),
            "both" => Ok(Self::Both),
            _ => Err(format!("unknown permission '{text}': write read, write or both")),
        }
    }
}

/// A directory of this node that a partner may use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PermittedRoot {
    /// The directory, absolute.
    pub path: PathBuf,
    /// The permitted directions.
    pub permission: Permission,
}

/// A partner's permissions without naming directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct PermissionSummary {
    /// Whether it may store files.
    pub store: PermissionAnswer,
    /// Whether it may fetch files.
    pub fetch: PermissionAnswer,
}

/// A partner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// The partner's key.
    pub key: PublicKey,
    /// The addresses of its node, `host:port`, in the order in which they are tried; empty if only
    /// the partner connects.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// The directories that it may use here.
    #[serde(default)]
    pub permit: Vec<PermittedRoot>,
}

/// A key that asked for access and has no profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingKey {
    /// The key.
    pub key: PublicKey,
    /// The name that its node gave itself; nothing vouches for it.
    #[serde(deserialize_with = "culvert_protocol::foreign_text::deserialize")]
    pub name: String,
    /// The host it connected from, without a port; or the address with port at which this node's
    /// user met it.
    #[serde(deserialize_with = "culvert_protocol::foreign_text::deserialize")]
    pub address: String,
    /// When it first asked, in seconds since 1970.
    pub first_seen_unix: u64,
    /// When it last asked.
    pub last_seen_unix: u64,
}

impl PendingKey {
    /// Whether it connected to this node, so that its own node's port is unknown.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.address.parse::<IpAddr>().is_ok()
    }

    /// The address of its node, as in a profile. For one that connected to this node, the default
    /// port is assumed.
    #[must_use]
    pub fn node_address(&self) -> String {
        match self.address.parse::<IpAddr>() {
            Ok(host) => SocketAddr::new(host, DEFAULT_PORT).to_string(),
            Err(_) => self.address.clone(),
        }
    }
}

/// A profile with its name.
pub type NamedProfile = (String, Profile);
