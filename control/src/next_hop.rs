//! Next hops, interfaces and addresses from the kernel's tables, by rtnetlink.
//!
//! AF_XDP packets carry their own link headers, so somebody has to ask the kernel what it would write there: the route's interface and
//! gateway, the gateway's address on the link, a VLAN's tag. This process does; the lanes get the answer. Nobody has to keep neighbours fresh:
//! the transfer's control connection goes the same way, and the kernel does it for that. Requests only read, which needs no
//! privilege.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use culvert_dataplane::datapath::af_xdp::headers::NextHop;
use culvert_dataplane::datapath::af_xdp::ladder::AfXdpStart;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Numbers of include/uapi/linux/rtnetlink.h, if_link.h, neighbour.h and netlink.h.
mod number {
    pub const RTM_GETLINK: u16 = 18;
    pub const RTM_GETADDR: u16 = 22;
    pub const RTM_GETROUTE: u16 = 26;
    pub const RTM_GETNEIGH: u16 = 30;
    pub const NLM_F_REQUEST: u16 = 1;
    pub const NLM_F_DUMP: u16 = 0x300;
    pub const NLMSG_ERROR: u16 = 2;
    pub const NLMSG_DONE: u16 = 3;
    pub const RTA_DST: u16 = 1;
    pub const RTA_OIF: u16 = 4;
    pub const RTA_GATEWAY: u16 = 5;
    pub const RTA_PREFSRC: u16 = 7;
    pub const RTA_VIA: u16 = 18;
    pub const RTN_UNICAST: u8 = 1;
    pub const NDA_DST: u16 = 1;
    pub const NDA_LLADDR: u16 = 2;
    /// Reachable, stale, delayed, probed, without need of a probe, permanent.
    pub const NUD_USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x40 | 0x80;
    pub const IFLA_ADDRESS: u16 = 1;
    pub const IFLA_IFNAME: u16 = 3;
    pub const IFLA_MTU: u16 = 4;
    pub const IFLA_LINK: u16 = 5;
    pub const IFLA_LINKINFO: u16 = 18;
    pub const IFLA_INFO_KIND: u16 = 1;
    pub const IFLA_INFO_DATA: u16 = 2;
    pub const IFLA_VLAN_ID: u16 = 1;
    pub const IFF_UP: u32 = 1;
    pub const IFF_LOOPBACK: u32 = 8;
    pub const IFA_ADDRESS: u16 = 1;
    pub const IFA_LOCAL: u16 = 2;
}
use number::*;

const HEADER_BYTES: usize = 16;
const LINK_BYTES: usize = 16;
const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
const NEIGHBOUR_BYTES: usize = 12;
/// The kernel's own limit for one part of a dump is 32 KiB.
const RECEIVE_BYTES: usize = 64 << 10;

/// A socket for questions to the kernel's tables.
#[derive(Debug)]
pub struct Tables {
    socket: OwnedFd,
}

/// A link.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    mac: Option<[u8; 6]>,
    mtu: u32,
    flags: u32,
    /// The link below, and the tag, of a VLAN link.
    vlan: Option<(u32, u16)>,
}

