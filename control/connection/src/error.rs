//! Why a connection cannot be made or used, in words for users.

use std::net::SocketAddr;

use culvert_protocol::control::FrameError;
use culvert_system::os_error;

/// Why a connection cannot be made or used.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// TCP could not connect.
    #[error("cannot connect to {address}: {error}; {}", connect_remedy(error))]
    Connect {
        /// Where to.
        address: String,
        /// Why not.
        error: std::io::Error,
    },
    /// The name has no address.
    #[error("there is no host '{host}': check the spelling, or give the host's address")]
    UnknownHost {
        /// The name.
        host: String,
    },
    /// The name servers gave no answer.
    #[error("cannot resolve '{host}': {error}; check this host's name servers (/etc/resolv.conf)")]
    Lookup {
        /// The name.
        host: String,
        /// Why not.
        error: std::io::Error,
    },
    /// TCP got no answer in time.
    #[error("{address} does not answer: is a Culvert node running there, and is TCP port {port} open in its firewall?")]
    NoAnswer {
        /// Where to.
        address: String,
        /// The port.
        port: u16,
    },
    /// The host accepts connections, but nothing on it responds.
    #[error("{address} accepts connections but does not answer: its process is stopped, or its host is overloaded")]
    Silent {
        /// The address.
        address: SocketAddr,
    },
    /// The TLS handshake or the exchange of `Hello` failed.
    #[error("cannot establish a secure connection with {address}: {reason}")]
    Handshake {
        /// With whom.
        address: String,
        /// Why.
        reason: String,
    },
    /// The partner does not speak the protocol.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// An open connection was cut.
    #[error("the control connection to {address} was cut ({reason})")]
    Cut {
        /// To whom.
        address: SocketAddr,
        /// How.
        reason: String,
    },
}

impl ConnectionError {
    /// Whether this process merely lacked descriptors or memory.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Connect { error, .. } | Self::Lookup { error, .. } if os_error::errno_of(error).is_some_and(os_error::is_shortage))
    }
}

/// Whether a resolver's reason says that there is no such host.
#[must_use]
pub fn tells_unknown_host(reason: &str) -> bool {
    /// `EAI_NONAME` and `EAI_NODATA`, in the words of the GNU C library and of musl.
    const FINAL: [&str; 4] = [
        "Name or service not known",
        "No address associated with hostname",
        "Name does not resolve",
        "Name has no usable address",
    ];
    FINAL.iter().any(|words| reason.contains(words))
}

/// Why a handshake failed, in words for users.
pub(crate) fn handshake_reason(error: &std::io::Error) -> String {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::InvalidMessage(_)) => {
            "what listens there does not speak TLS: is it Culvert, and is this its TCP port?".to_owned()
        }
        _ => error.to_string(),
    }
}

/// The error of a handshake that failed for `reason`.
pub(crate) fn handshake_error(address: SocketAddr, reason: &dyn std::fmt::Display) -> ConnectionError {
    ConnectionError::Handshake { address: address.to_string(), reason: reason.to_string() }
}

/// Why a name could not be resolved. The resolver's reason reaches this program only as text, in
/// English because the program sets no locale. A reason that is not known to be final counts as
/// temporary.
pub(crate) fn lookup_error(host: &str, error: std::io::Error) -> ConnectionError {
    let host = host.to_owned();
    if tells_unknown_host(&error.to_string()) {
        return ConnectionError::UnknownHost { host };
    }
    ConnectionError::Lookup { host, error }
}

/// The remedy for a connection that cannot be made.
fn connect_remedy(error: &std::io::Error) -> String {
    if let Some(remedy) = os_error::errno_of(error).and_then(os_error::remedy) {
        return remedy;
    }
    let text = match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "is 'culvert node' running there, and does it listen on this port?",
        std::io::ErrorKind::HostUnreachable | std::io::ErrorKind::NetworkUnreachable => {
            "check the address, this host's routes, and the partner's network"
        }
        _ => "check the address, and the network between the hosts",
    };
    text.to_owned()
}
