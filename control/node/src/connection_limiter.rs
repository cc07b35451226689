//! How many connections may begin a handshake: what strangers cost is limited before the first
//! cryptography.
//!
//! A handshake takes this host about a millisecond. So hosts of which no approved key is known yet
//! share a small rate, each has a smaller one of its own, the first handshakes of each are kept
//! apart from what the busy ones use up, and partners' hosts have their own, which no stranger
//! elsewhere can touch. All of it is kept in a table of fixed size.
//!
//! A host is a partner's if an approved key has come from it, or if a profile names it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Host;

/// Hosts that are told apart. Beyond them, strangers share what is left.
const HOSTS_MAX: usize = 1_024;
/// Handshakes of all strangers together: at once, and a second.
const STRANGERS: Limit = Limit { burst: 400.0, per_second: 50.0 };
/// Handshakes of strangers' hosts that have had hardly any yet, together: some hosts that use up
/// what all strangers share do not keep out one that comes for the first time.
const NEWCOMERS: Limit = Limit { burst: 200.0, per_second: 25.0 };
/// Handshakes up to which a host counts as a newcomer: a person who retries now and then.
const NEWCOMER: Limit = Limit { burst: 4.0, per_second: 0.1 };
/// Handshakes of one host from which only strangers came.
const STRANGER: Limit = Limit { burst: 200.0, per_second: 20.0 };
/// Handshakes of a partner's host.
const PARTNER: Limit = Limit { burst: 1_000.0, per_second: 200.0 };
/// Keys of strangers that are noted for approval, together: each costs a durable write.
const NOTES: Limit = Limit { burst: 64.0, per_second: 2.0 };
/// Keys of one host that are recorded. A host has one key, an institute behind one address a few;
/// more are only used to fill the table.
const NOTES_OF_HOST: Limit = Limit { burst: 8.0, per_second: 1.0 / 60.0 };
/// A host is a partner's for so long after its key came, and as long as a profile names it.
const PARTNER_FOR: Duration = Duration::from_secs(24 * 60 * 60);

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
struct HostState {
    handshakes: Bucket,
    /// What is left of [`NEWCOMER`].
    first: Bucket,
    /// What is left of [`NOTES_OF_HOST`].
    notes: Bucket,
    partner_until: Option<Instant>,
    seen: Instant,
}

impl HostState {
    const fn new(now: Instant) -> Self {
        Self {
            handshakes: Bucket::full(STRANGER, now),
            first: Bucket::full(NEWCOMER, now),
            notes: Bucket::full(NOTES_OF_HOST, now),
            partner_until: None,
            seen: now,
        }
    }

    fn is_partners(&self, now: Instant) -> bool {
        self.partner_until.is_some_and(|until| now < until)
    }

    /// How long it takes until a stranger's host is as if it had never come.
    const FORGET_AFTER: Duration = Duration::from_secs(8 * 60);
}

#[derive(Debug)]
struct LimiterState {
    hosts: HashMap<Host, HostState>,
    strangers: Bucket,
    newcomers: Bucket,
    notes: Bucket,
}

/// Decides whether a handshake may begin.
#[derive(Debug)]
pub struct ConnectionLimiter {
    state: Mutex<LimiterState>,
}

impl Default for ConnectionLimiter {
    fn default() -> Self {
        let now = Instant::now();
        let state = LimiterState {
            hosts: HashMap::new(),
            strangers: Bucket::full(STRANGERS, now),
            newcomers: Bucket::full(NEWCOMERS, now),
            notes: Bucket::full(NOTES, now),
        };
        Self { state: Mutex::new(state) }
    }
}

impl ConnectionLimiter {
    fn with<T>(&self, act: impl FnOnce(&mut LimiterState) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a connection from `address` may begin its handshake.
    #[must_use]
    pub fn admits(&self, address: IpAddr, now: Instant) -> bool {
        self.with(|state| {
            let mut is_newcomer = false;
            if let Some(known) = state.host(address.into(), now) {
                if known.is_partners(now) {
                    return known.handshakes.take(PARTNER, now);
                }
                if !known.handshakes.take(STRANGER, now) {
                    return false;
                }
                is_newcomer = known.first.take(NEWCOMER, now);
            }
            (is_newcomer && state.newcomers.take(NEWCOMERS, now)) || state.strangers.take(STRANGERS, now)
        })
    }

    /// Whether `address` is a partner's.
    #[must_use]
    pub fn knows(&self, address: IpAddr, now: Instant) -> bool {
        self.with(|state| state.hosts.get(&address.into()).is_some_and(|known| known.is_partners(now)))
    }

    /// An approved key came from `address`.
    pub fn note_partner(&self, address: IpAddr, now: Instant) {
        self.expect_partner(address, PARTNER_FOR, now);
    }

    /// A partner may come from `address` within the next time.
    pub fn expect_partner(&self, address: IpAddr, within: Duration, now: Instant) {
        self.with(|state| {
            state.make_room(now);
            if state.hosts.len() >= HOSTS_MAX && !state.hosts.contains_key(&address.into()) {
                // A partner is worth more than a stranger.
                let stranger = state.hosts.iter().find(|(_, known)| !known.is_partners(now)).map(|(&host, _)| host);
                stranger.map(|host| state.hosts.remove(&host));
            }
            if let Some(known) = state.host(address.into(), now) {
                if !known.is_partners(now) {
                    known.handshakes = Bucket::full(PARTNER, now);
                }
                known.partner_until = known.partner_until.max(Some(now + within));
            }
        });
    }

    /// Whether a stranger's key may be noted for approval now. A host that has noted its keys takes
    /// nothing of what is left for all.
    #[must_use]
    pub fn may_note_key(&self, address: IpAddr, now: Instant) -> bool {
        self.with(|state| {
            let of_host = state.host(address.into(), now).is_none_or(|known| known.notes.take(NOTES_OF_HOST, now));
            of_host && state.notes.take(NOTES, now)
        })
    }
}

impl LimiterState {
    /// A host's entry; none if the table is full.
    fn host(&mut self, host: Host, now: Instant) -> Option<&mut HostState> {
        self.make_room(now);
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&host) {
            return None;
        }
        let known = self.hosts.entry(host).or_insert_with(|| HostState::new(now));
        known.seen = now;
        Some(known)
    }

