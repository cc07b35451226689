//! Next hops, interfaces and addresses from the kernel's tables, by rtnetlink.
//!
//! AF_XDP packets carry their own link headers, so somebody has to ask the kernel what it would
//! write there: the route's interface and gateway, the gateway's address on the link, a VLAN's tag.
//! This process does; the lanes get the answer. It asks again when the tables have changed
//! ([`events`]), and makes the kernel look for neighbours that it has lost or not seen for long
//! ([`asking`]). None of this takes privilege.
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

pub mod asking;
pub mod events;
pub mod interface;
mod number;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_link::kernel_bypass::NextHop;
use culvert_link::rtnetlink::{LINK_BYTES, NLM_F_DUMP, RouteSocket, attributes, text_of, u32_of};

use crate::next_hop::number::*;

const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
const NEIGHBOUR_BYTES: usize = 12;
/// What the kernel counts times to user space in: 100 a second, on every architecture that Culvert
/// runs on.
const TICK: Duration = Duration::from_millis(10);
/// A neighbor that has been silent this long is resolved again while it is in use.
const STALE_FOR_LONG: Duration = Duration::from_secs(30);

/// A socket for questions to the kernel's tables.
#[derive(Debug)]
pub struct Tables {
    socket: RouteSocket,
}

/// The way to a partner through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopRoute {
    /// The next hop, if the way leads through the interface and the neighbour is known.
    pub hop: Option<NextHop>,
    /// Whether the route leads through the interface and the kernel should be made to resolve the
    /// neighbor: it is unknown, or has been silent for a long time.
    pub wants_asking: bool,
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
    /// The bridge or bond that it belongs to.
    master: Option<u32>,
}

#[derive(Debug, Default)]
struct Route {
    interface: u32,
    gateway: Option<IpAddr>,
    source: Option<IpAddr>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Neighbour {
    state: u16,
    mac: Option<[u8; 6]>,
    /// How long ago it was known to be right.
    confirmed: Duration,
}

impl Neighbour {
    fn usable_mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state & NUD_USABLE != 0)
    }

    /// Whether the kernel should be made to look for it. While it looks already, it need not.
    fn wants_asking(&self) -> bool {
        let is_old = self.state & NUD_STALE != 0 && self.confirmed >= STALE_FOR_LONG;
        is_old || self.state & (NUD_USABLE | NUD_INCOMPLETE) == 0
    }
}

