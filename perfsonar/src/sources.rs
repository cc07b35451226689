//! Who may ask, and how often: networks, and a budget of packets for each source.

use std::collections::HashMap;
use std::net::IpAddr;

use serde::Deserialize;

/// Sources whose budget is remembered. The one that has been silent longest makes room.
const SOURCES_MAX: usize = 4_096;

/// A network: `192.0.2.0/24`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl std::str::FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let explain =
            || format!("'{text}' is not a network: write for instance 192.0.2.0/24, 2001:db8::/32 or 192.0.2.7");
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().map_err(|_| explain())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), |prefix| prefix.parse::<u8>().map_err(|_| explain()))?;
        if prefix > longest { Err(explain()) } else { Ok(Self { address, prefix }) }
    }
}

impl std::fmt::Display for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl Network {
    /// Whether an address is in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(32 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let differ = network.to_bits() ^ address.to_bits();
                differ.checked_shr(128 - u32::from(self.prefix)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// Token buckets, one for each source: `per_second` on average, one second's worth at once.
#[derive(Debug)]
pub struct Budgets {
    per_second: u32,
    sources: HashMap<IpAddr, Bucket>,
}

#[derive(Debug)]
struct Bucket {
    thousandths: u64,
    at_ns: i64,
}

impl Budgets {
    /// Budgets of so many packets in a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { per_second, sources: HashMap::new() }
    }

    /// Whether a source may send one more packet now.
    pub fn take(&mut self, source: IpAddr, now_ns: i64) -> bool {
        let full = u64::from(self.per_second) * 1_000;
        if self.sources.len() >= SOURCES_MAX && !self.sources.contains_key(&source) {
            let oldest = self.sources.iter().min_by_key(|(_, bucket)| bucket.at_ns).map(|(&source, _)| source);
            oldest.map(|oldest| self.sources.remove(&oldest));
        }
        let bucket = self.sources.entry(source).or_insert(Bucket { thousandths: full, at_ns: now_ns });
        let passed_us = now_ns.saturating_sub(bucket.at_ns).max(0).unsigned_abs() / 1_000;
        let gained = passed_us.saturating_mul(u64::from(self.per_second)) / 1_000;
        if gained > 0 {
            bucket.thousandths = (bucket.thousandths + gained).min(full);
            bucket.at_ns = now_ns;
        }
        if bucket.thousandths < 1_000 {
            return false;
        }
        bucket.thousandths -= 1_000;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_their_addresses() {
        let is_in =
            |network: &str, address: &str| network.parse::<Network>().unwrap().contains(address.parse().unwrap());
        assert!(is_in("192.0.2.0/24", "192.0.2.255") && !is_in("192.0.2.0/24", "192.0.3.0"));
        assert!(is_in("0.0.0.0/0", "8.8.8.8") && !is_in("0.0.0.0/0", "::1") && is_in("::/0", "::1"));
        assert!(is_in("2001:db8::/32", "2001:db8:ffff::1") && !is_in("2001:db8::/32", "2001:db9::1"));
        assert!(is_in("192.0.2.7", "::ffff:192.0.2.7") && !is_in("192.0.2.7", "192.0.2.8"));
        for text in ["", "192.0.2.0/33", "::/129", "host", "1.2.3.4/x"] {
            assert!(text.parse::<Network>().unwrap_err().contains("not a network"), "{text}");
        }
    }

    #[test]
    fn a_source_gets_its_budget_and_no_more() {
        let mut budgets = Budgets::new(10);
        let (a, b) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let taken = |budgets: &mut Budgets, source, now| (0..100).filter(|_| budgets.take(source, now)).count();
        assert_eq!(taken(&mut budgets, a, 0), 10);
        assert_eq!(taken(&mut budgets, b, 0), 10);
        assert_eq!(taken(&mut budgets, a, 500_000_000), 5);
        assert_eq!(taken(&mut budgets, a, 3_600_000_000_000), 10);
        // A clock that goes back gives nothing.
        assert_eq!(taken(&mut budgets, a, 0), 0);
    }

    #[test]
    fn strangers_take_bounded_memory() {
        let mut budgets = Budgets::new(1);
        for number in 0..2 * SOURCES_MAX as u32 {
            budgets.take(IpAddr::V4(number.into()), i64::from(number));
        }
        assert_eq!(budgets.sources.len(), SOURCES_MAX);
    }
}