/// Why no interface can be used for AF_XDP.
#[derive(Debug, thiserror::Error)]
pub enum InterfaceError {
    /// The tables cannot be read.
    #[error("cannot read the kernel's tables of interfaces: {0}")]
    Tables(#[from] io::Error),
    /// No such interface.
    #[error("there is no interface '{0}': ip link shows those that there are")]
    Unknown(String),
    /// Which one?
    #[error("AF_XDP needs to know its interface and {found}: name it with --interface")]
    Unclear {
        /// What was found, in words.
        found: String,
    },
}

impl Tables {
    /// Opens the socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // 0, which is NETLINK_ROUTE.
            None,
        )?;
        // An answer comes at once or not at all.
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(std::time::Duration::from_secs(2)),
        )?;
        Ok(Self { socket })
    }

    /// The next hop of packets to `to`, if they leave through `interface` (a VLAN on it included) and it is known by now.
    ///
    /// # Errors
    /// The operating system's; no route is no error.
    pub fn next_hop(&self, to: IpAddr, interface: u32) -> io::Result<Option<NextHop>> {
        let Some(route) = self.route(to)? else { return Ok(None) };
        let Some(link) = self.links(Some(route.interface))?.pop() else { return Ok(None) };
        let (below, vlan) = link.vlan.map_or((link.index, None), |(below, tag)| (below, Some(tag)));
        if below != interface || link.flags & IFF_UP == 0 {
            return Ok(None);
        }
        let neighbour = self.neighbour(route.gateway.unwrap_or(to), route.interface)?;
        let (Some(source), Some(source_mac), Some(destination_mac)) = (route.source, link.mac, neighbour) else {
            return Ok(None);
        };
        Ok(Some(NextHop { source_mac, destination_mac, vlan, source, mtu: link.mtu }))
    }

    /// What the data plane needs to know of an interface: the named one, or else the only one that can be meant.
    ///
    /// # Errors
    /// [`InterfaceError`].
    pub fn interface(&self, name: Option<&str>) -> Result<AfXdpStart, InterfaceError> {
        let links = self.links(None)?;
        let addresses = self.addresses()?;
        let link = match name {
            Some(name) => {
                links.iter().find(|link| link.name == name).ok_or_else(|| InterfaceError::Unknown(name.to_owned()))?
            }
            None => only_candidate(&links, &addresses)?,
        };
        Ok(AfXdpStart {
            interface: link.index,
            name: link.name.clone(),
            queues: receive_queues(&link.name),
            mtu: link.mtu,
            addresses: addresses.into_iter().map(|(_, address)| address).collect(),
            only: None,
            busy_poll_us: None,
        })
    }

    fn route(&self, to: IpAddr) -> io::Result<Option<Route>> {
        let (family, octets) = family_and_octets(to);
        let mut request = [0u8; ROUTE_BYTES];
        request[0] = family;
        request[1] = octets.len() as u8 * 8;
        let answers = match self.ask(RTM_GETROUTE, 0, &request, &[(RTA_DST, &octets)]) {
            Ok(answers) => answers,
            // Unreachable, prohibited: no route.
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(answer) = answers.first() else { return Ok(None) };
        if answer.get(7) != Some(&RTN_UNICAST) {
            return Ok(None);
        }
        let mut route = Route::default();
        for (kind, value) in attributes(answer.get(ROUTE_BYTES..).unwrap_or_default()) {
            match kind {
                RTA_OIF => route.interface = u32_of(value).unwrap_or(0),
                RTA_GATEWAY => route.gateway = address_of(value),
                // A gateway of the other family: two bytes say which.
                RTA_VIA => route.gateway = value.get(2..).and_then(address_of),
                RTA_PREFSRC => route.source = address_of(value),
                _ => {}
            }
        }
        Ok(Some(route))
    }

    fn neighbour(&self, address: IpAddr, interface: u32) -> io::Result<Option<[u8; 6]>> {
        let (family, octets) = family_and_octets(address);
        let mut request = [0u8; NEIGHBOUR_BYTES];
        request[0] = family;
        request[4..8].copy_from_slice(&interface.to_ne_bytes());
        let answers = match self.ask(RTM_GETNEIGH, 0, &request, &[(NDA_DST, &octets)]) {
            Ok(answers) => answers,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let Some(answer) = answers.first() else { return Ok(None) };
        let state = answer.get(8..10).map_or(0, |state| u16::from_ne_bytes([state[0], state[1]]));
        if state & NUD_USABLE == 0 {
            return Ok(None);
        }
        let mut found = attributes(answer.get(NEIGHBOUR_BYTES..).unwrap_or_default());
        Ok(found.find(|&(kind, _)| kind == NDA_LLADDR).and_then(|(_, value)| value.try_into().ok()))
    }

    /// One link, or all.
    fn links(&self, index: Option<u32>) -> io::Result<Vec<Link>> {
        let mut request = [0u8; LINK_BYTES];
        request[4..8].copy_from_slice(&index.unwrap_or(0).to_ne_bytes());
        let flags = if index.is_some() { 0 } else { NLM_F_DUMP };
        Ok(self.ask(RTM_GETLINK, flags, &request, &[])?.iter().filter_map(|answer| link_of(answer)).collect())
    }

    /// The host's addresses, each with its interface.
    fn addresses(&self) -> io::Result<Vec<(u32, IpAddr)>> {
        let answers = self.ask(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_BYTES], &[])?;
        let address = |answer: &Vec<u8>| {
            let interface = u32_of(answer.get(4..8)?)?;
            let all: Vec<_> = attributes(answer.get(ADDRESS_BYTES..)?).collect();
            // Of a point-to-point link `IFA_ADDRESS` is the other end.
            let of = |wanted| all.iter().find(|&&(kind, _)| kind == wanted).and_then(|(_, value)| address_of(value));
            Some((interface, of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?))
        };
        Ok(answers.iter().filter_map(address).collect())
    }

    /// Asks, and returns the bodies of the answers.
    fn ask(&self, kind: u16, flags: u16, body: &[u8], attributes: &[(u16, &[u8])]) -> io::Result<Vec<Vec<u8>>> {
        let mut message = vec![0; HEADER_BYTES];
        message.extend_from_slice(body);
        for (kind, value) in attributes {
            message.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            message.extend_from_slice(&kind.to_ne_bytes());
            message.extend_from_slice(value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[6..8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        rustix::net::send(&self.socket, &message, SendFlags::empty())?;
        let mut answers = Vec::new();
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let (_, bytes) = rustix::net::recv(&self.socket, buffer.as_mut_slice(), RecvFlags::empty())?;
            for (kind, body) in messages(&buffer[..bytes.min(RECEIVE_BYTES)]) {
                match kind {
                    NLMSG_DONE => return Ok(answers),
                    NLMSG_ERROR => {
                        let errno = body.first_chunk().map_or(0, |bytes| i32::from_ne_bytes(*bytes));
                        return if errno == 0 { Ok(answers) } else { Err(io::Error::from_raw_os_error(-errno)) };
                    }
                    _ => answers.push(body.to_vec()),
                }
            }
            if flags & NLM_F_DUMP == 0 {
                return Ok(answers);
            }
        }
    }
}

#[derive(Debug, Default)]
struct Route {
    interface: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

/// The only interface that AF_XDP can mean: up, with an address, neither loopback nor the one of the caller's ssh connection.
fn only_candidate<'a>(links: &'a [Link], addresses: &[(u32, IpAddr)]) -> Result<&'a Link, InterfaceError> {
    let ssh = std::env::var("SSH_CONNECTION").ok();
    let ssh_address: Option<IpAddr> = ssh.and_then(|text| text.split(' ').nth(2)?.parse().ok());
    let carries_ssh = |link: &Link| addresses.iter().any(|&(index, at)| index == link.index && Some(at) == ssh_address);
    let can_be_meant = |link: &&Link| {
        link.flags & (IFF_UP | IFF_LOOPBACK) == IFF_UP
            && link.vlan.is_none()
            && addresses.iter().any(|&(index, _)| index == link.index)
            && !carries_ssh(link)
    };
    let candidates: Vec<&Link> = links.iter().filter(can_be_meant).collect();
    match candidates[..] {
        [link] => Ok(link),
        [] => Err(InterfaceError::Unclear { found: "none is up that does not carry this ssh connection".to_owned() }),
        _ => {
            let names: Vec<&str> = candidates.iter().map(|link| link.name.as_str()).collect();
            Err(InterfaceError::Unclear { found: format!("several are up ({})", names.join(", ")) })
        }
    }
}

/// The receive queues in use; 0 if there is no saying.
fn receive_queues(name: &str) -> u32 {
    let Ok(queues) = std::fs::read_dir(format!("/sys/class/net/{name}/queues")) else { return 0 };
    queues.flatten().filter(|queue| queue.file_name().to_string_lossy().starts_with("rx-")).count() as u32
}

fn link_of(body: &[u8]) -> Option<Link> {
    let mut link = Link { index: u32_of(body.get(4..8)?)?, flags: u32_of(body.get(8..12)?)?, ..Link::default() };
    let (mut below, mut tag) = (None, None);
    for (kind, value) in attributes(body.get(LINK_BYTES..)?) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().ok(),
            IFLA_IFNAME => link.name = text_of(value),
            IFLA_MTU => link.mtu = u32_of(value)?,
            IFLA_LINK => below = u32_of(value),
            IFLA_LINKINFO => tag = vlan_tag(value),
            _ => {}
        }
    }
    link.vlan = below.zip(tag);
    Some(link)
}

