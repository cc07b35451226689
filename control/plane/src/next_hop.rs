//! Next hops, interfaces and addresses from the kernel's tables, over rtnetlink.
//!
//! AF_XDP packets carry their own link headers, which the kernel would otherwise write: the route's
//! interface and gateway give the gateway's address on the link and a VLAN's tag. This process asks
//! the kernel for them and tells the lanes. It asks again when the tables have changed
//! ([`table_changes`]), and makes the kernel resolve neighbors that it has lost or not heard for
//! long ([`neighbor_prober`]). None of this needs privileges.
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

mod constants;
pub mod interface;
pub mod neighbor_prober;
pub mod table_changes;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use culvert_link::kernel_bypass::NextHop;
use culvert_link::rtnetlink::{LINK_BYTES, NLM_F_DUMP, RouteSocket, attributes, text_of, u32_of};

use crate::next_hop::constants::*;

const ADDRESS_BYTES: usize = 8;
const ROUTE_BYTES: usize = 12;
const NEIGHBOR_BYTES: usize = 12;
/// The unit in which the kernel reports times to user space (USER_HZ): 100 per second on every
/// architecture that Culvert runs on.
const TICK: Duration = Duration::from_millis(10);
/// A neighbor that has been silent this long is resolved again while it is in use.
const STALE_FOR_LONG: Duration = Duration::from_secs(30);

/// A socket for requests to the kernel's tables.
#[derive(Debug)]
pub struct Tables {
    socket: RouteSocket,
}

/// The route to a partner through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopRoute {
    /// The next hop, if the route leads through the interface and the neighbor is known.
    pub hop: Option<NextHop>,
    /// Whether the route leads through the interface and the kernel should be made to resolve the
    /// neighbor: it is unknown, or has been silent for a long time.
    pub needs_probe: bool,
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
struct Neighbor {
    state: u16,
    mac: Option<[u8; 6]>,
    /// How long ago the kernel last had a confirmation of its address.
    confirmed: Duration,
}

impl Neighbor {
    fn usable_mac(&self) -> Option<[u8; 6]> {
        self.mac.filter(|_| self.state & NUD_USABLE != 0)
    }

    /// Whether the kernel should be made to resolve it; not while the kernel already does.
    fn needs_probe(&self) -> bool {
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

    /// The next hop of packets to `to`, if they leave through `interface` or a VLAN on it, and the
    /// neighbor is known.
    ///
    /// # Errors
    /// The operating system's; no route is no error.
    pub fn next_hop(&self, to: IpAddr, interface: u32) -> io::Result<Option<NextHop>> {
        Ok(self.next_hop_route(to, interface)?.hop)
    }

    /// The route of packets to `to` through `interface`, or a VLAN on it.
    ///
    /// # Errors
    /// The operating system's; no route is no error.
    pub fn next_hop_route(&self, to: IpAddr, interface: u32) -> io::Result<NextHopRoute> {
        let Some(route) = self.route(to)? else { return Ok(NextHopRoute::default()) };
        let Some(link) = self.links(Some(route.interface))?.pop() else { return Ok(NextHopRoute::default()) };
        let (below, vlan) = link.vlan.map_or((link.index, None), |(below, tag)| (below, Some(tag)));
        if below != interface || link.flags & IFF_UP == 0 {
            return Ok(NextHopRoute::default());
        }
        let neighbor = self.neighbor(route.gateway.unwrap_or(to), route.interface)?;
        let hop = match (route.source, link.mac, neighbor.usable_mac()) {
            (Some(source), Some(source_mac), Some(destination_mac)) => {
                Some(NextHop { source_mac, destination_mac, vlan, source, mtu: link.mtu })
            }
            _ => None,
        };
        Ok(NextHopRoute { hop, needs_probe: neighbor.needs_probe() })
    }

    fn route(&self, to: IpAddr) -> io::Result<Option<Route>> {
        let (family, octets) = family_and_octets(to);
        let mut request = [0u8; ROUTE_BYTES];
        request[0] = family;
        request[1] = if to.is_ipv4() { 32 } else { 128 };
        let answers = match self.socket.ask(RTM_GETROUTE, 0, &request, &[(RTA_DST, &octets)]) {
            Ok(answers) => answers,
            // Unreachable or prohibited: there is no route.
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
                // A gateway of the other address family, which the first two bytes name.
                RTA_VIA => route.gateway = value.get(2..).and_then(address_of),
                RTA_PREFSRC => route.source = address_of(value),
                _ => {}
            }
        }
        Ok(Some(route))
    }

