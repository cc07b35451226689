//! Limits how many connections may start a handshake, so that strangers are bounded before they
//! cost any cryptography.
//!
//! A handshake takes about a millisecond of processor time. Strangers' hosts therefore share one
//! rate, and each has a lower rate of its own. The first handshakes of a host are counted
//! separately, so that busy hosts do not use up what newcomers need. Partners' hosts have rates of
//! their own, which strangers elsewhere cannot use up. Hosts are kept in a table of fixed size.
//!
//! A host counts as a partner's if an approved key has come from it, or if a profile names it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::host::Host;

/// Hosts with buckets of their own. Further strangers share what all strangers have.
const HOSTS_MAX: usize = 1_024;
/// Handshakes of all strangers together.
const STRANGERS: Limit = Limit { burst: 400.0, per_second: 50.0 };
/// Handshakes of all newcomers together: hosts that use up what strangers share do not keep out one
/// that connects for the first time.
const NEWCOMERS: Limit = Limit { burst: 200.0, per_second: 25.0 };
/// Handshakes up to which a host counts as a newcomer: a person who retries occasionally.
const NEWCOMER: Limit = Limit { burst: 4.0, per_second: 0.1 };
/// Handshakes of one stranger's host.
const STRANGER: Limit = Limit { burst: 200.0, per_second: 20.0 };
/// Handshakes of a partner's host.
const PARTNER: Limit = Limit { burst: 1_000.0, per_second: 200.0 };
/// Strangers' keys that are recorded for approval, of all hosts together: each costs a durable
/// write.
const KEYS: Limit = Limit { burst: 64.0, per_second: 2.0 };
/// Keys of one host that are recorded. A host has one key, an institute behind one address a few;
/// more serve only to fill the table.
const KEYS_OF_HOST: Limit = Limit { burst: 8.0, per_second: 1.0 / 60.0 };
/// How long a host counts as a partner's after an approved key came from it.
const PARTNER_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The size of a token bucket, and the rate at which it fills.
#[derive(Clone, Copy, Debug)]
struct Limit {
    burst: f64,
    per_second: f64,
}

/// A token bucket.
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    const fn full(limit: Limit, now: Instant) -> Self {
        Self { tokens: limit.burst, at: now }
    }

    fn take(&mut self, limit: Limit, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = since.mul_add(limit.per_second, self.tokens).min(limit.burst);
        self.at = now;
        let may = self.tokens >= 1.0;
        if may {
            self.tokens -= 1.0;
        }
        // Invariant I-limiter-bucket: A bucket never holds less than no token or more than its
        // burst.
        assert!((0.0..=limit.burst).contains(&self.tokens), "a bucket with {} tokens", self.tokens);
        may
    }
}

#[derive(Debug)]
struct HostState {
    /// Under [`STRANGER`] or [`PARTNER`].
    handshakes: Bucket,
    /// Under [`NEWCOMER`].
    first_handshakes: Bucket,
    /// Under [`KEYS_OF_HOST`].
    keys: Bucket,
    partner_until: Option<Instant>,
    seen: Instant,
}

impl HostState {
    const fn new(now: Instant) -> Self {
        Self {
            handshakes: Bucket::full(STRANGER, now),
            first_handshakes: Bucket::full(NEWCOMER, now),
            keys: Bucket::full(KEYS_OF_HOST, now),
            partner_until: None,
            seen: now,
        }
    }

    fn is_partners(&self, now: Instant) -> bool {
        self.partner_until.is_some_and(|until| now < until)
    }

    /// After this time of silence all buckets of a stranger's host are full again, as if it had
    /// never connected.
    const FORGET_AFTER: Duration = Duration::from_secs(8 * 60);
}

#[derive(Debug)]
struct LimiterState {
    hosts: HashMap<Host, HostState>,
    strangers: Bucket,
    newcomers: Bucket,
    keys: Bucket,
}

/// Decides whether a handshake may start.
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
            keys: Bucket::full(KEYS, now),
        };
        Self { state: Mutex::new(state) }
    }
}

