//! Constants of include/uapi/linux/rtnetlink.h, if_link.h, if_addr.h and neighbour.h.

pub const RTM_GETADDR: u16 = 22;
pub const RTM_GETROUTE: u16 = 26;
pub const RTM_GETNEIGH: u16 = 30;
pub const RTA_DST: u16 = 1;
pub const RTA_OIF: u16 = 4;
pub const RTA_GATEWAY: u16 = 5;
pub const RTA_PREFSRC: u16 = 7;
pub const RTA_VIA: u16 = 18;
pub const RTN_UNICAST: u8 = 1;
pub const NDA_DST: u16 = 1;
pub const NDA_LLADDR: u16 = 2;
pub const NDA_CACHEINFO: u16 = 3;
/// The kernel waits for the neighbor's answer.
pub const NUD_INCOMPLETE: u16 = 0x01;
/// The address was confirmed, but not lately.
pub const NUD_STALE: u16 = 0x04;
/// Reachable, stale, delay, probe, noarp, permanent: states in which the address may be used.
pub const NUD_USABLE: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80;
pub const IFLA_ADDRESS: u16 = 1;
pub const IFLA_IFNAME: u16 = 3;
pub const IFLA_MTU: u16 = 4;
pub const IFLA_LINK: u16 = 5;
pub const IFLA_MASTER: u16 = 10;
pub const IFLA_LINKINFO: u16 = 18;
pub const IFLA_INFO_KIND: u16 = 1;
pub const IFLA_INFO_DATA: u16 = 2;
pub const IFLA_VLAN_ID: u16 = 1;
pub const IFF_UP: u32 = 1;
pub const IFF_LOOPBACK: u32 = 8;
pub const IFA_ADDRESS: u16 = 1;
pub const IFA_LOCAL: u16 = 2;
/// Multicast groups: links, neighbors, addresses, routes and rules of both families, and shared
/// next-hop objects.
pub const RTNLGRPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
