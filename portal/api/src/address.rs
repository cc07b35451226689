//! The address that a request comes from: the one that limits, logs and the audit trail use.
//!
//! What a client writes into `X-Forwarded-For` is its own word. Only what a trusted proxy has
//! appended counts: from the right, the first address that is not a trusted proxy's.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::http::HeaderMap;

/// Whose word about a client's address is believed.
#[derive(Debug, Default)]
pub struct TrustedProxies {
    networks: Vec<Network>,
    /// Whether the log has been told that somebody else's word was not.
    has_told: AtomicBool,
}

/// A network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// The text is not a network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an address or a network like 192.0.2.0/24")]
pub struct NoNetwork(pub String);

impl FromStr for Network {
    type Err = NoNetwork;

    fn from_str(text: &str) -> Result<Self, NoNetwork> {
        let fail = || NoNetwork(text.to_owned());
        let (address, bits) = text.split_once('/').map_or((text, None), |(address, bits)| (address, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| fail())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| fail())?;
        if bits > most { Err(fail()) } else { Ok(Self { address, bits }) }
    }
}

impl Network {
    fn contains(self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.bits);
                u64::from(network.to_bits()) >> shift == u64::from(address.to_bits()) >> shift
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.bits);
                network.to_bits().checked_shr(shift) == address.to_bits().checked_shr(shift)
            }
            _ => false,
        }
    }
}

impl TrustedProxies {
    /// Believes what is in these networks.
    #[must_use]
    pub const fn new(networks: Vec<Network>) -> Self {
        Self { networks, has_told: AtomicBool::new(false) }
    }

    /// Where a request comes from whose connection comes from `peer`.
    #[must_use]
    pub fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut at = peer.to_canonical();
        let lines = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let hops: Vec<&str> = lines.flat_map(|line| line.split(',')).map(str::trim).collect();
        for hop in hops.iter().rev() {
            if !self.trusts(at) {
                self.tell_of(at, peer);
                break;
            }
            // What is no address was not written by a proxy that is to be trusted.
            let Ok(address) = hop.parse::<IpAddr>() else { break };
            at = address.to_canonical();
        }
        at
    }

    /// Whether an address is one of a trusted proxy.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.networks.iter().any(|network| network.contains(address))
    }

    /// Tells the log, once, of a proxy that is not trusted: all who come by it count as one
    /// address.
    fn tell_of(&self, at: IpAddr, peer: IpAddr) {
        if at == peer.to_canonical() && !self.has_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                peer = %at,
                "X-Forwarded-For comes from an address that is not trusted, and is not believed: if a reverse proxy is \
                 there, start the portal with --trusted-proxy {at}, or all its clients count as one address"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn client(proxies: &[&str], peer: &str, forwarded: &[&'static str]) -> String {
        let proxies = TrustedProxies::new(proxies.iter().map(|text| text.parse().unwrap()).collect());
        let header = axum::http::HeaderName::from_static("x-forwarded-for");
        let headers = forwarded.iter().map(|text| (header.clone(), HeaderValue::from_static(text))).collect();
        proxies.client(peer.parse().unwrap(), &headers).to_string()
    }

    #[test]
    fn nobody_forges_an_address() {
        let lies = ["203.0.113.9"];
        assert_eq!(client(&[], "192.0.2.1", &lies), "192.0.2.1", "no proxy is trusted");
        assert_eq!(client(&["10.0.0.0/8"], "192.0.2.1", &lies), "192.0.2.1", "this one is not");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["203.0.113.9, 192.0.2.7"]), "192.0.2.7");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["203.0.113.9", "192.0.2.7"]), "192.0.2.7");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["192.0.2.7, 10.9.9.9"]), "192.0.2.7", "two proxies");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &["192.0.2.7, rubbish"]), "10.1.2.3");
        assert_eq!(client(&["10.0.0.0/8"], "10.1.2.3", &[]), "10.1.2.3");
        assert_eq!(client(&["::1"], "::1", &["2001:db8::5"]), "2001:db8::5");
        assert_eq!(client(&["127.0.0.0/8"], "::ffff:127.0.0.1", &["192.0.2.7"]), "192.0.2.7");
        assert_eq!(client(&["0.0.0.0/0"], "10.1.2.3", &["192.0.2.7"]), "192.0.2.7");
    }

    #[test]
    fn networks_are_read() {
        for bad in ["", "x", "10.0.0.0/33", "::/129", "10.0.0.0/-1", "10.0.0.0/8/8"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
        assert!("2001:db8::/32".parse::<Network>().unwrap().contains("2001:db8:ffff::1".parse().unwrap()));
        assert!(!"2001:db8::/32".parse::<Network>().unwrap().contains("2001:db9::1".parse().unwrap()));
        assert!("::/0".parse::<Network>().unwrap().contains("2001:db9::1".parse().unwrap()));
    }
}