impl ConnectionLimiter {
    /// Whether a connection from `address` may start its handshake.
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
                is_newcomer = known.first_handshakes.take(NEWCOMER, now);
            }
            (is_newcomer && state.newcomers.take(NEWCOMERS, now)) || state.strangers.take(STRANGERS, now)
        })
    }

    /// Whether `address` is that of a partner's host.
    #[must_use]
    pub fn knows(&self, address: IpAddr, now: Instant) -> bool {
        self.with(|state| state.hosts.get(&address.into()).is_some_and(|known| known.is_partners(now)))
    }

    /// Notes that an approved key came from `address`.
    pub fn note_partner(&self, address: IpAddr, now: Instant) {
        self.expect_partner(address, PARTNER_FOR, now);
    }

    /// Counts `address` as a partner's for the time `within`.
    pub fn expect_partner(&self, address: IpAddr, within: Duration, now: Instant) {
        self.with(|state| {
            state.make_room(now);
            if state.hosts.len() >= HOSTS_MAX && !state.hosts.contains_key(&address.into()) {
                // A partner displaces a stranger.
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

    /// Whether a stranger's key may be recorded for approval now. A host that has used up its own
    /// share takes nothing from what all hosts share.
    #[must_use]
    pub fn may_record_key(&self, address: IpAddr, now: Instant) -> bool {
        self.with(|state| {
            let of_host = state.host(address.into(), now).is_none_or(|known| known.keys.take(KEYS_OF_HOST, now));
            of_host && state.keys.take(KEYS, now)
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut LimiterState) -> T) -> T {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let result = act(&mut state);
        // Invariant I-limiter-table: The connection limiter's table of hosts has a fixed maximum
        // size, whoever connects.
        assert!(state.hosts.len() <= HOSTS_MAX, "the table has {} hosts", state.hosts.len());
        result
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

    /// If the table is full, forgets hosts that have been silent for [`HostState::FORGET_AFTER`],
    /// unless they count as partners'.
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

    fn admitted(limiter: &ConnectionLimiter, address: IpAddr, tries: usize, now: Instant) -> usize {
        (0..tries).filter(|_| limiter.admits(address, now)).count()
    }

    #[test]
    fn strangers_have_a_rate_each_and_together_and_partners_their_own() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        limiter.note_partner(address(1), now);
        assert_eq!(admitted(&limiter, address(2), 1_000, now), STRANGER.burst as usize);
        let all: usize = (3..300).map(|number| admitted(&limiter, address(number), 100, now)).sum();
        assert_eq!(all + STRANGER.burst as usize, (STRANGERS.burst + NEWCOMERS.burst) as usize);
        assert_eq!(admitted(&limiter, address(1), 500, now), 500, "a partner is kept out by strangers");
        let later = now + Duration::from_secs(1);
        assert_eq!(admitted(&limiter, address(2), 1_000, later), STRANGER.per_second as usize);
    }

    #[test]
    fn the_table_has_a_limit_and_keeps_partners() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        for number in 0..10_000 {
            let _ = limiter.admits(address(number), now);
        }
        limiter.note_partner(address(1 << 20), now);
        assert_eq!(limiter.with(|state| state.hosts.len()), HOSTS_MAX);
        assert!(limiter.admits(address(1 << 20), now));
        let later = now + Duration::from_secs(600);
        let _ = limiter.admits(address(77_777), later);
        assert!(limiter.with(|state| state.hosts.len()) <= 2, "strangers are remembered forever");
        assert!(limiter.knows(address(1 << 20), later));
    }

    #[test]
    fn an_ipv6_host_is_known_by_its_network() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        let addresses = (0..1_000u16).map(|last| std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 1, 0, 0, 0, last).into());
        assert_eq!(addresses.filter(|&address| limiter.admits(address, now)).count(), STRANGER.burst as usize);
    }

    #[test]
    fn hosts_that_use_up_what_strangers_share_do_not_keep_out_one_that_comes_for_the_first_time() {
        let (limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        for second in 0..60 {
            let now = begin + Duration::from_secs(second);
            let busy: usize = (2..10).map(|number| admitted(&limiter, address(number), 50, now)).sum();
            assert!(busy > 0 || second > 0);
            assert!(limiter.admits(address(1_000 + second as u32), now), "after {second} s");
        }
    }

    #[test]
    fn a_host_that_a_profile_names_is_a_partners_as_long_as_it_does() {
        let (limiter, now) = (ConnectionLimiter::default(), Instant::now());
        limiter.expect_partner(address(1), Duration::from_secs(300), now);
        assert!(limiter.knows(address(1), now) && !limiter.knows(address(2), now));
        let later = now + Duration::from_secs(301);
        assert!(!limiter.knows(address(1), later));
        limiter.note_partner(address(1), later);
        limiter.expect_partner(address(1), Duration::from_secs(300), later);
        assert!(limiter.knows(address(1), later + Duration::from_secs(3_600)), "a shorter time took a longer one away");
    }

    /// One host used up what all had, and no newcomer's key was recorded.
    #[test]
    fn keys_of_one_host_take_nothing_from_those_of_others() {
        let (limiter, begin) = (ConnectionLimiter::default(), Instant::now());
        let mut noted = 0;
        for second in 0..600 {
            let now = begin + Duration::from_secs(second);
            noted += (0..12).filter(|_| limiter.may_record_key(address(1), now)).count();
            if second % 60 == 0 {
                assert!(limiter.may_record_key(address(1_000 + second as u32), now), "after {second} s");
            }
        }
        assert!((8..=18).contains(&noted), "{noted} keys of one host");
        let many = (2_000..3_000).filter(|&number| limiter.may_record_key(address(number), begin)).count();
        assert!(many <= KEYS.burst as usize, "{many} keys of many hosts at once");
    }
}