fn vlan_tag(info: &[u8]) -> Option<u16> {
    let of = |wanted| attributes(info).find(|&(kind, _)| kind == wanted).map(|(_, value)| value);
    if text_of(of(IFLA_INFO_KIND)?) != "vlan" {
        return None;
    }
    let (_, tag) = attributes(of(IFLA_INFO_DATA)?).find(|&(kind, _)| kind == IFLA_VLAN_ID)?;
    Some(u16::from_ne_bytes(tag.try_into().ok()?))
}

fn family_and_octets(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(address) => (2, address.octets().to_vec()),
        IpAddr::V6(address) => (10, address.octets().to_vec()),
    }
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(octets).into());
    }
    <[u8; 16]>::try_from(octets).ok().map(|octets| Ipv6Addr::from(octets).into())
}

fn u32_of(value: &[u8]) -> Option<u32> {
    value.try_into().ok().map(u32::from_ne_bytes)
}

fn text_of(value: &[u8]) -> String {
    String::from_utf8_lossy(value).trim_end_matches('\0').to_owned()
}

/// The messages of a datagram: kind and body.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = u32_of(rest.get(..4)?)? as usize;
        let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
        let body = rest.get(HEADER_BYTES..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// Attributes: kind without its flags, and value.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(rest.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(rest.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_a_link_and_no_way_out() {
        let tables = Tables::open().unwrap();
        let links = tables.links(None).unwrap();
        let loopback = links.iter().find(|link| link.flags & IFF_LOOPBACK != 0).unwrap();
        assert_eq!(loopback.name, "lo");
        assert!(loopback.mtu >= 1_280);
        assert_eq!(tables.links(Some(loopback.index)).unwrap(), std::slice::from_ref(loopback));
        // A local route is none that a packet could leave by.
        assert_eq!(tables.next_hop("127.0.0.1".parse().unwrap(), loopback.index).unwrap(), None);
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let error = Tables::open().unwrap().interface(Some("nosuch0")).unwrap_err();
        assert!(error.to_string().contains("nosuch0"), "{error}");
    }

    #[test]
    fn the_interface_must_be_clear() {
        let link = |index, flags| Link { index, name: format!("n{index}"), flags, ..Link::default() };
        let links = [link(1, IFF_UP | IFF_LOOPBACK), link(2, IFF_UP), link(3, IFF_UP), link(4, 0)];
        let at = |index, last| (index, IpAddr::from([10, 0, 0, last]));
        assert_eq!(only_candidate(&links, &[at(1, 1), at(2, 2), at(4, 4)]).unwrap().index, 2);
        let error = only_candidate(&links, &[at(2, 2), at(3, 3)]).unwrap_err().to_string();
        assert!(error.contains("n2, n3") && error.contains("--interface"), "{error}");
        assert!(only_candidate(&links, &[]).is_err());
    }

    #[test]
    fn what_is_cut_ends_the_list() {
        let whole = [8, 0, 1, 0, 1, 2, 3, 4, 8, 0, 2, 0, 5, 6, 7, 8];
        assert_eq!(attributes(&whole).count(), 2);
        for length in 0..whole.len() {
            assert!(attributes(&whole[..length]).count() < 2);
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
    }
}
