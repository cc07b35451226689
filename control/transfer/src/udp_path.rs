//! The message for two hosts between which TCP passes and UDP does not: which direction is blocked,
//! which ports, and how to open them.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use culvert_model::address::DEFAULT_PORT;
use culvert_plane::ports::show_ports;
use culvert_protocol::counted::noun;
use culvert_system::os_error;

use crate::TransferContext;
use crate::addresses::canonical;
use crate::ends::PortsOption;

/// The first port that the operating system assigns by itself (net.ipv4.ip_local_port_range):
/// nobody opens one of those in a firewall.
pub(super) const RANDOM_PORTS_BEGIN: u16 = 32_768;

/// A path that has not opened after this long is reported. It is not an error yet: the host may be
/// busy, or the path long.
pub const UNOPENED_NOTICE: Duration = Duration::from_secs(3);
/// A path that was open and has delivered nothing for this long is reported.
pub const OUTAGE_NOTICE: Duration = Duration::from_secs(5);

/// A direction that UDP does not pass.
#[derive(Debug)]
pub struct ClosedPath {
    way: PathDirection,
    reason: Option<String>,
    /// Whether the host that sends refuses it itself.
    is_refused_here: bool,
    known: Known,
}

/// From one host to ports of another.
#[derive(Clone, Debug)]
struct PathDirection {
    from: (String, IpAddr),
    to: (String, IpAddr),
    ports: Vec<u16>,
    option: PortsOption,
}

/// What is known of the reverse direction, which carries the answers.
#[derive(Debug)]
enum Known {
    /// Nothing, and nothing depends on it.
    Nothing,
    /// It is open.
    Open,
    /// Nothing has arrived on it: both directions may be closed, or only the forward one.
    Silent(PathDirection),
}

/// Separates the diagnosis from the remedy. A message that contains it says everything already.
pub const REMEDY: &str = ": open UDP ";

impl ClosedPath {
    /// From this host, which sends, to these ports of the partner's. `was_heard` says whether
    /// anything comes from there: the receiver sends the first datagrams and waits for nothing.
    #[must_use]
    pub fn to_partner(context: &TransferContext, ports: Vec<u16>, was_heard: bool) -> Self {
        let way = PathDirection { from: here(context), to: partner(context), ports, option: context.ends.option };
        let back = || {
            let ports = context.plane.lanes().iter().map(|lane| lane.port).collect();
            PathDirection { from: partner(context), to: here(context), ports, option: context.ends.senders_option }
        };
        let known = if was_heard { Known::Open } else { Known::Silent(back()) };
        Self { way, reason: None, is_refused_here: false, known }
    }

    /// From this host to the partner's lanes: it was open.
    #[must_use]
    pub fn closed_since(context: &TransferContext) -> Self {
        let (ports, option) = (context.partner_lane_ports.clone(), context.ends.option);
        let way = PathDirection { from: here(context), to: partner(context), ports, option };
        Self { way, reason: None, is_refused_here: false, known: Known::Nothing }
    }

    /// From the partner, which sends, to this host's lanes.
    #[must_use]
    pub fn from_partner(context: &TransferContext, ports: Vec<u16>) -> Self {
        let way = PathDirection { from: partner(context), to: here(context), ports, option: context.ends.option };
        Self { way, reason: None, is_refused_here: false, known: Known::Nothing }
    }

    /// From this host, which receives, to the partner's lanes, whose probes come.
    #[must_use]
    pub fn of_answers(context: &TransferContext) -> Self {
        let (ports, option) = (context.partner_lane_ports.clone(), context.ends.senders_option);
        let way = PathDirection { from: here(context), to: partner(context), ports, option };
        Self { way, reason: None, is_refused_here: false, known: Known::Open }
    }

    /// Adds the error with which the operating system answers.
    #[must_use]
    pub fn because(self, errno: i32) -> Self {
        // The error of sendmsg(2) if the host's own output chain drops or rejects.
        let is_refused_here = errno == rustix::io::Errno::PERM.raw_os_error();
        let reason = (errno != 0).then(|| os_error::words(os_error::errno_of_number(errno)));
        Self { reason, is_refused_here, ..self }
    }
}

impl PathDirection {
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

