//! What a node knows of a partner, and of a key that would like to become one.

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
    /// How.
    pub permission: Permission,
}

/// What a partner may do here, without the directories.
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
    /// Where its node listens, `host:port`, in the order in which they are tried; empty if it only
    /// comes to us.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// What it may use here.
    #[serde(default)]
    pub permit: Vec<PermittedRoot>,
}

/// A key that asked and has no profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingKey {
    /// The key.
    pub key: PublicKey,
    /// What its node calls itself. Anybody can call themselves anything.
    #[serde(deserialize_with = "culvert_protocol::foreign_text::deserialize")]
    pub name: String,
    /// The host it came from, without a port; or where this node's user found it, with the port of
    /// the node there.
    #[serde(deserialize_with = "culvert_protocol::foreign_text::deserialize")]
    pub address: String,
    /// When it first asked, in seconds since 1970.
    pub first_seen_unix: u64,
    /// When it last asked.
    pub last_seen_unix: u64,
}

impl PendingKey {
    /// Whether it connected to this node, so that the address where its own node listens is
    /// unknown.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.address.parse::<IpAddr>().is_ok()
    }

    /// Where its node listens, as profiles have it. One that came to this node is taken to listen
    /// at the port of all nodes.
    #[must_use]
    pub fn node_address(&self) -> String {
        match self.address.parse::<IpAddr>() {
            Ok(host) => SocketAddr::new(host, DEFAULT_PORT).to_string(),
            Err(_) => self.address.clone(),
        }
    }
}

/// A profile by its name.
pub type NamedProfile = (String, Profile);
