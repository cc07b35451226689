//! Constants of the netlink interfaces, under the kernel's names.
//!
//! `include/uapi/linux/{if_link,rtnetlink,pkt_sched,genetlink,ethtool_netlink_generated,netdev}.h`.

// rtnetlink.h: message types.
pub(super) const RTM_GETLINK: u16 = 18;
pub(super) const RTM_SETLINK: u16 = 19;
pub(super) const RTM_GETADDR: u16 = 22;
pub(super) const RTM_GETROUTE: u16 = 26;
pub(super) const RTM_NEWQDISC: u16 = 36;
pub(super) const RTM_DELQDISC: u16 = 37;
pub(super) const RTM_GETQDISC: u16 = 38;

// if_link.h: attributes of links.
pub(super) const IFLA_IFNAME: u16 = 3;
pub(super) const IFLA_MTU: u16 = 4;
pub(super) const IFLA_MASTER: u16 = 10;
pub(super) const IFLA_LINKINFO: u16 = 18;
pub(super) const IFLA_STATS64: u16 = 23;
pub(super) const IFLA_NUM_TX_QUEUES: u16 = 31;
pub(super) const IFLA_NUM_RX_QUEUES: u16 = 32;
pub(super) const IFLA_CARRIER: u16 = 33;
pub(super) const IFLA_GSO_MAX_SIZE: u16 = 41;
pub(super) const IFLA_XDP: u16 = 43;
pub(super) const IFLA_MIN_MTU: u16 = 50;
pub(super) const IFLA_MAX_MTU: u16 = 51;
pub(super) const IFLA_PARENT_DEV_NAME: u16 = 56;
pub(super) const IFLA_GRO_MAX_SIZE: u16 = 58;
pub(super) const IFLA_GSO_IPV4_MAX_SIZE: u16 = 63;
pub(super) const IFLA_GRO_IPV4_MAX_SIZE: u16 = 64;
pub(super) const IFLA_INFO_KIND: u16 = 1;
pub(super) const IFLA_XDP_ATTACHED: u16 = 2;
pub(super) const IFF_UP: u32 = 1;

// if_addr.h, rtnetlink.h: addresses and routes.
pub(super) const IFA_ADDRESS: u16 = 1;
pub(super) const IFA_LOCAL: u16 = 2;
pub(super) const RTA_DST: u16 = 1;
pub(super) const RTA_OIF: u16 = 4;
pub(super) const RTA_TABLE: u16 = 15;
pub(super) const RT_TABLE_MAIN: u32 = 254;

// rtnetlink.h, pkt_sched.h: queueing disciplines.
pub(super) const TCA_KIND: u16 = 1;
pub(super) const TCA_OPTIONS: u16 = 2;
pub(super) const TC_H_ROOT: u32 = 0xffff_ffff;
pub(super) const TC_H_INGRESS: u32 = 0xffff_fff1;
pub(super) const TCA_FQ_FLOW_MAX_RATE: u16 = 7;

// genetlink.h: the controller.
pub(super) const GENL_ID_CTRL: u16 = 16;
pub(super) const CTRL_CMD_GETFAMILY: u8 = 3;
pub(super) const CTRL_ATTR_FAMILY_ID: u16 = 1;
pub(super) const CTRL_ATTR_FAMILY_NAME: u16 = 2;

// ethtool_netlink: requests.
pub(super) const ETHTOOL_MSG_LINKMODES_GET: u8 = 4;
pub(super) const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
pub(super) const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
pub(super) const ETHTOOL_MSG_PRIVFLAGS_GET: u8 = 13;
pub(super) const ETHTOOL_MSG_PRIVFLAGS_SET: u8 = 14;
pub(super) const ETHTOOL_MSG_RINGS_GET: u8 = 15;
pub(super) const ETHTOOL_MSG_RINGS_SET: u8 = 16;
pub(super) const ETHTOOL_MSG_CHANNELS_GET: u8 = 17;
pub(super) const ETHTOOL_MSG_CHANNELS_SET: u8 = 18;
pub(super) const ETHTOOL_MSG_COALESCE_GET: u8 = 19;
pub(super) const ETHTOOL_MSG_COALESCE_SET: u8 = 20;
pub(super) const ETHTOOL_MSG_PAUSE_GET: u8 = 21;
pub(super) const ETHTOOL_MSG_PAUSE_SET: u8 = 22;
pub(super) const ETHTOOL_MSG_RSS_GET: u8 = 38;

