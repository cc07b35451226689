//! Rate limits, shared by all portals of a database.

use std::time::Duration;

use culvert_portal_model::problem::Problem;
use culvert_portal_store::{Writing, limits};

use crate::fault::Fault;
use crate::portal::Portal;

/// How often something may be done.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// What is limited, for people.
    pub what: &'static str,
    /// How many at once.
    pub burst: u32,
    /// How long one takes to be forgotten.
    pub every: Duration,
}

/// Attempts to log in to one account from one network.
pub const LOGIN_OF_NETWORK: Limit =
    Limit { what: "attempts for this account from your network", burst: 50, every: Duration::from_secs(20) };

/// Attempts to log in from one address.
pub const LOGIN_OF_ADDRESS: Limit =
    Limit { what: "attempts from your address", burst: 30, every: Duration::from_secs(2) };
/// Wrong attempts for one account from one address: neighbours in a network do not lock one another
/// out with a few.
pub const LOGIN_OF_PAIR: Limit =
    Limit { what: "attempts for this account from your address", burst: 10, every: Duration::from_secs(30) };
/// Attempts for one account from networks that it was never used from.
pub const LOGIN_OF_ACCOUNT: Limit =
    Limit { what: "attempts for this account from unknown networks", burst: 50, every: Duration::from_secs(20) };
/// Wrong codes for one account: a million codes of six digits cannot be tried in a lifetime.
pub const CODES_OF_ACCOUNT: Limit = Limit { what: "codes for this account", burst: 10, every: Duration::from_secs(60) };
/// Codes of devices that one account looks for: it is let in for a code that it was shown, and
/// guesses nobody else's.
pub const DEVICE_CODES_OF_ACCOUNT: Limit =
    Limit { what: "codes of devices from this account", burst: 20, every: Duration::from_secs(30) };
/// Changes of one's own password: each is two hashes of passwords, for which others wait.
pub const PASSWORDS_OF_ACCOUNT: Limit =
    Limit { what: "changes of this account's password", burst: 5, every: Duration::from_secs(60) };
/// Mails with links to one account.
pub const MAILS_OF_ACCOUNT: Limit = Limit { what: "mails to this account", burst: 3, every: Duration::from_secs(600) };
/// Requests for links, registrations and device codes from one address.
pub const LINKS_OF_ADDRESS: Limit =
    Limit { what: "requests from your address", burst: 10, every: Duration::from_secs(30) };

impl Portal {
    /// Takes one from a limit in a transaction.
    ///
    /// # Errors
    /// [`Problem::TooMany`], with the time to wait.
    pub async fn take(&self, writing: &mut Writing, limit: Limit, key: &str) -> Result<(), Fault> {
        let every = micros(limit.every);
        let name = format!("{}: {key}", limit.what);
        let taken = limits::take(writing, &name, self.now(), every, every * i64::from(limit.burst)).await?;
        taken.map_err(|wait| {
            let seconds = u32::try_from((wait + 999_999) / 1_000_000).unwrap_or(u32::MAX).max(1);
            Fault {
                retry_after_seconds: Some(seconds),
                ..Fault::new(Problem::TooMany, format!("too many {}: try again in {seconds} s", limit.what))
            }
        })
    }

    /// Takes one from a limit in a transaction of its own, so that it counts whatever comes after.
    ///
    /// # Errors
    /// [`Problem::TooMany`], with the time to wait.
    pub async fn take_now(&self, limit: Limit, key: &str) -> Result<(), Fault> {
        let mut writing = self.database.write().await?;
        self.take(&mut writing, limit, key).await?;
        Ok(writing.commit().await?)
    }

    /// Forgets what was counted.
    ///
    /// # Errors
    /// [`Fault`] if the database cannot be written.
    pub async fn forget_limit(&self, writing: &mut Writing, limit: Limit, key: &str) -> Result<(), Fault> {
        Ok(limits::reset(writing, &format!("{}: {key}", limit.what)).await?)
    }
}

/// What one client has of addresses: an address of IPv4, the /64 of IPv6, of which it can use every
/// one. Limits for each address are for each of these.
#[must_use]
pub fn one_client(address: &str) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.to_string(),
            None => {
                let [a, b, c, d, ..] = address.segments();
                format!("{}/64", std::net::Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
            }
        },
        Ok(std::net::IpAddr::V4(_)) | Err(_) => address.to_owned(),
    }
}

/// The network of an address: the /24 of IPv4, the /56 of IPv6, which is what one customer has.
#[must_use]
pub fn network(address: &str) -> String {
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(address)) => {
            let [a, b, c, _] = address.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        Ok(std::net::IpAddr::V6(address)) => match address.to_ipv4_mapped() {
            Some(mapped) => network(&mapped.to_string()),
            None => {
                let [a, b, c, d, ..] = address.segments();
                format!("{}/56", std::net::Ipv6Addr::new(a, b, c, d & 0xFF00, 0, 0, 0, 0))
            }
        },
        Err(_) => address.to_owned(),
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_one_client_can_choose_from_are_one() {
        assert_eq!(one_client("192.0.2.77"), "192.0.2.77");
        assert_eq!(one_client("::ffff:192.0.2.77"), "192.0.2.77");
        assert_eq!(one_client("2001:db8:1:2ff:a:b:c:d"), "2001:db8:1:2ff::/64");
        assert_eq!(one_client("somewhere"), "somewhere");
    }

    #[test]
    fn neighbours_are_one_network() {
        assert_eq!(network("192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("::ffff:192.0.2.77"), "192.0.2.0/24");
        assert_eq!(network("2001:db8:1:2ff::1"), "2001:db8:1:200::/56");
        assert_eq!(network("somewhere"), "somewhere");
    }
}