impl Tables {
    /// Opens the socket.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: RouteSocket::open()? })
    }

    /// The next hop of packets to `to`, if they leave through `interface` (a VLAN on it included)
    /// and it is known by now.
    ///
    /// # Errors
    /// The operating system's; no route is no error.
    pub fn next_hop(&self, to: IpAddr, interface: u32) -> io::Result<Option<NextHop>> {
        Ok(self.way(to, interface)?.hop)
    }

    /// The way of packets to `to` through `interface`, or a VLAN on it.
    ///
    /// # Errors
    /// The operating system's; no route is no error.
    pub fn way(&self, to: IpAddr, interface: u32) -> io::Result<NextHopRoute> {
        let Some(route) = self.route(to)? else { return Ok(NextHopRoute::default()) };
        let Some(link) = self.links(Some(route.interface))?.pop() else { return Ok(NextHopRoute::default()) };
        let (below, vlan) = link.vlan.map_or((link.index, None), |(below, tag)| (below, Some(tag)));
        if below != interface || link.flags & IFF_UP == 0 {
            return Ok(NextHopRoute::default());
        }
        let neighbour = self.neighbour(route.gateway.unwrap_or(to), route.interface)?;
        let hop = match (route.source, link.mac, neighbour.usable_mac()) {
            (Some(source), Some(source_mac), Some(destination_mac)) => {
                Some(NextHop { source_mac, destination_mac, vlan, source, mtu: link.mtu })
            }
            _ => None,
        };
        Ok(NextHopRoute { hop, wants_asking: neighbour.wants_asking() })
    }

    fn route(&self, to: IpAddr) -> io::Result<Option<Route>> {
        let (family, octets) = family_and_octets(to);
        let mut request = [0u8; ROUTE_BYTES];
        request[0] = family;
        request[1] = if to.is_ipv4() { 32 } else { 128 };
        let answers = match self.socket.ask(RTM_GETROUTE, 0, &request, &[(RTA_DST, &octets)]) {
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

    /// What is known about a neighbor; nothing, if it was never resolved.
    fn neighbour(&self, address: IpAddr, interface: u32) -> io::Result<Neighbour> {
        let (family, octets) = family_and_octets(address);
        let mut request = [0u8; NEIGHBOUR_BYTES];
        request[0] = family;
        request[4..8].copy_from_slice(&interface.to_ne_bytes());
        match self.socket.ask(RTM_GETNEIGH, 0, &request, &[(NDA_DST, &octets)]) {
            Ok(answers) => Ok(answers.first().map(|answer| neighbour_of(answer)).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Neighbour::default()),
            Err(error) => Err(error),
        }
    }

    /// One link, or all.
    fn links(&self, index: Option<u32>) -> io::Result<Vec<Link>> {
        Ok(self.socket.ask_links(index)?.iter().filter_map(|answer| link_of(answer)).collect())
    }

    /// The host's addresses, each with its interface.
    fn addresses(&self) -> io::Result<Vec<(u32, IpAddr)>> {
        let answers = self.socket.ask(RTM_GETADDR, NLM_F_DUMP, &[0; ADDRESS_BYTES], &[])?;
        let address = |answer: &Vec<u8>| {
            let interface = u32_of(answer.get(4..8)?)?;
            let all: Vec<_> = attributes(answer.get(ADDRESS_BYTES..)?).collect();
            // Of a point-to-point link `IFA_ADDRESS` is the other end.
            let of = |wanted| all.iter().find(|&&(kind, _)| kind == wanted).and_then(|(_, value)| address_of(value));
            Some((interface, of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?))
        };
        Ok(answers.iter().filter_map(address).collect())
    }
}

fn neighbour_of(body: &[u8]) -> Neighbour {
    let state = body.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |state| u16::from_ne_bytes(*state));
    let mut neighbour = Neighbour { state, ..Neighbour::default() };
    for (kind, value) in attributes(body.get(NEIGHBOUR_BYTES..).unwrap_or_default()) {
        match kind {
            NDA_LLADDR => neighbour.mac = value.try_into().ok(),
            // `struct nda_cacheinfo` begins with it.
            NDA_CACHEINFO => {
                neighbour.confirmed = TICK.saturating_mul(value.get(..4).and_then(u32_of).unwrap_or(0));
            }
            _ => {}
        }
    }
    neighbour
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
            IFLA_MASTER => link.master = u32_of(value),
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
        assert_eq!(tables.way("127.0.0.1".parse().unwrap(), loopback.index).unwrap(), NextHopRoute::default());
    }

    #[test]
    fn neighbours_are_asked_after_when_nobody_knows_them_any_more() {
        let neighbour =
            |state, seconds| Neighbour { state, confirmed: Duration::from_secs(seconds), mac: Some([2; 6]) };
        let (reachable, failed, permanent) = (0x02, 0x20, 0x80);
        for (state, seconds, wants_asking, is_usable) in [
            (0, 0, true, false),
            (NUD_INCOMPLETE, 100, false, false),
            (reachable, 100, false, true),
            (NUD_STALE, 29, false, true),
            (NUD_STALE, 30, true, true),
            (failed, 0, true, false),
            (permanent, 10_000, false, true),
        ] {
            let neighbour = neighbour(state, seconds);
            assert_eq!(
                (neighbour.wants_asking(), neighbour.usable_mac().is_some()),
                (wants_asking, is_usable),
                "{neighbour:?}"
            );
        }
    }

    #[test]
    fn a_neighbours_age_and_address_are_read() {
        let mut body = vec![0u8; NEIGHBOUR_BYTES];
        body[8..10].copy_from_slice(&NUD_STALE.to_ne_bytes());
        let mut add = |kind: u16, value: &[u8]| {
            body.extend_from_slice(&(4 + value.len() as u16).to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(value);
            body.resize(body.len().next_multiple_of(4), 0);
        };
        add(NDA_LLADDR, &[2, 0, 0, 0, 0, 9]);
        add(NDA_CACHEINFO, &[3_100u32, 1, 2, 3].map(u32::to_ne_bytes).concat());
        let mac = Some([2, 0, 0, 0, 0, 9]);
        assert_eq!(neighbour_of(&body), Neighbour { state: NUD_STALE, mac, confirmed: Duration::from_secs(31) });
        assert_eq!(neighbour_of(&[]), Neighbour::default());
    }
}
