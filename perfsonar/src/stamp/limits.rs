//! The limits of a reflector: which hosts and ports it answers, at which rates, and the reasons for
//! not answering.
#![cfg_attr(
    not(test),
    deny(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        clippy::cast_possible_truncation,
        clippy::unwrap_used,
        clippy::expect_used
    )
)]

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use crate::sources::{Bucket, Budgets, Permitted};

/// The lowest source port that is answered. Ports below belong to services, among them other
/// reflectors on 862, and two services that answer each other never stop.
pub const SOURCE_PORT_MIN: u16 = 1_024;
/// Default of the packets per second answered to one host: ten times what the densest perfSONAR
/// tests send.
pub const PACKETS_PER_SECOND: u32 = 10_000;
/// Packets per second answered to all hosts together: a fraction of what one core can answer, so
/// that a flood of requests leaves the rest to transfers.
const PACKETS_PER_SECOND_OF_ALL: u64 = 50_000;
/// Bytes per second answered to all hosts together: 1 Gb/s. Measurements are small packets; traffic
/// that fills a link is not a measurement.
const BYTES_PER_SECOND_OF_ALL: u64 = 125_000_000;

/// Ports that no request may come from, because reflectors have them.
#[derive(Clone, Debug, Default)]
pub struct ReflectorPorts {
    ports: Vec<u16>,
    range: Option<(u16, u16)>,
}

impl ReflectorPorts {
    /// Single ports and a range, in addition to those below [`SOURCE_PORT_MIN`].
    #[must_use]
    pub const fn new(ports: Vec<u16>, range: Option<(u16, u16)>) -> Self {
        Self { ports, range }
    }

    /// Whether a reflector may have this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        port < SOURCE_PORT_MIN
            || self.ports.contains(&port)
            || self.range.is_some_and(|(first, last)| (first..=last).contains(&port))
    }
}

/// The limits of one reflector.
#[derive(Clone, Debug)]
pub struct ReflectorLimits {
    /// The hosts that are answered.
    pub permitted: Permitted,
    /// Ports from which requests are never answered.
    pub ports: ReflectorPorts,
    /// The most sessions with state. A silent session is evicted for a new one; a host at its limit
    /// evicts its own.
    pub sessions: usize,
    /// The most packets answered to one host in a second.
    pub packets_per_second: u32,
    /// Whether requests shorter than their answers are answered. Only safe where the source address
    /// is known not to be forged.
    pub answers_short_requests: bool,
    /// Whether the bytes after a request's first 14 are always TWAMP padding.
    pub is_twamp: bool,
}

impl Default for ReflectorLimits {
    fn default() -> Self {
        Self {
            permitted: Permitted::default(),
            ports: ReflectorPorts::default(),
            sessions: 1_000,
            packets_per_second: PACKETS_PER_SECOND,
            answers_short_requests: false,
            is_twamp: false,
        }
    }
}

/// Why a request is not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Refused {
    /// The source address is not permitted.
    #[error("source_not_allowed")]
    Source,
    /// The source port is a service's, or a reflector's.
    #[error("source_port")]
    SourcePort,
    /// It is a reflection itself.
    #[error("reflection")]
    Reflection,
    /// The source has used up its budget.
    #[error("rate")]
    Rate,
    /// The session has used up its share of the source's budget.
    #[error("session_rate")]
    SessionRate,
    /// All sources together have used up their budget.
    #[error("rate_of_all")]
    RateOfAll,
    /// The answer would be longer than the request.
    #[error("short")]
    Short,
    /// Not a packet of the protocol.
    #[error("malformed")]
    Malformed,
    /// The HMAC is wrong.
    #[error("not_authentic")]
    NotAuthentic,
}

impl Refused {
    /// The label value in metrics.
    #[must_use]
    pub fn word(self) -> String {
        self.to_string()
    }
}

/// Rates that several reflectors share.
pub type SharedRates = Mutex<Rates>;

/// The budgets of each host, and of all together.
#[derive(Debug)]
pub struct Rates {
    hosts: Budgets,
    packets: Bucket,
    bytes: Bucket,
}

impl Rates {
    /// Budgets of `packets_per_second` for each host.
    #[must_use]
    pub fn shared(packets_per_second: u32) -> Arc<SharedRates> {
        let of_all = PACKETS_PER_SECOND_OF_ALL.max(packets_per_second.into());
        Arc::new(Mutex::new(Self {
            hosts: Budgets::new(packets_per_second),
            packets: Bucket::full(of_all, 0),
            bytes: Bucket::full(BYTES_PER_SECOND_OF_ALL, 0),
        }))
    }

    /// Takes an answer of `bytes` from the budgets. The host's budget comes first, so that a greedy
    /// host does not use up the common one.
    ///
    /// # Errors
    /// The budget that is used up.
    pub fn take(&mut self, source: IpAddr, bytes: usize, now_ns: i64) -> Result<(), Refused> {
        if !self.hosts.take(source, now_ns) {
            return Err(Refused::Rate);
        }
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        let may = self.packets.take(1, now_ns) && self.bytes.take(bytes, now_ns);
        if may { Ok(()) } else { Err(Refused::RateOfAll) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_hosts_together_have_a_limit_of_packets_and_of_bytes() {
        let host = |number: u32| IpAddr::from(std::net::Ipv4Addr::from_bits(0x0a00_0000 + number));
        let answered = |bytes: usize| {
            let rates = Rates::shared(PACKETS_PER_SECOND);
            let mut rates = rates.lock().unwrap();
            (0..100_000u32).filter(|number| rates.take(host(number % 100), bytes, 1_000).is_ok()).count() as u64
        };
        assert_eq!(answered(44), PACKETS_PER_SECOND_OF_ALL);
        assert_eq!(answered(10_000), BYTES_PER_SECOND_OF_ALL / 10_000);
    }

    #[test]
    fn one_host_does_not_use_up_the_common_budget() {
        let rates = Rates::shared(10);
        let mut rates = rates.lock().unwrap();
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|host| host.parse().unwrap());
        let taken = (0..200_000).filter(|_| rates.take(greedy, 44, 0).is_ok()).count();
        assert_eq!((taken, rates.take(greedy, 44, 0), rates.take(other, 44, 0)), (10, Err(Refused::Rate), Ok(())));
    }
}
