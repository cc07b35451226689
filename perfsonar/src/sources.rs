//! Which sources may measure, and how often: networks and addresses, and a packet budget per
//! source.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, PoisonError, RwLock};

use serde::Deserialize;

/// The number of hosts with budgets of their own: some 300 kB. Further hosts share one budget.
const HOSTS_MAX: usize = 4_096;
const SECOND_NS: i64 = 1_000_000_000;

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

/// The unit of limits per host: an IPv4 address, or the /64 from which an IPv6 host can choose
/// addresses.
#[must_use]
pub fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

/// The sources that may measure: networks that an admin names, and addresses that change, such as
/// partners'.
#[derive(Clone, Debug, Default)]
pub struct Permitted {
    networks: Vec<Network>,
    addresses: Arc<RwLock<HashSet<IpAddr>>>,
}

impl Permitted {
    /// Networks, without additional addresses.
    #[must_use]
    pub fn networks(networks: Vec<Network>) -> Self {
        Self { networks, addresses: Arc::default() }
    }

    /// Whether an address may measure.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.networks.iter().any(|network| network.contains(address))
            || self.addresses.read().unwrap_or_else(PoisonError::into_inner).contains(&address)
    }

    /// Replaces the additional addresses, for all clones.
    pub fn set_addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) {
        let addresses = addresses.into_iter().map(|address| address.to_canonical()).collect();
        *self.addresses.write().unwrap_or_else(PoisonError::into_inner) = addresses;
    }
}

/// A token bucket: a rate per second on average, and one second's worth in a burst.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    per_second: u64,
    thousandths: u64,
    at_ns: i64,
}

impl Bucket {
    /// A full bucket.
    #[must_use]
    pub const fn full(per_second: u64, now_ns: i64) -> Self {
        Self { per_second, thousandths: per_second.saturating_mul(1_000), at_ns: now_ns }
    }

    /// Takes `amount` from the bucket. Returns false, and takes nothing, if it holds less.
    pub fn take(&mut self, amount: u64, now_ns: i64) -> bool {
        let passed_us = now_ns.saturating_sub(self.at_ns).max(0).unsigned_abs() / 1_000;
        let gained = passed_us.saturating_mul(self.per_second) / 1_000;
        // A clock that was set back adds nothing; the bucket continues from there.
        if gained > 0 || now_ns < self.at_ns {
            let most = self.per_second.saturating_mul(1_000);
            self.thousandths = self.thousandths.saturating_add(gained).min(most);
            self.at_ns = now_ns;
        }
        // Invariant I-stamp-bucket: A token bucket never holds more than one second's worth.
        assert!(self.thousandths <= self.per_second.saturating_mul(1_000), "a bucket overflows: {self:?}");
        let wanted = amount.saturating_mul(1_000);
        let has = self.thousandths >= wanted;
        if has {
            self.thousandths = self.thousandths.saturating_sub(wanted);
        }
        has
    }

    /// Whether the bucket is full again by `now_ns`, whatever was taken, and can be forgotten.
    const fn is_full_by(&self, now_ns: i64) -> bool {
        now_ns.saturating_sub(self.at_ns).saturating_abs() >= SECOND_NS
    }
}

/// Token buckets, one for each host.
#[derive(Debug)]
pub struct Budgets {
    per_second: u32,
    hosts: HashMap<IpAddr, Bucket>,
    /// The budget shared by hosts for which the table has no room.
    others: Bucket,
    swept_ns: i64,
}

impl Budgets {
    /// Budgets of `per_second` packets in a second.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        let others = Bucket::full(per_second.into(), 0);
        Self { per_second, hosts: HashMap::new(), others, swept_ns: 0 }
    }

    /// Whether a source may send one more packet now.
    pub fn take(&mut self, source: IpAddr, now_ns: i64) -> bool {
        let host = host_of(source);
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&host) {
            self.sweep(now_ns);
            if self.hosts.len() >= HOSTS_MAX {
                return self.others.take(1, now_ns);
            }
        }
        let fresh = || Bucket::full(self.per_second.into(), now_ns);
        let may = self.hosts.entry(host).or_insert_with(fresh).take(1, now_ns);
        // Invariant I-stamp-hosts: At most 4,096 hosts have budgets of their own.
        assert!(self.hosts.len() <= HOSTS_MAX, "{} hosts have budgets", self.hosts.len());
        may
    }

    /// Forgets hosts whose buckets are full again, at most once a second: it walks the whole table,
    /// and strangers can cause that with every packet.
    fn sweep(&mut self, now_ns: i64) {
        if now_ns.saturating_sub(self.swept_ns).saturating_abs() >= SECOND_NS {
            self.swept_ns = now_ns;
            self.hosts.retain(|_, bucket| !bucket.is_full_by(now_ns));
        }
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
        // A clock that goes back adds nothing at first, and from then on the usual rate.
        assert_eq!(taken(&mut budgets, a, 0), 0);
        assert_eq!(taken(&mut budgets, a, 500_000_000), 5);
    }

    #[test]
    fn strangers_take_bounded_memory_and_no_known_hosts_budget() {
        let mut budgets = Budgets::new(2);
        let known = "2001:db8::1".parse().unwrap();
        assert!(budgets.take(known, 0));
        let strangers = |budgets: &mut Budgets, now| {
            (0..2 * HOSTS_MAX as u32).filter(|&number| budgets.take(IpAddr::V4(number.into()), now)).count()
        };
        // Hosts in the table have budgets of their own, the rest share one.
        assert_eq!(strangers(&mut budgets, 1), HOSTS_MAX - 1 + 2);
        assert_eq!(budgets.hosts.len(), HOSTS_MAX);
        assert!(budgets.take(known, 2), "strangers have taken it");
        assert!(!budgets.take("2001:db8::2".parse().unwrap(), 3), "an IPv6 host chooses another address");
        // Hosts that were silent for a second are forgotten.
        assert!(budgets.take("192.0.2.1".parse().unwrap(), 2 * SECOND_NS));
        assert_eq!(budgets.hosts.len(), 1);
    }

    #[test]
    fn additional_addresses_can_be_replaced() {
        let permitted = Permitted::networks(vec!["192.0.2.0/24".parse().unwrap()]);
        let asked = permitted.clone();
        let [named, partner] = ["192.0.2.9", "::ffff:198.51.100.1"].map(|address| address.parse().unwrap());
        assert!(asked.contains(named) && !asked.contains(partner));
        permitted.set_addresses(["198.51.100.1".parse().unwrap()]);
        assert!(asked.contains(named) && asked.contains(partner));
        permitted.set_addresses([]);
        assert!(!asked.contains(partner) && !Permitted::default().contains(named));
    }
}
