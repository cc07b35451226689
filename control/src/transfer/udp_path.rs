//! What is said when TCP passes between two hosts and UDP does not: from where to where, which ports, and how to open them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use culvert_tuning::counted::noun;

use super::TransferContext;
use super::flows::canonical;
use crate::dataplane::ports::show_ports;
use crate::os_error;
use crate::settings::DEFAULT_PORT;

/// Ports that the operating system hands out begin here (net.ipv4.ip_local_port_range): nobody opens one of them ahead.
const RANDOM_PORTS_BEGIN: u16 = 32_768;

/// A way that has not opened after so long is told of. It is no error yet: the host may be busy, or the way long.
pub const UNOPENED_NOTICE: Duration = Duration::from_secs(3);
/// A way that was open and has brought nothing for so long is told of.
pub const OUTAGE_NOTICE: Duration = Duration::from_secs(5);

/// What names the UDP ports of the end that receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortsOption {
    /// `--remote-ports` of the command that has started a far end.
    RemotePorts,
    /// `--ports` of the command, or of the node, that has asked for the transfer.
    Ports,
    /// `--ports` of the node that was asked.
    PortsOfNode,
}

/// The two ends of a transfer, as its user knows them.
#[derive(Clone, Debug)]
pub struct Ends {
    /// What this host is called.
    pub here: String,
    /// What names the receiver's ports.
    pub option: PortsOption,
}

/// A way that UDP does not take.
#[derive(Debug)]
pub struct ClosedPath {
    from: (String, IpAddr),
    to: (String, IpAddr),
    ports: Vec<u16>,
    option: PortsOption,
    reason: Option<String>,
    /// Whether the host that sends refuses it itself.
    is_refused_here: bool,
    /// Whether it may be the answers that do not come through: who sends cannot tell.
    or_answers: bool,
}

impl ClosedPath {
    /// From this host to these ports of the partner's.
    #[must_use]
    pub fn to_partner(context: &TransferContext, ports: Vec<u16>) -> Self {
        let (from, to, option) = (here(context), partner(context), context.ends.option);
        Self { from, to, ports, option, reason: None, is_refused_here: false, or_answers: true }
    }

    /// From the partner to this host's lanes.
    #[must_use]
    pub fn from_partner(context: &TransferContext, ports: Vec<u16>) -> Self {
        let (from, to, option) = (partner(context), here(context), context.ends.option);
        Self { from, to, ports, option, reason: None, is_refused_here: false, or_answers: false }
    }

    /// With what the operating system says of it.
    #[must_use]
    pub fn because(self, errno: i32) -> Self {
        // What sendmsg(2) says where the host's own output chain drops or rejects.
        let is_refused_here = errno == rustix::io::Errno::PERM.raw_os_error();
        let reason = (errno != 0).then(|| os_error::words(os_error::errno_of_number(errno)));
        Self { reason, is_refused_here, ..self }
    }

    /// The ports to open: the same every time, so that a firewall can know them.
    fn lasting_ports(&self) -> Vec<u16> {
        if !self.are_random() {
            return self.ports.clone();
        }
        let lanes = u16::try_from(self.ports.len()).unwrap_or(u16::MAX);
        (1..=lanes).map(|lane| DEFAULT_PORT.saturating_add(lane)).collect()
    }

    fn are_random(&self) -> bool {
        self.ports.iter().any(|&port| port >= RANDOM_PORTS_BEGIN)
    }
}

fn here(context: &TransferContext) -> (String, IpAddr) {
    (context.ends.here.clone(), canonical(context.connection.local_address.ip()))
}

fn partner(context: &TransferContext) -> (String, IpAddr) {
    (context.connection.partner_name.clone(), canonical(context.connection.address.ip()))
}

impl fmt::Display for ClosedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((from_name, from), (to_name, to)) = (&self.from, &self.to);
        let lasting = show_ports(&self.lasting_ports());
        let (port, lasting_port) = (noun(self.ports.len(), "port"), noun(self.lasting_ports().len(), "port"));
        write!(f, "UDP from {from_name} ({from}) to {to_name} ({to}), {port} {}, ", show_ports(&self.ports))?;
        if self.is_refused_here {
            let rule = format!("nft insert rule inet filter output {} daddr {to} udp dport", family_of(*to));
            return write!(
                f,
                "is refused by a firewall of {from_name} itself: permit what it sends to UDP {lasting_port} {lasting} \
                 (nftables: {rule} {} accept)",
                set_of(&lasting)
            );
        }
        let what = if self.or_answers { "does not pass, or the answers to it do not" } else { "does not pass" };
        match &self.reason {
            Some(reason) => write!(f, "does not pass ({reason})")?,
            None => write!(f, "{what}, although TCP passes")?,
        }
        write!(
            f,
            ": open UDP {lasting_port} {lasting} for {from} on {to_name} and in the firewalls on the way ({}; {})",
            nftables(*from, &lasting),
            firewalld(*from, &lasting)
        )?;
        match (self.option, self.are_random()) {
            (PortsOption::RemotePorts, true) => {
                write!(f, "; the {port} of this transfer came by chance: add --remote-ports {lasting}")
            }
            (PortsOption::Ports, true) => {
                write!(f, "; the {port} of this transfer came by chance: add --ports {lasting}")
            }
            (PortsOption::PortsOfNode, true) => {
                write!(f, "; the node there took its {port} by chance: start it with --ports {lasting}")
            }
            (PortsOption::RemotePorts, false) => f.write_str("; --remote-ports names others"),
            (PortsOption::Ports, false) => f.write_str("; --ports names others"),
            (PortsOption::PortsOfNode, false) => f.write_str("; --ports of the node there names others"),
        }
    }
}