// Every ethtool request starts with this attribute.
pub(super) const ETHTOOL_A_HEADER: u16 = 1;
pub(super) const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
pub(super) const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
pub(super) const ETHTOOL_FLAG_OMIT_REPLY: u32 = 1 << 1;
pub(super) const ETHTOOL_FLAG_STATS: u32 = 1 << 2;

pub(super) const ETHTOOL_A_LINKMODES_SPEED: u16 = 5;
pub(super) const ETHTOOL_A_FEATURES_HW: u16 = 2;
pub(super) const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
pub(super) const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
pub(super) const ETHTOOL_A_FEATURES_NOCHANGE: u16 = 5;
pub(super) const ETHTOOL_A_PRIVFLAGS_FLAGS: u16 = 2;
pub(super) const ETHTOOL_A_BITSET_BITS: u16 = 3;
pub(super) const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
pub(super) const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
pub(super) const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;
pub(super) const ETHTOOL_A_BITSET_NOMASK: u16 = 1;
pub(super) const ETHTOOL_A_RINGS_RX_MAX: u16 = 2;
pub(super) const ETHTOOL_A_RINGS_TX_MAX: u16 = 5;
pub(super) const ETHTOOL_A_RINGS_RX: u16 = 6;
pub(super) const ETHTOOL_A_RINGS_TX: u16 = 9;
pub(super) const ETHTOOL_A_CHANNELS_RX_MAX: u16 = 2;
pub(super) const ETHTOOL_A_CHANNELS_TX_MAX: u16 = 3;
pub(super) const ETHTOOL_A_CHANNELS_COMBINED_MAX: u16 = 5;
pub(super) const ETHTOOL_A_CHANNELS_RX_COUNT: u16 = 6;
pub(super) const ETHTOOL_A_CHANNELS_TX_COUNT: u16 = 7;
pub(super) const ETHTOOL_A_CHANNELS_COMBINED_COUNT: u16 = 9;
pub(super) const ETHTOOL_A_COALESCE_RX_USECS: u16 = 2;
pub(super) const ETHTOOL_A_COALESCE_RX_MAX_FRAMES: u16 = 3;
pub(super) const ETHTOOL_A_COALESCE_TX_USECS: u16 = 6;
pub(super) const ETHTOOL_A_COALESCE_TX_MAX_FRAMES: u16 = 7;
pub(super) const ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX: u16 = 11;
pub(super) const ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX: u16 = 12;
pub(super) const ETHTOOL_A_PAUSE_AUTONEG: u16 = 2;
pub(super) const ETHTOOL_A_PAUSE_RX: u16 = 3;
pub(super) const ETHTOOL_A_PAUSE_TX: u16 = 4;
pub(super) const ETHTOOL_A_PAUSE_STATS: u16 = 5;
pub(super) const ETHTOOL_A_PAUSE_STAT_TX_FRAMES: u16 = 2;
pub(super) const ETHTOOL_A_PAUSE_STAT_RX_FRAMES: u16 = 3;
pub(super) const ETHTOOL_A_RSS_INDIR: u16 = 4;

// netdev.h.
pub(super) const NETDEV_CMD_DEV_GET: u8 = 1;
pub(super) const NETDEV_CMD_NAPI_GET: u8 = 11;
pub(super) const NETDEV_A_DEV_IFINDEX: u16 = 1;
pub(super) const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
pub(super) const NETDEV_A_DEV_XDP_ZC_MAX_SEGS: u16 = 4;
pub(super) const NETDEV_A_NAPI_IFINDEX: u16 = 1;
pub(super) const NETDEV_A_NAPI_ID: u16 = 2;
pub(super) const NETDEV_A_NAPI_IRQ: u16 = 3;
pub(super) const NETDEV_A_NAPI_DEFER_HARD_IRQS: u16 = 5;
pub(super) const NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT: u16 = 6;
/// Bits of `NETDEV_A_DEV_XDP_FEATURES` in order.
pub(super) const XDP_FEATURE_NAMES: [&str; 7] =
    ["basic", "redirect", "ndo-xmit", "xsk-zerocopy", "hw-offload", "rx-sg", "ndo-xmit-sg"];
