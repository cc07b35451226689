//! Addresses in the form in which both families compare.

use std::net::IpAddr;

/// An IPv4 address that came over an IPv6 socket as the IPv4 address that it is.
#[must_use]
pub fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}
