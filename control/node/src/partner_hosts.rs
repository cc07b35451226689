//! Resolves the hosts that profiles name, at startup and periodically, so that a partner's first
//! connection does not count as a stranger's.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::transfer::blocking;
use culvert_model::address::split_host_port;

use crate::connection_limiter::ConnectionLimiter;
use crate::profiles::Profiles;

/// How often profiles are read and their host names resolved. A new profile takes effect then.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a host counts as a partner's after a profile last named it: long enough for a few
/// failed lookups.
const EXPECTED_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts that are resolved each time. Further hosts count as strangers until their first
/// connection.
const HOSTS_MAX: usize = 512;

/// Tells the connection limiter which hosts are partners', forever.
pub async fn keep_known(connection_limiter: Arc<ConnectionLimiter>, profiles: Profiles) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let hosts = hosts_of_profiles(&profiles).await;
        let expect = |address: IpAddr| connection_limiter.expect_partner(address, EXPECTED_FOR, Instant::now());
        // Addresses first, because they need no lookup.
        hosts.iter().filter_map(|host| host.parse().ok()).for_each(expect);
        for host in hosts.iter().filter(|host| host.parse::<IpAddr>().is_err()) {
            let lookup = tokio::net::lookup_host((host.as_str(), 0));
            if let Ok(Ok(addresses)) = tokio::time::timeout(LOOKUP_TIMEOUT, lookup).await {
                addresses.for_each(|address| expect(address.ip()));
            }
        }
    }
}

async fn hosts_of_profiles(profiles: &Profiles) -> Vec<String> {
    let profiles = profiles.clone();
    blocking(move || profiles.hosts(HOSTS_MAX, |address| split_host_port(address).map(|(host, _)| host.to_owned())))
        .await
}
