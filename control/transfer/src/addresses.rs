//! Addresses in the form in which both families compare.

use std::net::IpAddr;

/// Turns an IPv4-mapped IPv6 address into the IPv4 address; others stay as they are.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
