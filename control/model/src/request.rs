//! What a user asks for: with whom, what, how, and how often it is tried again.

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
    /// A far end that was started over ssh for this transfer, and its key, which ssh vouches for.
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
    /// A path there, as it is typed.
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

/// What is to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Movement {
    /// Files of this host to the partner.
    Push {
        /// What, absolute.
        sources: Vec<TypedPath>,
        /// Where to, on the partner's host.
        destination: TypedPath,
    },
    /// The partner's files to this host.
    Pull {
        /// What, on the partner's host.
        sources: Vec<TypedPath>,
        /// Where to, absolute.
        destination: TypedPath,
    },
    /// Bytes from memory to the partner's memory.
    Measure {
        /// How many.
        bytes: u64,
    },
}

/// A user's request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransferRequest {
    /// With whom.
    pub target: Target,
    /// What.
    pub movement: Movement,
    /// How.
    pub options: Options,
    /// How often it is tried again after a temporary failure; none for until it is canceled.
    pub retries: Option<u32>,
}

impl TransferRequest {
    /// Whether this end sends.
    #[must_use]
    pub const fn is_sender(&self) -> bool {
        !matches!(self.movement, Movement::Pull { .. })
    }

    /// From where to where, for people.
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
