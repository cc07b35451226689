//! What a reflector bears: whom it answers, from which ports, how much of it, and why it does not.
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

/// Requests from ports below are not answered: they are services, among them the reflectors' own
/// 862, and two that answer each other never stop.
pub const SOURCE_PORT_MIN: u16 = 1_024;
/// Packets that one host gets answered in a second, unless the settings say otherwise: ten times
/// what the densest tests of perfSONAR send.
pub const PACKETS_PER_SECOND: u32 = 10_000;
/// Packets that all hosts together get answered in a second: this part of one core's, so that a
/// flood of requests leaves the transfers theirs.
const PACKETS_PER_SECOND_OF_ALL: u64 = 50_000;
/// Bytes that all hosts together get answered in a second: 1 Gb/s. Measurements are small packets;
/// what fills a link is none.
const BYTES_PER_SECOND_OF_ALL: u64 = 125_000_000;

/// Ports that no request may come from, since reflectors have them.
#[derive(Clone, Debug, Default)]
pub struct ReflectorPorts {
    ports: Vec<u16>,
    range: Option<(u16, u16)>,
}

impl ReflectorPorts {
    /// Single ports and a range, in addition to the services'.
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

/// What a reflector bears.
#[derive(Clone, Debug)]
pub struct ReflectorLimits {
    /// Who may ask.
    pub permitted: Permitted,
    /// Ports from which requests are never answered.
    pub ports: ReflectorPorts,
    /// Sessions with state. A silent one is evicted for another; a host at its limit evicts its
    /// own.
    pub sessions: usize,
    /// Packets of one host in a second.
    pub packets_per_second: u32,
    /// Whether requests that are shorter than their answers are answered. Only where the source is
    /// known not to be forged.
    pub answers_short_requests: bool,
    /// Whether what follows a request's 14 bytes is TWAMP's padding, whatever it looks like.
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
    /// The source is not among those that may ask.
    #[error("source_not_allowed")]
    Source,
    /// The source's port is a service's, or a reflector's.
    #[error("source_port")]
    SourcePort,
    /// It is a reflection itself.
    #[error("reflection")]
    Reflection,
    /// The source has used up its budget.
    #[error("rate")]
    Rate,
    /// The session has used up its part of the source's budget.
    #[error("session_rate")]
    SessionRate,
    /// All sources together have used up theirs.
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
    /// A word for metrics.
    #[must_use]
    pub fn word(self) -> String {
        self.to_string()
    }
}

/// Rates that several reflectors keep together.
pub type SharedRates = Mutex<Rates>;

/// How much is answered: of each host, and of all.
#[derive(Debug)]
pub struct Rates {
    hosts: Budgets,
    packets: Bucket,
    bytes: Bucket,
}

impl Rates {
    /// So many packets of each host in a second.
    #[must_use]
    pub fn shared(packets_per_second: u32) -> Arc<SharedRates> {
        let of_all = PACKETS_PER_SECOND_OF_ALL.max(packets_per_second.into());
        Arc::new(Mutex::new(Self {
            hosts: Budgets::new(packets_per_second),
            packets: Bucket::full(of_all, 0),
            bytes: Bucket::full(BYTES_PER_SECOND_OF_ALL, 0),
        }))
    }

    /// Takes an answer of so many bytes out of the budgets. The host's comes first: what one asks
    /// too much is not taken from all.
    ///
    /// # Errors
    /// Which budget is used up.
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
    fn one_host_does_not_use_up_what_all_have() {
        let rates = Rates::shared(10);
        let mut rates = rates.lock().unwrap();
        let [greedy, other] = ["192.0.2.1", "192.0.2.2"].map(|host| host.parse().unwrap());
        let taken = (0..200_000).filter(|_| rates.take(greedy, 44, 0).is_ok()).count();
        assert_eq!((taken, rates.take(greedy, 44, 0), rates.take(other, 44, 0)), (10, Err(Refused::Rate), Ok(())));
    }
}
