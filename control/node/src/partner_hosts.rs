//! Where partners come from, as their profiles say: known from the start and looked up again from
//! time to time, so that a partner that has not been here yet does not wait among strangers.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use culvert_engine::transfer::blocking;
use culvert_model::address::split_host_port;

use crate::connection_limiter::ConnectionLimiter;
use crate::profiles::Profiles;

/// How often the profiles are read and their names looked up: a profile that an admin adds counts
/// from then on.
const INTERVAL: Duration = Duration::from_secs(60);
/// How long a host counts as a partner's after it was last found in a profile: a few lookups may
/// fail.
const EXPECTED_FOR: Duration = Duration::from_secs(5 * 60);
/// How long a lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(10);
/// Hosts that are looked up each time; those beyond wait among strangers until they have been here.
const HOSTS_MAX: usize = 512;

/// Keeps the connection limiter up to date, forever.
pub async fn keep_known(connection_limiter: Arc<ConnectionLimiter>, profiles: Profiles) {
    let mut tick = tokio::time::interval(INTERVAL);
    loop {
        tick.tick().await;
        let hosts = hosts_of_profiles(&profiles).await;
        let expect = |address: IpAddr| connection_limiter.expect_partner(address, EXPECTED_FOR, Instant::now());
        // Addresses first: they need no lookup.
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
