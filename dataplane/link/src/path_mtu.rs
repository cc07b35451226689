//! The MTU of the first link towards a partner, from the kernel's tables of routes and links.
//!
//! The kernel's idea of the path beyond that link is ignored, because anybody can change it. One
//! forged ICMP message ("fragmentation needed", "packet too big") sets the MTU of a whole address
//! for ten minutes (`net.ipv4.route.mtu_expires`), down to 552 bytes or whatever `min_pmtu` says,
//! and `IP_MTU`, `IPV6_MTU` and `ip route get` all report that number. The flow probes the path
//! itself (RFC 8899), so ICMP has nothing to add.

use std::io;
use std::net::{IpAddr, SocketAddr};

use culvert_protocol::path_mtu::DATAGRAM_BYTES_MIN;

use crate::rtnetlink::{LINK_BYTES, RouteSocket, attributes, u32_of};

/// The largest datagram: the most that crosses as one packet on both families (measured; of one
/// byte more the kernel makes two packets before the device, and nothing is joined on the other
/// side).
pub const DATAGRAM_BYTES_MAX: u16 = 65_473;
// Numbers of include/uapi/linux/rtnetlink.h and if_link.h.
const RTM_GETROUTE: u16 = 26;
/// Bytes of `struct rtmsg`, and where its flags stand.
const ROUTE_BYTES: usize = 12;
const FLAGS_OFFSET: usize = 8;
/// Asks for the route as it was configured: without what the kernel learned since (Linux 4.13).
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_METRICS: u16 = 8;
const RTAX_MTU: u16 = 2;
const IFLA_MTU: u16 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The largest UDP payload that leaves this host for `partner` in one packet: by the MTU of the
/// interface that the route leads over, or by the route's own if an admin gave it a smaller one.
///
/// # Errors
/// The operating system's, for instance that there is no route.
pub fn datagram_bytes_towards(partner: SocketAddr) -> io::Result<u16> {
    let socket = RouteSocket::open()?;
    let interface =
        route(&socket, partner, 0)?.interface.ok_or_else(|| io::Error::other("the route has no interface"))?;
    let link_mtu = link_mtu(&socket, interface)?;
    // A kernel that does not know the question has no answer to it; the interface's is one.
    let route_mtu = route(&socket, partner, RTM_F_FIB_MATCH).ok().and_then(|route| route.mtu);
    let mtu = route_mtu.filter(|&mtu| mtu > 0).map_or(link_mtu, |mtu| mtu.min(link_mtu));
    let bytes = mtu.saturating_sub(header_bytes(partner.ip())).min(u32::from(DATAGRAM_BYTES_MAX));
    u16::try_from(bytes).map_err(io::Error::other)
}

/// The least MTU of an interface over which a partner can be sent to.
#[must_use]
pub const fn mtu_min(partner: IpAddr) -> u32 {
    DATAGRAM_BYTES_MIN as u32 + header_bytes(partner)
}

/// Bytes of the IP and UDP headers, without options.
#[must_use]
pub const fn header_bytes(partner: IpAddr) -> u32 {
    if partner.is_ipv6() { 40 + 8 } else { 20 + 8 }
}

#[derive(Debug, Default)]
struct Route {
    interface: Option<u32>,
    mtu: Option<u32>,
}

fn route(socket: &RouteSocket, to: SocketAddr, flags: u32) -> io::Result<Route> {
    let mut request = [0u8; ROUTE_BYTES];
    request[FLAGS_OFFSET..].copy_from_slice(&flags.to_ne_bytes());
    let octets = match to.ip() {
        IpAddr::V4(ip) => {
            request[0] = AF_INET;
            ip.octets().to_vec()
        }
        IpAddr::V6(ip) => {
            request[0] = AF_INET6;
            ip.octets().to_vec()
        }
    };
    request[1] = octets.len() as u8 * 8;
    // A link-local address is one only together with its interface.
    let scope = match to {
        SocketAddr::V6(to) if to.scope_id() != 0 => Some(to.scope_id().to_ne_bytes()),
        _ => None,
    };
    let mut asked: Vec<(u16, &[u8])> = vec![(RTA_DST, &octets)];
    asked.extend(scope.as_ref().map(|scope| (RTA_OIF, &scope[..])));
    let answers = socket.ask(RTM_GETROUTE, 0, &request, &asked)?;
    let answer = answers.first().and_then(|answer| answer.get(ROUTE_BYTES..)).unwrap_or_default();
    let mut route = Route::default();
    for (kind, value) in attributes(answer) {
        match kind {
            RTA_OIF => route.interface = u32_of(value),
            RTA_METRICS => route.mtu = u32_attribute(value, RTAX_MTU),
            _ => {}
        }
    }
    Ok(route)
}

fn link_mtu(socket: &RouteSocket, interface: u32) -> io::Result<u32> {
    let answers = socket.ask_links(Some(interface))?;
    let link = answers.first().and_then(|answer| answer.get(LINK_BYTES..)).unwrap_or_default();
    u32_attribute(link, IFLA_MTU).ok_or_else(|| io::Error::other("the interface has no MTU"))
}

fn u32_attribute(bytes: &[u8], wanted: u16) -> Option<u32> {
    attributes(bytes).find(|&(kind, _)| kind == wanted).and_then(|(_, value)| u32_of(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_carries_whole_super_buffers() {
        for (partner, headers) in [("127.0.0.1:9", 28), ("[::1]:9", 48)] {
            let partner: SocketAddr = partner.parse().unwrap();
            let Ok(bytes) = datagram_bytes_towards(partner) else {
                assert!(partner.is_ipv6(), "there is no way to {partner}");
                eprintln!("skipped: this host has no {partner}");
                continue;
            };
            let mtu = std::fs::read_to_string("/sys/class/net/lo/mtu").unwrap().trim().parse::<usize>().unwrap();
            assert_eq!(usize::from(bytes), (mtu - headers).min(usize::from(DATAGRAM_BYTES_MAX)));
        }
    }

    #[test]
    fn the_least_mtu_has_room_for_the_least_segment() {
        assert_eq!((mtu_min("10.0.0.1".parse().unwrap()), mtu_min("fd00::1".parse().unwrap())), (588, 608));
    }
}