    /// The ports to open, as they are shown, behind their noun.
    fn shown_ports(&self) -> String {
        let ports = self.lasting_ports();
        format!("{} {}", noun(ports.len(), "port"), show_ports(&ports))
    }

    /// The option that selects its ports. Random ports change with every transfer, so they need it.
    fn naming(&self) -> String {
        let lasting = show_ports(&self.lasting_ports());
        let port = noun(self.ports.len(), "port");
        match (self.option, self.are_random()) {
            (PortsOption::RemotePorts, true) => {
                format!("the next transfer would use other ports: add --remote-ports {lasting}")
            }
            (PortsOption::Ports, true) => {
                format!("the next transfer would use other ports: add --ports {lasting}")
            }
            (PortsOption::PortsOfNode, true) => {
                format!("the node there chose its {port} at random: start it with --ports {lasting}")
            }
            (PortsOption::RemotePorts, false) => "--remote-ports selects others".to_owned(),
            (PortsOption::Ports, false) => "--ports selects others".to_owned(),
            (PortsOption::PortsOfNode, false) => "--ports of the node there selects others".to_owned(),
        }
    }

    /// How to open it on the host where it ends, and the option that selects its ports.
    fn opening(&self) -> String {
        let ((_, from), (to_name, _)) = (&self.from, &self.to);
        let lasting = show_ports(&self.lasting_ports());
        format!(
            "{} for {from} on {to_name} and in the firewalls in between ({}; {}); {}",
            self.shown_ports(),
            nftables("udp", *from, &lasting),
            firewalld("udp", *from, &lasting),
            self.naming()
        )
    }

    /// How to open it on the host where it begins, and the option that selects its ports.
    fn opening_output(&self) -> String {
        let (_, to) = &self.to;
        let (ports, family) = (show_ports(&self.lasting_ports()), family_of(*to));
        let rule = rich_rules("udp", ("destination", *to), &ports);
        format!(
            "{} for what it sends (nftables: nft insert rule inet filter output {family} daddr {to} udp dport {} \
             accept; firewalld: firewall-cmd --policy NAME {rule}, NAME being its policy for HOST); {}",
            self.shown_ports(),
            set_of(&ports),
            self.naming()
        )
    }
}

impl fmt::Display for ClosedPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PathDirection { from: (from_name, from), to: (to_name, to), ports, .. } = &self.way;
        let port = noun(ports.len(), "port");
        write!(f, "UDP from {from_name} ({from}) to {to_name} ({to}), {port} {}, ", show_ports(ports))?;
        if self.is_refused_here {
            let opening = self.way.opening_output();
            return write!(f, "is blocked by a firewall on {from_name} itself{REMEDY}{opening}");
        }
        match (&self.reason, &self.known) {
            (Some(reason), _) => write!(f, "does not get through ({reason})")?,
            (None, Known::Nothing) => f.write_str("does not get through, although TCP does")?,
            (None, Known::Open) => write!(f, "does not get through, although TCP and UDP from {to_name} do")?,
            (None, Known::Silent(_)) => {
                f.write_str("does not get through, or the answers to it do not, although TCP does")?;
            }
        }
        write!(f, "{REMEDY}{}", self.way.opening())?;
        match &self.known {
            Known::Silent(back) => write!(f, "; and for the answers UDP {}", back.opening()),
            Known::Open | Known::Nothing => Ok(()),
        }
    }
}

/// A rule for nft(8), to be inserted before the existing ones.
pub(super) fn nftables(protocol: &str, from: IpAddr, ports: &str) -> String {
    let (family, ports) = (family_of(from), set_of(ports));
    format!("nftables: nft insert rule inet filter input {family} saddr {from} {protocol} dport {ports} accept")
}

/// As [`nftables`], for firewalld.
pub(super) fn firewalld(protocol: &str, from: IpAddr, ports: &str) -> String {
    format!("firewalld: firewall-cmd {}", rich_rules(protocol, ("source", from), ports))
}

fn here(context: &TransferContext) -> (String, IpAddr) {
    (context.ends.here.clone(), canonical(context.connection.local_address.ip()))
}

