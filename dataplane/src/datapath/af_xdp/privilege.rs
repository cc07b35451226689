//! Which capabilities AF_XDP needs, and which are missing.

use caps::{CapSet, Capability};

/// To load the program; to attach it; to open the sockets.
const NEEDED: [(Capability, &str); 3] = [
    (Capability::CAP_BPF, "CAP_BPF"),
    (Capability::CAP_NET_ADMIN, "CAP_NET_ADMIN"),
    (Capability::CAP_NET_RAW, "CAP_NET_RAW"),
];

/// The names of the capabilities that AF_XDP needs and this thread does not have.
#[must_use]
pub fn missing() -> Vec<&'static str> {
    let has = |capability| caps::has_cap(None, CapSet::Effective, capability).unwrap_or(false);
    NEEDED.into_iter().filter(|&(capability, _)| !has(capability)).map(|(_, name)| name).collect()
}
