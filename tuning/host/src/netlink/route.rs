//! Links, addresses and default routes by rtnetlink.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Body, u32_of};
use super::error::NetlinkError;
use super::numbers::{
    IFA_ADDRESS, IFA_LOCAL, IFF_UP, IFLA_CARRIER, IFLA_GRO_IPV4_MAX_SIZE, IFLA_GRO_MAX_SIZE, IFLA_GSO_IPV4_MAX_SIZE,
    IFLA_GSO_MAX_SIZE, IFLA_IFNAME, IFLA_INFO_KIND, IFLA_LINKINFO, IFLA_MASTER, IFLA_MAX_MTU, IFLA_MIN_MTU, IFLA_MTU,
    IFLA_NUM_RX_QUEUES, IFLA_NUM_TX_QUEUES, IFLA_PARENT_DEV_NAME, IFLA_STATS64, IFLA_XDP, IFLA_XDP_ATTACHED,
    RT_TABLE_MAIN, RTA_DST, RTA_OIF, RTA_TABLE, RTM_GETADDR, RTM_GETLINK, RTM_GETROUTE, RTM_SETLINK,
};
use super::sockets::Netlink;
use crate::facts::Counters;

/// Length of `struct ifinfomsg`.
const IFINFOMSG_BYTES: usize = 16;
/// Length of `struct ifaddrmsg`.
const IFADDRMSG_BYTES: usize = 8;
/// Length of `struct rtmsg`.
const RTMSG_BYTES: usize = 12;

/// A size of a link that is set in bytes by `RTM_SETLINK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkBytes {
    /// The MTU.
    Mtu,
    /// The largest segmentation-offload packet of IPv6 (before 6.3, also of IPv4).
    GsoMax,
    /// The largest packet that generic receive offload builds of IPv6 (before 6.3, also of IPv4).
    GroMax,
    /// The largest segmentation-offload packet of IPv4 (6.3).
    GsoIpv4Max,
    /// The largest packet that generic receive offload builds of IPv4 (6.3).
    GroIpv4Max,
}

impl LinkBytes {
    fn attribute(self) -> u16 {
        match self {
            Self::Mtu => IFLA_MTU,
            Self::GsoMax => IFLA_GSO_MAX_SIZE,
            Self::GroMax => IFLA_GRO_MAX_SIZE,
            Self::GsoIpv4Max => IFLA_GSO_IPV4_MAX_SIZE,
            Self::GroIpv4Max => IFLA_GRO_IPV4_MAX_SIZE,
        }
    }
}

/// One link as rtnetlink reports it.
#[derive(Clone, Debug, Default)]
pub(crate) struct RawLink {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) kind: Option<String>,
    pub(crate) parent_device: Option<String>,
    pub(crate) up: bool,
    pub(crate) carrier: Option<bool>,
    pub(crate) master_index: Option<u32>,
    pub(crate) mtu_min: Option<u32>,
    pub(crate) mtu_max: Option<u32>,
    pub(crate) rx_queues: Option<u32>,
    pub(crate) tx_queues: Option<u32>,
    pub(crate) xdp_attached: Option<bool>,
    pub(crate) counters: Counters,
    pub(crate) sizes: BTreeMap<LinkBytes, u32>,
}

impl RawLink {
    fn parse(body: &[u8]) -> Option<Self> {
        let header = body.get(..IFINFOMSG_BYTES)?;
        let attributes = Attributes(&body[IFINFOMSG_BYTES..]);
        let some_size = |size: LinkBytes| attributes.u32(size.attribute()).map(|bytes| (size, bytes));
        let sizes =
            [LinkBytes::Mtu, LinkBytes::GsoMax, LinkBytes::GroMax, LinkBytes::GsoIpv4Max, LinkBytes::GroIpv4Max];
        Some(Self {
            index: u32_of(&header[4..8])?,
            name: attributes.text(IFLA_IFNAME)?,
            kind: attributes.nest(IFLA_LINKINFO).and_then(|info| info.text(IFLA_INFO_KIND)),
            parent_device: attributes.text(IFLA_PARENT_DEV_NAME),
            up: u32_of(&header[8..12])? & IFF_UP != 0,
            carrier: attributes.u8(IFLA_CARRIER).map(|carrier| carrier != 0),
            master_index: attributes.u32(IFLA_MASTER),
            mtu_min: attributes.u32(IFLA_MIN_MTU).filter(|mtu| *mtu != 0),
            mtu_max: attributes.u32(IFLA_MAX_MTU).filter(|mtu| *mtu != 0),
            rx_queues: attributes.u32(IFLA_NUM_RX_QUEUES),
            tx_queues: attributes.u32(IFLA_NUM_TX_QUEUES),
            xdp_attached: attributes
                .nest(IFLA_XDP)
                .and_then(|xdp| xdp.u8(IFLA_XDP_ATTACHED))
                .map(|attached| attached != 0),
            counters: attributes.get(IFLA_STATS64).map(counters_of).unwrap_or_default(),
            sizes: sizes.into_iter().filter_map(some_size).collect(),
        })
    }
}

