//! What the two processes exchange about AF_XDP: which interface to use and how, the next hops to
//! partners, and packet counts.
//!
//! The control process queries the kernel's tables for interfaces and next hops, which the
//! sandboxed data plane cannot do. The data plane counts what its steering program did with each
//! packet.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// How a socket moves packets, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Mode {
    /// The NIC reads and writes the frames.
    ZeroCopy,
    /// The driver runs the program; the kernel copies.
    Copy,
    /// The program runs behind the driver, on socket buffers; the kernel copies.
    Skb,
}

impl Mode {
    /// As results and metrics say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ZeroCopy => "zerocopy",
            Self::Copy => "copy",
            Self::Skb => "skb",
        }
    }
}

/// The interface to use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AfXdpStart {
    /// Its index.
    pub interface: u32,
    /// Its name.
    pub name: String,
    /// Its receive queues in use.
    pub queues: u32,
    /// Its MTU.
    pub mtu: u32,
    /// The host's addresses: the ports are the lanes' at these only.
    pub addresses: Vec<IpAddr>,
    /// The only mode to try; `None` tries all, best first.
    pub only: Option<Mode>,
    /// Microseconds of busy polling in each call, preferred over interrupts.
    pub busy_poll_us: Option<u32>,
}

/// The next hop of a route: what the kernel's routes, neighbors and links say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The interface's own.
    pub source_mac: [u8; 6],
    /// The gateway's, or the partner's on the same network.
    pub destination_mac: [u8; 6],
    /// The tag to write, if the route leads over a VLAN interface.
    pub vlan: Option<u16>,
    /// The address that the kernel would send from.
    pub source: IpAddr,
    /// Bytes of an IP packet on this link.
    pub mtu: u32,
}

/// Packets that a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Family {
    /// UDP over IPv4.
    Udp4,
    /// UDP over IPv6.
    Udp6,
}

impl Family {
    /// Its name, as ethtool has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Udp4 => "udp4",
            Self::Udp6 => "udp6",
        }
    }

    /// The families that a socket serves which is bound to an address.
    #[must_use]
    pub const fn served_by(bind: IpAddr) -> &'static [Self] {
        match bind {
            IpAddr::V4(_) => &[Self::Udp4],
            IpAddr::V6(address) if address.is_unspecified() => &[Self::Udp4, Self::Udp6],
            IpAddr::V6(_) => &[Self::Udp6],
        }
    }
}

/// One destination port to one queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Of which packets.
    pub family: Family,
    /// The destination port.
    pub port: u16,
    /// The receive queue.
    pub queue: u32,
}

/// A rule that is in the NIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetRule {
    /// The destination port.
    pub port: u16,
    /// Of which packets.
    pub family: Family,
    /// The receive queue.
    pub queue: u32,
    /// Where it is in the NIC's table.
    pub location: u32,
}

impl SetRule {
    /// A rule, and where it went.
    #[must_use]
    pub const fn new(rule: Rule, location: u32) -> Self {
        Self { port: rule.port, family: rule.family, queue: rule.queue, location }
    }

    /// The rule, wherever it is.
    #[must_use]
    pub const fn rule(&self) -> Rule {
        Rule { family: self.family, port: self.port, queue: self.queue }
    }
}

/// What happened to packets of a queue, or of all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdicts {
    /// Not for a lane.
    pub passed: u64,
    /// To a lane's socket.
    pub redirected: u64,
    /// To a lane's port and no segment: dropped.
    pub malformed: u64,
    /// To a lane's port, of an unknown flow: dropped.
    pub unknown_flow: u64,
    /// Of another lane than the queue's: through the kernel.
    pub wrong_queue: u64,
    /// Of a lane without a socket on the queue: through the kernel.
    pub no_socket: u64,
}

impl Verdicts {
    /// Each count with its name in metrics.
    #[must_use]
    pub const fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("passed", self.passed),
            ("redirected", self.redirected),
            ("malformed", self.malformed),
            ("unknown_flow", self.unknown_flow),
            ("wrong_queue", self.wrong_queue),
            ("no_socket", self.no_socket),
        ]
    }

    /// From the words of a line of the program's counters, in their order.
    #[must_use]
    pub const fn of(counts: [u64; 8]) -> Self {
        let [passed, redirected, malformed, unknown_flow, wrong_queue, no_socket, ..] = counts;
        Self { passed, redirected, malformed, unknown_flow, wrong_queue, no_socket }
    }
}

/// What the program has counted since it was loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramCounters {
    /// Of each queue of the interface, in their order.
    pub queues: Vec<Verdicts>,
    /// The sources of most dropped packets, as far as they were attributed.
    pub sources: Vec<(IpAddr, u64)>,
    /// The NIC's rules that lead packets to the lanes' queues.
    pub rules: Vec<SetRule>,
    /// Why there are not more of them, in words.
    pub rules_missing: Vec<String>,
}
