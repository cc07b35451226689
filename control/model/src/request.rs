//! A user's request: partner, files, options, retries.

use culvert_protocol::control::Options;
use culvert_protocol::counted::counted;
use culvert_protocol::identity::PublicKey;
use serde::{Deserialize, Serialize};

use crate::address::join_host_port;
use crate::typed_path::TypedPath;

/// The partner's identity and address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// A profile's name.
    Profile(String),
    /// A host and port, as in `culvert://host:port/path`.
    Address {
        /// The host.
        host: String,
        /// The TCP port.
        port: u16,
    },
    /// A far end started over ssh for this transfer, and its key, which ssh vouches for.
    FarEnd {
        /// Addresses and names to try.
        hosts: Vec<String>,
        /// Its TCP port.
        port: u16,
        /// Its key.
        key: PublicKey,
    },
}

impl Target {
    /// A path at the partner, in the form in which users type it.
    fn place(&self, path: &str) -> String {
        match self {
            Self::Address { .. } if path.starts_with('/') => format!("{self}{path}"),
            Self::Address { .. } => format!("{self}/{path}"),
            Self::Profile(_) | Self::FarEnd { .. } => format!("{self}:{path}"),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Profile(name) => f.write_str(name),
            Self::Address { host, port } => write!(f, "culvert://{}", join_host_port(host, *port)),
            Self::FarEnd { hosts, .. } => f.write_str(hosts.first().map_or("", String::as_str)),
        }
    }
}

/// What to move, and in which direction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Movement {
    /// Files of this host to the partner.
    Push {
        /// Absolute paths.
        sources: Vec<TypedPath>,
        /// A path on the partner's host.
        destination: TypedPath,
    },
    /// The partner's files to this host.
    Pull {
        /// Paths on the partner's host.
        sources: Vec<TypedPath>,
        /// An absolute path.
        destination: TypedPath,
    },
    /// Bytes from memory to the partner's memory.
    Measure {
        /// The number of bytes.
        bytes: u64,
    },
}

/// A user's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// The partner.
    pub target: Target,
    /// The files and the direction.
    pub movement: Movement,
    /// The options of the protocol.
    pub options: Options,
    /// Retries after temporary failures; `None` for no limit.
    pub retries: Option<u32>,
}

impl TransferRequest {
    /// Whether this end sends.
    #[must_use]
    pub const fn is_sender(&self) -> bool {
        !matches!(self.movement, Movement::Pull { .. })
    }

    /// Source and destination, for users.
    #[must_use]
    pub fn description(&self) -> String {
        let join = |paths: &[TypedPath]| match paths {
            [one] => one.to_string(),
            [first, rest @ ..] => format!("{first} and {} more", rest.len()),
            [] => String::new(),
        };
        match &self.movement {
            Movement::Push { sources, destination } => {
                format!("{} → {}", join(sources), self.target.place(&destination.to_string()))
            }
            Movement::Pull { sources, destination } => format!("{} → {destination}", self.target.place(&join(sources))),
            Movement::Measure { bytes } => format!("{} from memory → {}", counted(*bytes, "byte"), self.target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_at_an_address_is_shown_as_it_is_typed() {
        let address = |host: &str| Target::Address { host: host.to_owned(), port: 7272 };
        assert_eq!(address("h").place("/x"), "culvert://h:7272/x");
        assert_eq!(address("::1").place("x"), "culvert://[::1]:7272/x");
        assert_eq!(Target::Profile("lab".to_owned()).place("/x"), "lab:/x");
    }
}