fn partner(context: &TransferContext) -> (String, IpAddr) {
    (context.connection.partner_name.clone(), canonical(context.connection.address.ip()))
}

const fn family_of(address: IpAddr) -> &'static str {
    if address.is_ipv6() { "ip6" } else { "ip" }
}

/// Ports as nft(8) reads them.
fn set_of(ports: &str) -> String {
    if ports.contains(',') { format!("{{ {} }}", ports.replace(',', ", ")) } else { ports.to_owned() }
}

/// Rules for firewall-cmd(1): one for each range. An end is `source` or `destination`, and its
/// address.
fn rich_rules(protocol: &str, (end, address): (&str, IpAddr), ports: &str) -> String {
    let family = if address.is_ipv6() { "ipv6" } else { "ipv4" };
    let rules: Vec<String> = ports
        .split(',')
        .map(|range| {
            format!(
                "--add-rich-rule='rule family={family} {end} address={address} port port={range} protocol={protocol} accept'"
            )
        })
        .collect();
    rules.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(from: &str, ports: &[u16], option: PortsOption) -> PathDirection {
        let end = |name: &str, address: &str| (name.to_owned(), address.parse().unwrap());
        PathDirection { from: end("dtn1", from), to: end("dtn2", "192.0.2.2"), ports: ports.to_vec(), option }
    }

    fn closed(from: &str, ports: &[u16], option: PortsOption) -> String {
        let way = way(from, ports, option);
        ClosedPath { way, reason: None, is_refused_here: false, known: Known::Nothing }.to_string()
    }

    #[test]
    fn what_this_host_refuses_to_send_is_not_blamed_on_the_other() {
        let way = way("192.0.2.1", &[7_273], PortsOption::RemotePorts);
        let closed = ClosedPath { way, reason: None, is_refused_here: false, known: Known::Nothing };
        let text = closed.because(rustix::io::Errno::PERM.raw_os_error()).to_string();
        assert!(text.contains("blocked by a firewall on dtn1 itself"), "{text}");
        assert!(text.contains("nft insert rule inet filter output ip daddr 192.0.2.2 udp dport 7273 accept"), "{text}");
        assert!(!text.contains("input"), "{text}");
    }

    /// The next transfer had another port, which the rule did not open.
    #[test]
    fn what_opens_this_hosts_output_is_for_the_next_transfer_too() {
        let way = way("192.0.2.1", &[40_001], PortsOption::RemotePorts);
        let text = ClosedPath { way, reason: None, is_refused_here: true, known: Known::Nothing }.to_string();
        for part in [
            "output ip daddr 192.0.2.2 udp dport 7273 accept;",
            "destination address=192.0.2.2 port port=7273 protocol=udp accept",
            "use other ports: add --remote-ports 7273",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    /// The way of the answers was the closed one, and the other was to be opened.
    #[test]
    fn where_nothing_comes_back_both_ways_are_to_be_opened() {
        let back = PathDirection {
            from: ("dtn2".to_owned(), "192.0.2.2".parse().unwrap()),
            to: ("dtn1".to_owned(), "192.0.2.1".parse().unwrap()),
            ports: vec![7_280],
            option: PortsOption::Ports,
        };
        let way = way("192.0.2.1", &[7_273], PortsOption::RemotePorts);
        let text = ClosedPath { way, reason: None, is_refused_here: false, known: Known::Silent(back) }.to_string();
        assert!(text.contains("or the answers to it do not"), "{text}");
        assert!(text.contains("saddr 192.0.2.1 udp dport 7273") && text.contains("saddr 192.0.2.2 udp dport 7280"));
        assert_eq!(text.matches(REMEDY).count(), 1, "{text}");
    }

    #[test]
    fn it_says_from_where_to_where_and_what_opens_the_way() {
        let text = closed("192.0.2.1", &[7_273, 7_274], PortsOption::PortsOfNode);
        for part in [
            "UDP from dtn1 (192.0.2.1) to dtn2 (192.0.2.2), ports 7273-7274, does not get through",
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
            assert!(text.contains("ports 40001,50002, does not get through") && text.contains(words), "{text}");
            assert!(text.contains("open UDP ports 7273-7274") && text.contains("dport 7273-7274"), "{text}");
        }
    }
}