/// Reads `struct rtnl_link_stats64`.
fn counters_of(stats: &[u8]) -> Counters {
    let field = |number: usize| {
        let bytes = stats.get(number * 8..number * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Counters {
        rx_packets: field(0),
        rx_errors: field(4),
        rx_dropped: field(6),
        tx_dropped: field(7),
        rx_missed: field(15),
    }
}

impl Netlink {
    /// Every link of the network namespace.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn links(&mut self) -> Result<Vec<RawLink>, NetlinkError> {
        let body = Body::with_header(&[0; IFINFOMSG_BYTES]);
        let messages = self.route.dump(RTM_GETLINK, &body, "listing the network interfaces")?;
        Ok(messages.iter().filter_map(|message| RawLink::parse(message)).collect())
    }

    /// One link; `None` if no link has this name.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn link(&mut self, name: &str) -> Result<Option<RawLink>, NetlinkError> {
        let mut body = Body::with_header(&[0; IFINFOMSG_BYTES]);
        body.text(IFLA_IFNAME, name);
        match self.route.get(RTM_GETLINK, &body, &format!("{name}: reading the interface")) {
            Ok(messages) => Ok(messages.first().and_then(|message| RawLink::parse(message))),
            Err(error) if error.errno == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a size of a link.
    ///
    /// # Errors
    /// [`NetlinkError`] with the driver's reason.
    pub fn set_link_bytes(&mut self, link: &str, size: LinkBytes, bytes: u32) -> Result<(), NetlinkError> {
        let mut body = Body::with_header(&[0; IFINFOMSG_BYTES]);
        body.text(IFLA_IFNAME, link).u32(size.attribute(), bytes);
        self.route.change(RTM_SETLINK, 0, &body, &format!("{link}: setting {size:?} to {bytes}"))
    }

    /// Addresses with prefix length by link index.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn addresses(&mut self) -> Result<BTreeMap<u32, Vec<String>>, NetlinkError> {
        let body = Body::with_header(&[0; IFADDRMSG_BYTES]);
        let mut found: BTreeMap<u32, Vec<String>> = BTreeMap::new();
        for message in self.route.dump(RTM_GETADDR, &body, "listing the addresses")? {
            let Some(header) = message.get(..IFADDRMSG_BYTES) else { continue };
            let attributes = Attributes(&message[IFADDRMSG_BYTES..]);
            // On a point-to-point link, IFA_ADDRESS is the far end; IFA_LOCAL is always this end.
            let address = attributes.get(IFA_LOCAL).or_else(|| attributes.get(IFA_ADDRESS)).and_then(address_of);
            if let (Some(address), Some(index)) = (address, u32_of(&header[4..8])) {
                found.entry(index).or_default().push(format!("{address}/{}", header[1]));
            }
        }
        Ok(found)
    }

    /// Indices of the links that a default route of the main table uses.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn default_route_links(&mut self) -> Result<Vec<u32>, NetlinkError> {
        let body = Body::with_header(&[0; RTMSG_BYTES]);
        let messages = self.route.dump(RTM_GETROUTE, &body, "listing the routes")?;
        let default = messages.iter().filter_map(|message| {
            let header = message.get(..RTMSG_BYTES)?;
            let attributes = Attributes(&message[RTMSG_BYTES..]);
            let table = attributes.u32(RTA_TABLE).unwrap_or(u32::from(header[4]));
            // A default route has no destination and a prefix length of 0.
            let is_default = header[1] == 0 && attributes.get(RTA_DST).is_none() && table == RT_TABLE_MAIN;
            is_default.then(|| attributes.u32(RTA_OIF)).flatten()
        });
        Ok(default.collect())
    }
}

fn address_of(bytes: &[u8]) -> Option<String> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| Ipv4Addr::from(bytes).to_string()),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        _ => None,
    }
}
