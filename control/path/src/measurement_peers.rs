//! The hosts that may measure to this node in addition to `[responder] allow`: partners, and the
//! perfSONAR hosts in `[psconfig]`.
//!
//! Partners may use the addresses in their profiles, with names resolved, and the addresses that
//! their nodes have connected from.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use culvert_model::address::split_host_port;
use culvert_model::profile::NamedProfile;
use culvert_perfsonar::sources::Permitted;
use culvert_protocol::identity::PublicKey;

/// How often profiles are read and names resolved again. A partner that was added or has moved may
/// measure after this time at the latest.
const REFRESH_INTERVAL: Duration = Duration::from_secs(60);
/// The most addresses that partners have connected from; the one that has been silent longest is
/// dropped first.
const CONNECTED_FROM_MAX: usize = 1_024;
/// The most hosts that are resolved: a name may take the resolver ten seconds.
const HOSTS_MAX: usize = 1_024;

/// The hosts that may measure to a node's responder.
#[derive(Debug, Default)]
pub struct MeasurementPeers {
    /// The set that responders ask. Its networks come from the settings.
    permitted: Mutex<Permitted>,
    /// The addresses that partners connected from, and when last.
    connected_from: Mutex<HashMap<IpAddr, (PublicKey, Instant)>>,
    /// The addresses of profiles and settings, as last resolved.
    resolved: Mutex<HashSet<IpAddr>>,
}

impl MeasurementPeers {
    /// Takes the address that a partner's node has connected from.
    pub fn note_partner(&self, partner: PublicKey, address: IpAddr) {
        let is_new = {
            let mut known = self.connected_from.lock().unwrap_or_else(PoisonError::into_inner);
            let address = address.to_canonical();
            if known.len() >= CONNECTED_FROM_MAX && !known.contains_key(&address) {
                let oldest = known.iter().min_by_key(|(_, (_, at))| *at).map(|(&address, _)| address);
                oldest.map(|oldest| known.remove(&oldest));
            }
            let is_new = known.insert(address, (partner, Instant::now())).is_none();
            // Invariant I-path-addresses: At most 1,024 addresses that partners connected from are
            // remembered.
            assert!(known.len() <= CONNECTED_FROM_MAX, "{} addresses are remembered", known.len());
            is_new
        };
        if is_new {
            self.publish();
        }
    }

    /// Sets the networks that the admin permits, and starts a thread that keeps the other addresses
    /// up to date as long as the node lives. `profiles` reads the partners' profiles.
    ///
    /// # Errors
    /// In words: there is no thread.
    pub fn start(
        self: &Arc<Self>,
        profiles: impl Fn() -> Vec<NamedProfile> + Send + 'static,
        permitted: Permitted,
        others: Vec<String>,
    ) -> Result<(), String> {
        *self.permitted.lock().unwrap_or_else(PoisonError::into_inner) = permitted;
        let measurement_peers = Arc::downgrade(self);
        // The resolver blocks, for long if a name's servers are unreachable.
        let thread = std::thread::Builder::new().name("culvert-peers".to_owned());
        let keeping = move || keep_resolved(&measurement_peers, profiles, &others);
        thread.spawn(keeping).map(drop).map_err(|error| format!("the responder's thread cannot start: {error}"))
    }

    fn publish(&self) {
        let mut addresses = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).clone();
        addresses.extend(self.connected_from.lock().unwrap_or_else(PoisonError::into_inner).keys());
        self.permitted.lock().unwrap_or_else(PoisonError::into_inner).set_addresses(addresses);
    }

    /// Takes newly resolved addresses, and the keys that still have a profile.
    fn update(&self, resolved: HashSet<IpAddr>, partners: &HashSet<PublicKey>) {
        *self.resolved.lock().unwrap_or_else(PoisonError::into_inner) = resolved;
        self.connected_from.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, (key, _)| partners.contains(key));
        self.publish();
    }
}

/// Reads profiles and resolves names periodically until the node is gone.
fn keep_resolved(
    measurement_peers: &Weak<MeasurementPeers>,
    profiles: impl Fn() -> Vec<NamedProfile>,
    others: &[String],
) {
    let mut known = HashMap::new();
    while measurement_peers.strong_count() > 0 {
        let (partners, hosts) = partners_and_hosts(&profiles());
        let hosts: Vec<String> = hosts.into_iter().chain(others.iter().cloned()).take(HOSTS_MAX).collect();
        known.retain(|host, _| hosts.contains(host));
        for host in &hosts {
            let found = addresses_of(host);
            // While the resolver is unreachable, earlier addresses stay permitted.
            if !found.is_empty() || !known.contains_key(host) {
                known.insert(host.clone(), found);
            }
            // Published after each host: those already resolved do not wait for slow names.
            let Some(measurement_peers) = measurement_peers.upgrade() else { return };
            measurement_peers.update(known.values().flatten().copied().collect(), &partners);
        }
        if hosts.is_empty() {
            let Some(measurement_peers) = measurement_peers.upgrade() else { return };
            measurement_peers.update(HashSet::new(), &partners);
        }
        std::thread::sleep(REFRESH_INTERVAL);
    }
}

/// The partners' keys and hosts, addresses before names.
fn partners_and_hosts(known: &[NamedProfile]) -> (HashSet<PublicKey>, Vec<String>) {
    let keys = known.iter().map(|(_, profile)| profile.key).collect();
    let hosts = known.iter().flat_map(|(_, profile)| &profile.addresses);
    let mut hosts: Vec<String> =
        hosts.filter_map(|address| split_host_port(address).map(|(host, _)| host.to_owned())).collect();
    hosts.sort_by_key(|host| host.parse::<IpAddr>().is_err());
    hosts.dedup();
    (keys, hosts)
}

fn addresses_of(host: &str) -> HashSet<IpAddr> {
    match host.parse::<IpAddr>() {
        Ok(address) => HashSet::from([address.to_canonical()]),
        Err(_) => {
            let found = (host, 0).to_socket_addrs();
            found.map(|found| found.map(|address| address.ip().to_canonical()).collect()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_a_partner_connected_from_is_permitted_while_the_partner_has_a_profile() {
        let (measurement_peers, permitted) = (MeasurementPeers::default(), Permitted::default());
        *measurement_peers.permitted.lock().unwrap() = permitted.clone();
        let (partner, former) = (PublicKey([1; 32]), PublicKey([2; 32]));
        let [home, away, other] = ["192.0.2.1", "198.51.100.1", "203.0.113.1"].map(|text| text.parse().unwrap());
        measurement_peers.note_partner(partner, away);
        measurement_peers.note_partner(former, other);
        assert!(permitted.contains(away) && permitted.contains(other) && !permitted.contains(home));
        measurement_peers.update(HashSet::from([home]), &HashSet::from([partner]));
        assert!(permitted.contains(home) && permitted.contains(away) && !permitted.contains(other));
    }

    #[test]
    fn addresses_are_bounded_and_names_resolved() {
        let measurement_peers = MeasurementPeers::default();
        for number in 0..2 * CONNECTED_FROM_MAX as u32 {
            measurement_peers.note_partner(PublicKey([1; 32]), IpAddr::V4(number.into()));
        }
        assert_eq!(measurement_peers.connected_from.lock().unwrap().len(), CONNECTED_FROM_MAX);
        assert!(addresses_of("localhost").iter().all(IpAddr::is_loopback) && !addresses_of("localhost").is_empty());
        assert_eq!(addresses_of("::ffff:192.0.2.1"), HashSet::from(["192.0.2.1".parse().unwrap()]));
        assert!(addresses_of("no-such-host.invalid").is_empty());
    }
}
