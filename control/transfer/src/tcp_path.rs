//! The message for a far end that ssh has started and TCP does not reach: which path is blocked,
//! and how to open it.

use std::fmt;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use culvert_connection::{ConnectionError, INTRODUCTION_TIMEOUT, UNANSWERED_NOTICE};
use culvert_model::address::DEFAULT_PORT;

use crate::addresses::canonical;
use crate::udp_path::{RANDOM_PORTS_BEGIN, firewalld, nftables};

/// Separates the diagnosis from the remedy, as [`crate::udp_path::REMEDY`] does.
pub const REMEDY: &str = ": open TCP ";

/// A far end's port that TCP does not reach.
#[derive(Debug)]
pub struct ClosedTcp {
    from: (String, IpAddr),
    to: SocketAddr,
    what: String,
}

impl ClosedTcp {
    /// The far end's host has not answered for a while. `here` is what this host is called.
    #[must_use]
    pub fn unanswered(here: &str, to: SocketAddr) -> Option<Self> {
        Self::new(here, to, format!("has not been answered for {} s", UNANSWERED_NOTICE.as_secs()))
    }

    /// A connection that failed, if a firewall can be the reason.
    #[must_use]
    pub fn because(here: &str, error: &ConnectionError) -> Option<Self> {
        let (address, what) = match error {
            ConnectionError::NoAnswer { address, .. } => {
                (address, format!("has not been answered for {} s", INTRODUCTION_TIMEOUT.as_secs()))
            }
            ConnectionError::Connect { address, error } => match error.kind() {
                ErrorKind::ConnectionRefused => (address, "is refused".to_owned()),
                _ => (address, format!("does not get through ({error})")),
            },
            _ => return None,
        };
        Self::new(here, address.parse().ok()?, what)
    }

    fn new(here: &str, to: SocketAddr, what: String) -> Option<Self> {
        let to = SocketAddr::new(canonical(to.ip()), to.port());
        Some(Self { from: (here.to_owned(), source_towards(to)?), to, what })
    }
}

/// The source address that this host uses towards another. Nothing is sent.
fn source_towards(to: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

impl fmt::Display for ClosedTcp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from: (here, from), to, what } = self;
        let (host, port) = (to.ip(), to.port());
        // A random port changes with every transfer: no firewall rule can name it.
        let is_random = port >= RANDOM_PORTS_BEGIN;
        let lasting = if is_random { DEFAULT_PORT.saturating_add(1) } else { port };
        let ports = lasting.to_string();
        write!(
            f,
            "TCP from {here} ({from}) to {host} port {port} {what}, although ssh reaches the host{REMEDY}port {lasting} \
             for {from} on {host} and in the firewalls in between ({}; {})",
            nftables("tcp", *from, &ports),
            firewalld("tcp", *from, &ports)
        )?;
        if is_random {
            write!(f, "; the next transfer would use other ports: add --remote-ports {lasting}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(port: u16) -> String {
        let from = ("dtn1".to_owned(), "192.0.2.1".parse().unwrap());
        let to = SocketAddr::new("192.0.2.2".parse().unwrap(), port);
        ClosedTcp { from, to, what: "is refused".to_owned() }.to_string()
    }

    #[test]
    fn it_says_what_opens_the_way_and_the_option_only_where_the_port_came_by_chance() {
        let (random, chosen) = (text(40_001), text(7_280));
        for (text, port, opened) in [(&random, 40_001, 7_273), (&chosen, 7_280, 7_280)] {
            for part in [
                format!("TCP from dtn1 (192.0.2.1) to 192.0.2.2 port {port} is refused"),
                format!("open TCP port {opened} for 192.0.2.1 on 192.0.2.2"),
                format!("input ip saddr 192.0.2.1 tcp dport {opened} accept;"),
                format!("source address=192.0.2.1 port port={opened} protocol=tcp accept'"),
            ] {
                assert!(text.contains(&part), "{part}: {text}");
            }
            assert!(!text.contains("node"), "{text}");
        }
        assert!(random.ends_with("add --remote-ports 7273") && !chosen.contains("--remote-ports"), "{random} {chosen}");
    }
}