/// A rule for nft(8), which goes before those that are there.
fn nftables(from: IpAddr, ports: &str) -> String {
    let (family, ports) = (family_of(from), set_of(ports));
    format!("nftables: nft insert rule inet filter input {family} saddr {from} udp dport {ports} accept")
}

const fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6" } else { "ip" }
}

/// Ports as nft(8) reads them.
fn set_of(ports: &str) -> String {
    if ports.contains(',') { format!("{{ {} }}", ports.replace(',', ", ")) } else { ports.to_owned() }
}

/// Rules for firewall-cmd(1): one for each range.
fn firewalld(from: IpAddr, ports: &str) -> String {
    let family = if from.is_ipv6() { "ipv6" } else { "ipv4" };
    let rules: Vec<String> = ports
        .split(',')
        .map(|range| {
            format!(
                "--add-rich-rule='rule family={family} source address={from} port port={range} protocol=udp accept'"
            )
        })
        .collect();
    format!("firewalld: firewall-cmd {}", rules.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(from: &str, ports: &[u16], option: PortsOption) -> String {
        let end = |name: &str, address: &str| (name.to_owned(), address.parse().unwrap());
        let (from, to) = (end("dtn1", from), end("dtn2", "192.0.2.2"));
        let (reason, is_refused_here, or_answers) = (None, false, true);
        ClosedPath { from, to, ports: ports.to_vec(), option, reason, is_refused_here, or_answers }.to_string()
    }

    #[test]
    fn what_this_host_refuses_to_send_is_not_blamed_on_the_other() {
        let end = |name: &str, address: &str| (name.to_owned(), address.parse().unwrap());
        let (from, to, option) = (end("dtn1", "192.0.2.1"), end("dtn2", "192.0.2.2"), PortsOption::RemotePorts);
        let closed =
            ClosedPath { from, to, ports: vec![7_273], option, reason: None, is_refused_here: false, or_answers: true };
        let text = closed.because(rustix::io::Errno::PERM.raw_os_error()).to_string();
        assert!(text.contains("refused by a firewall of dtn1 itself"), "{text}");
        assert!(text.contains("nft insert rule inet filter output ip daddr 192.0.2.2 udp dport 7273 accept"), "{text}");
        assert!(!text.contains("input"), "{text}");
    }

    #[test]
    fn it_says_from_where_to_where_and_what_opens_the_way() {
        let text = closed("192.0.2.1", &[7_273, 7_274], PortsOption::PortsOfNode);
        for part in [
            "UDP from dtn1 (192.0.2.1) to dtn2 (192.0.2.2), ports 7273-7274, does not pass",
            "open UDP ports 7273-7274 for 192.0.2.1 on dtn2",
            "nft insert rule inet filter input ip saddr 192.0.2.1 udp dport 7273-7274 accept",
            "firewall-cmd --add-rich-rule='rule family=ipv4 source address=192.0.2.1 port port=7273-7274 protocol=udp accept'",
            "--ports of the node there",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let text = closed("fd96::1", &[7_273, 7_280], PortsOption::RemotePorts);
        assert!(text.contains("ip6 saddr fd96::1 udp dport { 7273, 7280 }") && text.contains("family=ipv6"), "{text}");
    }

    /// Three runs named three ports, which were other ones the next time.
    #[test]
    fn a_port_that_came_by_chance_is_not_to_be_opened() {
        for (option, words) in [
            (PortsOption::RemotePorts, "add --remote-ports 7273-7274"),
            (PortsOption::Ports, "add --ports 7273-7274"),
            (PortsOption::PortsOfNode, "start it with --ports 7273-7274"),
        ] {
            let text = closed("192.0.2.1", &[40_001, 50_002], option);
            assert!(text.contains("ports 40001,50002, does not pass") && text.contains(words), "{text}");
            assert!(text.contains("open UDP ports 7273-7274") && text.contains("dport 7273-7274"), "{text}");
        }
    }
}