    /// Forgets strangers that have been away long enough for all buckets to be full again, and
    /// former partners.
    fn make_room(&mut self, now: Instant) {
        if self.hosts.len() >= HOSTS_MAX {
            self.hosts.retain(|_, known| {
                known.is_partners(now) || now.saturating_duration_since(known.seen) < HostState::FORGET_AFTER
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into()
    }

    fn admitted(connection_limiter: &ConnectionLimiter, address: IpAddr, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| connection_limiter.admits(address, now)).count()
    }

    #[test]
    fn strangers_have_a_rate_each_and_together_and_partners_their_own() {
        let (connection_limiter, now) = (ConnectionLimiter::default(), Instant::now());
        connection_limiter.note_partner(address(1), now);
        assert_eq!(admitted(&connection_limiter, address(2), 1_000, now), STRANGER.burst as usize);
        let all: usize = (3..300).map(|number| admitted(&connection_limiter, address(number), 100, now)).sum();
        assert_eq!(all + STRANGER.burst as usize, (STRANGERS.burst + NEWCOMERS.burst) as usize);
        assert_eq!(admitted(&connection_limiter, address(1), 500, now), 500, "a partner is kept out by strangers");
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&connection_limiter, address(2), 1_000, later), STRANGER.per_second as usize);
    }

    #[test]
    fn the_table_has_a_limit_and_keeps_partners() {
        let (connection_limiter, now) = (ConnectionLimiter::default(), Instant::now());
        for number in 0..10_000 {
            let _ = connection_limiter.admits(address(number), now);
        }
        connection_limiter.note_partner(address(1 << 20), now);
        assert_eq!(connection_limiter.with(|state| state.hosts.len()), HOSTS_MAX);
        assert!(connection_limiter.admits(address(1 << 20), now));
        let later = now + Duration::from_secs(600);
        let _ = connection_limiter.admits(address(77_777), later);
        assert!(connection_limiter.with(|state| state.hosts.len()) <= 2, "strangers are remembered for ever");
        assert!(connection_limiter.knows(address(1 << 20), later));
    }

    #[test]
    fn an_ipv6_host_is_known_by_its_network() {
        let (connection_limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let addresses = (0..1_000u16).map(|last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into());
        assert_eq!(
            addresses.filter(|&address| connection_limiter.admits(address, now)).count(),
            STRANGER.burst as usize
        );
    }

    #[test]
    fn hosts_that_use_up_what_strangers_share_do_not_keep_out_one_that_comes_for_the_first_time() {
        let (connection_limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        for second in 0..60 {
            let now = begin + Duration::from_secs(second);
            let busy: usize = (2..10).map(|number| admitted(&connection_limiter, address(number), 50, now)).sum();
            assert!(busy > 0 || second > 0);
            assert!(connection_limiter.admits(address(1_000 + second as u32), now), "after {second} s");
        }
    }

    #[test]
    fn a_host_that_a_profile_names_is_a_partners_as_long_as_it_does() {
        let (connection_limiter, now) = (ConnectionLimiter::default(), Instant::now());
        connection_limiter.expect_partner(address(1), Duration::from_secs(300), now);
        assert!(connection_limiter.knows(address(1), now) && !connection_limiter.knows(address(2), now));
        let later = now + Duration::from_secs(301);
        assert!(!connection_limiter.knows(address(1), later));
        connection_limiter.note_partner(address(1), later);
        connection_limiter.expect_partner(address(1), Duration::from_secs(300), later);
        assert!(
            connection_limiter.knows(address(1), later + Duration::from_secs(3_600)),
            "a shorter time took a longer one away"
        );
    }

    /// Row 16: one host used up what all had, and no newcomer was noted.
    #[test]
    fn keys_of_one_host_take_nothing_from_those_of_others() {
        let (connection_limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        let mut noted = 0;
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            noted += (0..12).filter(|_| connection_limiter.may_note_key(address(1), now)).count();
            if second % 60 == 0 {
                assert!(connection_limiter.may_note_key(address(1_000 + second as u32), now), "after {second} s");
            }
        }
        assert!((8..=18).contains(&noted), "{noted} keys of one host");
        let many = (2_000..3_000).filter(|&number| connection_limiter.may_note_key(address(number), begin)).count();
        assert!(many <= NOTES.burst as usize, "{many} keys of many hosts at once");
    }
}
