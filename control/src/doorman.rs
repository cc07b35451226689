//! How many connections may begin a handshake: what strangers cost is limited before the first cryptography.
//!
//! A handshake takes this host about a millisecond. So addresses from which no approved key has come yet share a small rate, each has a
//! smaller one of its own, and partners' addresses have theirs apart, which no stranger elsewhere can use up. All of
//! it is kept in a table of fixed size.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are told apart. Beyond them, strangers share what is left.
const ADDRESSES_MAX: usize = 1_024;
/// Handshakes of all strangers together: at once, and a second.
const STRANGERS: Limit = Limit { burst: 400.0, per_second: 50.0 };
/// Handshakes of one address from which only strangers came.
const STRANGER: Limit = Limit { burst: 200.0, per_second: 20.0 };
/// Handshakes of an address from which an approved key came.
const PARTNER: Limit = Limit { burst: 1_000.0, per_second: 200.0 };
/// Keys of strangers that are noted for approval: each costs a durable write.
const NOTES: Limit = Limit { burst: 32.0, per_second: 1.0 };
/// An address is forgotten when nothing has come from it for so long.
const FORGET_AFTER: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone, Copy, Debug)]
struct Limit {
    burst: f64,
    per_second: f64,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    const fn full(limit: Limit, now: Instant) -> Self {
        Self { left: limit.burst, at: now }
    }

    fn take(&mut self, limit: Limit, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = since.mul_add(limit.per_second, self.left).min(limit.burst);
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[derive(Debug)]
struct Address {
    bucket: Bucket,
    is_partners: bool,
}

#[derive(Debug)]
struct Door {
    addresses: HashMap<IpAddr, Address>,
    strangers: Bucket,
    notes: Bucket,
}

/// Decides who may begin a handshake.
#[derive(Debug)]
pub struct Doorman {
    door: Mutex<Door>,
}

impl Default for Doorman {
    fn default() -> Self {
        let now = Instant::now();
        let door = Door {
            addresses: HashMap::new(),
            strangers: Bucket::full(STRANGERS, now),
            notes: Bucket::full(NOTES, now),
        };
        Self { door: Mutex::new(door) }
    }
}

/// What is one host to the doorman: an IPv4 address, or the /64 that an IPv6 host can choose its addresses from.
fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address => address,
    }
}

impl Doorman {
    fn with<T>(&self, act: impl FnOnce(&mut Door) -> T) -> T {
        act(&mut self.door.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a connection from `address` may begin its handshake.
    #[must_use]
    pub fn admits(&self, address: IpAddr, now: Instant) -> bool {
        let host = host_of(address);
        self.with(|door| {
            if let Some(known) = door.addresses.get_mut(&host)
                && known.is_partners
            {
                return known.bucket.take(PARTNER, now);
            }
            door.make_room(now);
            if door.addresses.len() < ADDRESSES_MAX || door.addresses.contains_key(&host) {
                let fresh = || Address { bucket: Bucket::full(STRANGER, now), is_partners: false };
                if !door.addresses.entry(host).or_insert_with(fresh).bucket.take(STRANGER, now) {
                    return false;
                }
            }
            door.strangers.take(STRANGERS, now)
        })
    }

    /// Whether an approved key has come from `address`.
    #[must_use]
    pub fn knows(&self, address: IpAddr) -> bool {
        self.with(|door| door.addresses.get(&host_of(address)).is_some_and(|known| known.is_partners))
    }

    /// An approved key came from `address`.
    pub fn note_partner(&self, address: IpAddr, now: Instant) {
        self.with(|door| {
            door.make_room(now);
            if door.addresses.len() >= ADDRESSES_MAX {
                // A partner is worth more than a stranger.
                let stranger = door.addresses.iter().find(|(_, known)| !known.is_partners).map(|(&host, _)| host);
                stranger.map(|host| door.addresses.remove(&host));
            }
            let host = host_of(address);
            if door.addresses.len() < ADDRESSES_MAX || door.addresses.contains_key(&host) {
                let known = door
                    .addresses
                    .entry(host)
                    .or_insert_with(|| Address { bucket: Bucket::full(PARTNER, now), is_partners: true });
                if !known.is_partners {
                    *known = Address { bucket: Bucket::full(PARTNER, now), is_partners: true };
                }
            }
        });
    }

    /// Whether a stranger's key may be noted for approval now.
    #[must_use]
    pub fn may_note_key(&self, now: Instant) -> bool {
        self.with(|door| door.notes.take(NOTES, now))
    }
}

impl Door {
    /// Forgets strangers that have been away long enough to have a full bucket again, and partners after a day.
    fn make_room(&mut self, now: Instant) {
        if self.addresses.len() < ADDRESSES_MAX {
            return;
        }
        let full_again = Duration::from_secs_f64(STRANGER.burst / STRANGER.per_second);
        self.addresses.retain(|_, known| {
            let away = now.saturating_duration_since(known.bucket.at);
            away < if known.is_partners { FORGET_AFTER } else { full_again }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn admitted(doorman: &Doorman, address: IpAddr, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| doorman.admits(address, now)).count()
    }

    #[test]
    fn strangers_have_a_rate_each_and_together_and_partners_their_own() {
        let (doorman, now) = (Doorman::default(), Instant::now());
        doorman.note_partner(address(1), now);
        assert_eq!(admitted(&doorman, address(2), 1_000, now), STRANGER.burst as usize);
        let all: usize = (3..100).map(|number| admitted(&doorman, address(number), 100, now)).sum();
        assert_eq!(all + STRANGER.burst as usize, STRANGERS.burst as usize);
        assert_eq!(admitted(&doorman, address(1), 500, now), 500, "a partner is kept out by strangers");
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&doorman, address(2), 1_000, later), STRANGER.per_second as usize);
    }

    #[test]
    fn the_table_has_a_limit_and_keeps_partners() {
        let (doorman, now) = (Doorman::default(), Instant::now());
        for number in 0..10_000 {
            let _ = doorman.admits(address(number), now);
        }
        doorman.note_partner(address(1 << 20), now);
        assert_eq!(doorman.with(|door| door.addresses.len()), ADDRESSES_MAX);
        assert!(doorman.admits(address(1 << 20), now));
        let later = now + Duration::from_secs(60);
        let _ = doorman.admits(address(77_777), later);
        assert!(doorman.with(|door| door.addresses.len()) <= 2, "strangers are remembered for ever");
    }

    #[test]
    fn an_ipv6_host_is_known_by_its_network_and_an_ipv4_one_by_either_form() {
        let (doorman, now) = (Doorman::default(), Instant::now());
        let addresses = (0..1_000u16).map(|last| Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into());
        assert_eq!(addresses.filter(|&address| doorman.admits(address, now)).count(), STRANGER.burst as usize);
        assert_eq!(host_of("::ffff:10.0.0.1".parse().unwrap()), address(1));
    }

    #[test]
    fn keys_are_noted_at_a_rate() {
        let (doorman, now) = (Doorman::default(), Instant::now());
        assert_eq!((0..1_000).filter(|_| doorman.may_note_key(now)).count(), NOTES.burst as usize);
        assert!(doorman.may_note_key(now + Duration::from_secs(1)));
    }
}