    /// The kernel's entry of a neighbor; the default if it was never resolved.
    fn neighbor(&self, address: IpAddr, interface: u32) -> io::Result<Neighbor> {
        let (family, octets) = family_and_octets(address);
        let mut request = [0u8; NEIGHBOR_BYTES];
        request[0] = family;
        request[4..8].copy_from_slice(&interface.to_ne_bytes());
        match self.socket.ask(RTM_GETNEIGH, 0, &request, &[(NDA_DST, &octets)]) {
            Ok(answers) => Ok(answers.first().map(|answer| neighbor_of(answer)).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Neighbor::default()),
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
            // On a point-to-point link `IFA_ADDRESS` is the other end's.
            let of = |wanted| all.iter().find(|&&(kind, _)| kind == wanted).and_then(|(_, value)| address_of(value));
            Some((interface, of(IFA_LOCAL).or_else(|| of(IFA_ADDRESS))?))
        };
        Ok(answers.iter().filter_map(address).collect())
    }
}

fn neighbor_of(body: &[u8]) -> Neighbor {
    let state = body.get(8..).and_then(<[u8]>::first_chunk).map_or(0, |state| u16::from_ne_bytes(*state));
    let mut neighbor = Neighbor { state, ..Neighbor::default() };
    for (kind, value) in attributes(body.get(NEIGHBOR_BYTES..).unwrap_or_default()) {
        match kind {
            NDA_LLADDR => neighbor.mac = value.try_into().ok(),
            // `ndm_confirmed` is the first field of `struct nda_cacheinfo`.
            NDA_CACHEINFO => {
                neighbor.confirmed = TICK.saturating_mul(value.get(..4).and_then(u32_of).unwrap_or(0));
            }
            _ => {}
        }
    }
    neighbor
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
    fn loopback_is_a_link_without_next_hops() {
        let tables = Tables::open().unwrap();
        let links = tables.links(None).unwrap();
        let loopback = links.iter().find(|link| link.flags & IFF_LOOPBACK != 0).unwrap();
        assert_eq!(loopback.name, "lo");
        assert!(loopback.mtu >= 1_280);
        assert_eq!(tables.links(Some(loopback.index)).unwrap(), std::slice::from_ref(loopback));
        // Packets of a local route leave through no link.
        let route = tables.next_hop_route("127.0.0.1".parse().unwrap(), loopback.index).unwrap();
        assert_eq!(route, NextHopRoute::default());
    }

    #[test]
    fn neighbors_that_are_unknown_or_long_stale_need_a_probe() {
        let neighbor = |state, seconds| Neighbor { state, confirmed: Duration::from_secs(seconds), mac: Some([2; 6]) };
        let (reachable, failed, permanent) = (0x02, 0x20, 0x80);
        for (state, seconds, needs_probe, is_usable) in [
            (0, 0, true, false),
            (NUD_INCOMPLETE, 100, false, false),
            (reachable, 100, false, true),
            (NUD_STALE, 29, false, true),
            (NUD_STALE, 30, true, true),
            (failed, 0, true, false),
            (permanent, 10_000, false, true),
        ] {
            let neighbor = neighbor(state, seconds);
            let found = (neighbor.needs_probe(), neighbor.usable_mac().is_some());
            assert_eq!(found, (needs_probe, is_usable), "{neighbor:?}");
        }
    }

    #[test]
    fn a_neighbors_age_and_address_are_read() {
        let mut body = vec![0u8; NEIGHBOR_BYTES];
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
        assert_eq!(neighbor_of(&body), Neighbor { state: NUD_STALE, mac, confirmed: Duration::from_secs(31) });
        assert_eq!(neighbor_of(&[]), Neighbor::default());
    }
}
