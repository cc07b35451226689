//! A rule as the kernel's `struct ethtool_rx_flow_spec` (include/uapi/linux/ethtool.h), byte for
//! byte.
//!
//! ```text
//!   0 flow type │ 4 header │ 56 more of it │ 76 mask │ 128 more of it │ 152 what to do │ 160 location
//! ```
//!
//! Header and mask are unions. For UDP over IPv4 the destination port follows two addresses and the
//! source port: 4 + 4 + 2 bytes; over IPv6 16 + 16 + 2.

use culvert_link::kernel_bypass::{Family, Rule};

use crate::kernel_calls::{LOCATION_OFFSET, SPEC_BYTES};

const HEADER_OFFSET: usize = 4;
const MASK_OFFSET: usize = 76;
/// Bytes of a header with its extension, and of its mask.
const MATCH_BYTES: usize = 72;
const ACTION_OFFSET: usize = 152;
const ACTION_BYTES: usize = 8;
const UDP_V4_FLOW: u32 = 0x02;
const UDP_V6_FLOW: u32 = 0x06;
/// Flow types carry flags in their upper bits (`FLOW_EXT`, `FLOW_MAC_EXT`, `FLOW_RSS`).
const FLOW_TYPE_MASK: u32 = 0x00ff_ffff;

/// A rule's bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Spec(pub [u8; SPEC_BYTES]);

impl std::fmt::Debug for Spec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Spec({:?} at {})", self.rule(), self.location())
    }
}

impl Spec {
    /// The bytes of a rule at a location.
    #[must_use]
    pub fn of(rule: Rule, location: u32) -> Self {
        let mut spec = Self([0; SPEC_BYTES]);
        let mut put = |offset: usize, bytes: &[u8]| spec.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, &flow_type_of(rule.family).to_ne_bytes());
        put(HEADER_OFFSET + port_offset(rule.family), &rule.port.to_be_bytes());
        put(MASK_OFFSET + port_offset(rule.family), &[0xff; 2]);
        put(ACTION_OFFSET, &u64::from(rule.queue).to_ne_bytes());
        put(LOCATION_OFFSET, &location.to_ne_bytes());
        spec
    }

    /// The rule, if it is one of the form that [`Spec::of`] makes: one destination port to one
    /// queue, and no other condition.
    #[must_use]
    pub fn rule(&self) -> Option<Rule> {
        let family =
            [Family::Udp4, Family::Udp6].into_iter().find(|&family| self.flow_type() == flow_type_of(family))?;
        let at = MASK_OFFSET + port_offset(family);
        let mut mask = self.0[MASK_OFFSET..MASK_OFFSET + MATCH_BYTES].iter().enumerate();
        let is_port = |number: usize| (at..at + 2).contains(&(MASK_OFFSET + number));
        if !mask.all(|(number, &byte)| byte == if is_port(number) { 0xff } else { 0 }) {
            return None;
        }
        let action = self.0[ACTION_OFFSET..ACTION_OFFSET + ACTION_BYTES].first_chunk();
        // More than 32 bits means a virtual function, or a drop.
        let queue = u32::try_from(action.map_or(u64::MAX, |bytes| u64::from_ne_bytes(*bytes))).ok()?;
        Some(Rule { family, port: self.port(family), queue })
    }

    /// Whether packets of this family to this port may meet the rule, by itself or among other
    /// conditions.
    #[must_use]
    pub fn concerns(&self, family: Family, port: u16) -> bool {
        let mask_at = MASK_OFFSET + port_offset(family);
        let mask = u16::from_be_bytes([self.0[mask_at], self.0[mask_at + 1]]);
        self.flow_type() & FLOW_TYPE_MASK == flow_type_of(family) && mask != 0 && (self.port(family) ^ port) & mask == 0
    }

    /// Where it is in the table.
    #[must_use]
    pub fn location(&self) -> u32 {
        self.u32(LOCATION_OFFSET)
    }

    fn flow_type(&self) -> u32 {
        self.u32(0)
    }

    fn port(&self, family: Family) -> u16 {
        let at = HEADER_OFFSET + port_offset(family);
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    fn u32(&self, offset: usize) -> u32 {
        self.0[offset..].first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
    }
}

const fn flow_type_of(family: Family) -> u32 {
    match family {
        Family::Udp4 => UDP_V4_FLOW,
        Family::Udp6 => UDP_V6_FLOW,
    }
}

/// Offset of the destination port in a header.
const fn port_offset(family: Family) -> usize {
    match family {
        Family::Udp4 => 4 + 4 + 2,
        Family::Udp6 => 16 + 16 + 2,
    }
}
