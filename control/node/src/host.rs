//! What counts as one host where limits apply per host.

use std::net::{IpAddr, Ipv6Addr};

/// A host: an IPv4 address, or the /64 from which an IPv6 host can choose its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(IpAddr);

impl From<IpAddr> for Host {
    fn from(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
            address => address,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv6_host_is_known_by_its_network_and_an_ipv4_one_by_either_form() {
        let host = |address: &str| Host::from(address.parse::<IpAddr>().unwrap());
        assert_eq!(host("2001:db8:0:1::5"), host("2001:db8:0:1:ffff::9"));
        assert_ne!(host("2001:db8:0:1::5"), host("2001:db8:0:2::5"));
        assert_eq!(host("::ffff:10.0.0.1"), host("10.0.0.1"));
        assert_ne!(host("10.0.0.2"), host("10.0.0.1"));
    }
}
