//! NIC parameters by the generic netlink family `ethtool`
//! (`Documentation/networking/ethtool-netlink.rst`).
//!
//! Getters return `None` if the driver lacks the parameter.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attributes::{Attributes, Body, u32_of};
use super::error::NetlinkError;
use super::numbers::{
    ETHTOOL_A_BITSET_BIT_NAME, ETHTOOL_A_BITSET_BIT_VALUE, ETHTOOL_A_BITSET_BITS, ETHTOOL_A_BITSET_BITS_BIT,
    ETHTOOL_A_BITSET_NOMASK, ETHTOOL_A_CHANNELS_COMBINED_COUNT, ETHTOOL_A_CHANNELS_COMBINED_MAX,
    ETHTOOL_A_CHANNELS_RX_COUNT, ETHTOOL_A_CHANNELS_RX_MAX, ETHTOOL_A_CHANNELS_TX_COUNT, ETHTOOL_A_CHANNELS_TX_MAX,
    ETHTOOL_A_COALESCE_RX_MAX_FRAMES, ETHTOOL_A_COALESCE_RX_USECS, ETHTOOL_A_COALESCE_TX_MAX_FRAMES,
    ETHTOOL_A_COALESCE_TX_USECS, ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX, ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX,
    ETHTOOL_A_FEATURES_ACTIVE, ETHTOOL_A_FEATURES_HW, ETHTOOL_A_FEATURES_NOCHANGE, ETHTOOL_A_FEATURES_WANTED,
    ETHTOOL_A_HEADER, ETHTOOL_A_HEADER_DEV_NAME, ETHTOOL_A_HEADER_FLAGS, ETHTOOL_A_LINKMODES_SPEED,
    ETHTOOL_A_PAUSE_AUTONEG, ETHTOOL_A_PAUSE_RX, ETHTOOL_A_PAUSE_STAT_RX_FRAMES, ETHTOOL_A_PAUSE_STAT_TX_FRAMES,
    ETHTOOL_A_PAUSE_STATS, ETHTOOL_A_PAUSE_TX, ETHTOOL_A_PRIVFLAGS_FLAGS, ETHTOOL_A_RINGS_RX, ETHTOOL_A_RINGS_RX_MAX,
    ETHTOOL_A_RINGS_TX, ETHTOOL_A_RINGS_TX_MAX, ETHTOOL_A_RSS_INDIR, ETHTOOL_FLAG_OMIT_REPLY, ETHTOOL_FLAG_STATS,
    ETHTOOL_MSG_CHANNELS_GET, ETHTOOL_MSG_CHANNELS_SET, ETHTOOL_MSG_COALESCE_GET, ETHTOOL_MSG_COALESCE_SET,
    ETHTOOL_MSG_FEATURES_GET, ETHTOOL_MSG_FEATURES_SET, ETHTOOL_MSG_LINKMODES_GET, ETHTOOL_MSG_PAUSE_GET,
    ETHTOOL_MSG_PAUSE_SET, ETHTOOL_MSG_PRIVFLAGS_GET, ETHTOOL_MSG_PRIVFLAGS_SET, ETHTOOL_MSG_RINGS_GET,
    ETHTOOL_MSG_RINGS_SET, ETHTOOL_MSG_RSS_GET,
};
use super::sockets::Netlink;
use crate::facts::{Channels, Coalesce, Pause, Rings, Rss};

/// One parameter of interrupt coalescing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CoalesceField {
    /// Delay of a receive interrupt in microseconds.
    RxUsecs,
    /// Frames that end the delay early.
    RxFrames,
    /// Delay of a transmit interrupt in microseconds.
    TxUsecs,
    /// Frames that end the delay early.
    TxFrames,
    /// Whether the driver adapts the receive delay: 0 or 1.
    AdaptiveRx,
    /// Whether the driver adapts the transmit delay: 0 or 1.
    AdaptiveTx,
}

/// One parameter of Ethernet flow control.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PauseField {
    /// Whether it is negotiated.
    Autoneg,
    /// Whether received pause frames are obeyed.
    Rx,
    /// Whether pause frames are sent.
    Tx,
}

/// The kernel's state of an offload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FeatureState {
    /// Whether it is active.
    pub(crate) active: bool,
    /// The requested state; the active state differs while an offload that it needs is off.
    pub(crate) wanted: bool,
    /// Whether it can be changed.
    pub(crate) changeable: bool,
}

impl CoalesceField {
    /// All parameters, the adaptive switches last: some drivers rewrite the delays while they
    /// adapt.
    pub const ALL: [Self; 6] =
        [Self::RxUsecs, Self::RxFrames, Self::TxUsecs, Self::TxFrames, Self::AdaptiveRx, Self::AdaptiveTx];

    fn attribute(self) -> u16 {
        match self {
            Self::RxUsecs => ETHTOOL_A_COALESCE_RX_USECS,
            Self::RxFrames => ETHTOOL_A_COALESCE_RX_MAX_FRAMES,
            Self::TxUsecs => ETHTOOL_A_COALESCE_TX_USECS,
            Self::TxFrames => ETHTOOL_A_COALESCE_TX_MAX_FRAMES,
            Self::AdaptiveRx => ETHTOOL_A_COALESCE_USE_ADAPTIVE_RX,
            Self::AdaptiveTx => ETHTOOL_A_COALESCE_USE_ADAPTIVE_TX,
        }
    }

    fn is_switch(self) -> bool {
        matches!(self, Self::AdaptiveRx | Self::AdaptiveTx)
    }

    /// ethtool's name for it, as in `ethtool -C eth0 rx-usecs 8`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::RxUsecs => "rx-usecs",
            Self::RxFrames => "rx-frames",
            Self::TxUsecs => "tx-usecs",
            Self::TxFrames => "tx-frames",
            Self::AdaptiveRx => "adaptive-rx",
            Self::AdaptiveTx => "adaptive-tx",
        }
    }
}

impl PauseField {
    /// All parameters, negotiation first: it decides whether the other two have an effect.
    pub const ALL: [Self; 3] = [Self::Autoneg, Self::Rx, Self::Tx];

    fn attribute(self) -> u16 {
        match self {
            Self::Autoneg => ETHTOOL_A_PAUSE_AUTONEG,
            Self::Rx => ETHTOOL_A_PAUSE_RX,
            Self::Tx => ETHTOOL_A_PAUSE_TX,
        }
    }

    /// ethtool's name for it, as in `ethtool -A eth0 rx on`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Autoneg => "autoneg",
            Self::Rx => "rx",
            Self::Tx => "tx",
        }
    }
}

/// The bits of a verbose bitset by name. A set without a mask lists only the set bits; one with a
/// mask lists every bit in the mask and marks those that are set.
fn bits_of(bitset: Attributes<'_>) -> BTreeMap<String, bool> {
    let no_mask = bitset.get(ETHTOOL_A_BITSET_NOMASK).is_some();
    let bits = bitset.nest(ETHTOOL_A_BITSET_BITS).unwrap_or_default();
    let named = bits.iter().filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS_BIT).filter_map(|(_, bit)| {
        let bit = Attributes(bit);
        // Bits that the kernel reserves have an empty name.
        let name = bit.text(ETHTOOL_A_BITSET_BIT_NAME).filter(|name| !name.is_empty())?;
        Some((name, no_mask || bit.get(ETHTOOL_A_BITSET_BIT_VALUE).is_some()))
    });
    named.collect()
}

/// Writes a bitset that changes one bit.
fn one_bit(body: &mut Body, kind: u16, name: &str, value: bool) {
    body.nest(kind, |set| {
        set.nest(ETHTOOL_A_BITSET_BITS, |bits| {
            bits.nest(ETHTOOL_A_BITSET_BITS_BIT, |bit| {
                bit.text(ETHTOOL_A_BITSET_BIT_NAME, name);
                if value {
                    bit.bytes(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
                }
            });
        });
    });
}

impl Netlink {
    /// Sends a request for one link. `None` if the driver or the kernel lacks the parameter.
    fn ethtool(
        &mut self,
        command: u8,
        link: &str,
        flags: u32,
        what: &str,
        fill: impl FnOnce(&mut Body),
    ) -> Result<Option<Vec<u8>>, NetlinkError> {
        let Some(family) = self.ethtool else { return Ok(None) };
        let mut body = Body::default();
        body.nest(ETHTOOL_A_HEADER, |header| {
            header.text(ETHTOOL_A_HEADER_DEV_NAME, link);
            if flags != 0 {
                header.u32(ETHTOOL_A_HEADER_FLAGS, flags);
            }
        });
        fill(&mut body);
        match self.generic.get(family, command, &body, &format!("{link}: {what}")) {
            Ok(answers) => Ok(Some(answers.into_iter().next().unwrap_or_default())),
            Err(error) if error.errno == Some(libc::EOPNOTSUPP) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn ethtool_get(&mut self, command: u8, link: &str, what: &str) -> Result<Option<Vec<u8>>, NetlinkError> {
        self.ethtool(command, link, 0, what, |_| {})
    }

    fn ethtool_set(
        &mut self,
        command: u8,
        link: &str,
        what: &str,
        fill: impl FnOnce(&mut Body),
    ) -> Result<(), NetlinkError> {
        let unsupported = NetlinkError {
            request: format!("{link}: {what}"),
            errno: Some(libc::EOPNOTSUPP),
            reason: "the driver has no such parameter, or this kernel no ethtool netlink".to_owned(),
        };
        self.ethtool(command, link, ETHTOOL_FLAG_OMIT_REPLY, what, fill)?.map(|_| ()).ok_or(unsupported)
    }

    /// The speed of a link in bits per second; `None` without a carrier or for links without speed.
    pub(crate) fn speed(&mut self, link: &str) -> Result<Option<u64>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_LINKMODES_GET, link, "reading the speed")?;
        let megabits = answer.and_then(|answer| Attributes(&answer).u32(ETHTOOL_A_LINKMODES_SPEED));
        // SPEED_UNKNOWN is -1.
        Ok(megabits.filter(|speed| *speed != 0 && *speed != u32::MAX).map(|speed| u64::from(speed) * 1_000_000))
    }

    /// Ring sizes.
    pub(crate) fn rings(&mut self, link: &str) -> Result<Option<Rings>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_RINGS_GET, link, "reading the ring sizes")?;
        Ok(answer.and_then(|answer| {
            let attributes = Attributes(&answer);
            Some(Rings {
                rx: attributes.u32(ETHTOOL_A_RINGS_RX)?,
                rx_max: attributes.u32(ETHTOOL_A_RINGS_RX_MAX)?,
                tx: attributes.u32(ETHTOOL_A_RINGS_TX)?,
                tx_max: attributes.u32(ETHTOOL_A_RINGS_TX_MAX)?,
            })
        }))
    }

    /// Sets both ring sizes in one request, because each change resets the link.
    pub(crate) fn set_rings(&mut self, link: &str, rx: u32, tx: u32) -> Result<(), NetlinkError> {
        self.ethtool_set(ETHTOOL_MSG_RINGS_SET, link, &format!("setting the rings to rx {rx} tx {tx}"), |body| {
            body.u32(ETHTOOL_A_RINGS_RX, rx).u32(ETHTOOL_A_RINGS_TX, tx);
        })
    }

    /// Channels.
    pub(crate) fn channels(&mut self, link: &str) -> Result<Option<Channels>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_CHANNELS_GET, link, "reading the channels")?;
        Ok(answer.map(|answer| {
            let attributes = Attributes(&answer);
            let number = |kind| attributes.u32(kind).unwrap_or(0);
            Channels {
                rx: number(ETHTOOL_A_CHANNELS_RX_COUNT),
                rx_max: number(ETHTOOL_A_CHANNELS_RX_MAX),
                tx: number(ETHTOOL_A_CHANNELS_TX_COUNT),
                tx_max: number(ETHTOOL_A_CHANNELS_TX_MAX),
                combined: number(ETHTOOL_A_CHANNELS_COMBINED_COUNT),
                combined_max: number(ETHTOOL_A_CHANNELS_COMBINED_MAX),
            }
        }))
    }

    /// Sets the channels. The request omits kinds that the driver lacks.
    pub(crate) fn set_channels(
        &mut self,
        link: &str,
        rx: u32,
        tx: u32,
        combined: u32,
        limits: &Channels,
    ) -> Result<(), NetlinkError> {
        let what = format!("setting the channels to rx {rx} tx {tx} combined {combined}");
        self.ethtool_set(ETHTOOL_MSG_CHANNELS_SET, link, &what, |body| {
            for (count, max, attribute) in [
                (rx, limits.rx_max, ETHTOOL_A_CHANNELS_RX_COUNT),
                (tx, limits.tx_max, ETHTOOL_A_CHANNELS_TX_COUNT),
                (combined, limits.combined_max, ETHTOOL_A_CHANNELS_COMBINED_COUNT),
            ] {
                if max > 0 {
                    body.u32(attribute, count);
                }
            }
        })
    }

    /// Interrupt coalescing.
    pub(crate) fn coalesce(&mut self, link: &str) -> Result<Option<Coalesce>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_COALESCE_GET, link, "reading the interrupt coalescing")?;
        Ok(answer.map(|answer| {
            let attributes = Attributes(&answer);
            let switch = |field: CoalesceField| attributes.u8(field.attribute()).map(|value| value != 0);
            Coalesce {
                adaptive_rx: switch(CoalesceField::AdaptiveRx),
                adaptive_tx: switch(CoalesceField::AdaptiveTx),
                rx_usecs: attributes.u32(CoalesceField::RxUsecs.attribute()),
                rx_frames: attributes.u32(CoalesceField::RxFrames.attribute()),
                tx_usecs: attributes.u32(CoalesceField::TxUsecs.attribute()),
                tx_frames: attributes.u32(CoalesceField::TxFrames.attribute()),
            }
        }))
    }

    /// Sets one parameter of interrupt coalescing.
    pub(crate) fn set_coalesce(&mut self, link: &str, field: CoalesceField, value: u32) -> Result<(), NetlinkError> {
        let what = format!("setting {} to {value}", field.word());
        self.ethtool_set(ETHTOOL_MSG_COALESCE_SET, link, &what, |body| {
            if field.is_switch() {
                body.u8(field.attribute(), u8::from(value != 0));
            } else {
                body.u32(field.attribute(), value);
            }
        })
    }

    /// Flow control, with counters if the driver has them.
    pub(crate) fn pause(&mut self, link: &str) -> Result<Option<Pause>, NetlinkError> {
        let answer = self.ethtool(ETHTOOL_MSG_PAUSE_GET, link, ETHTOOL_FLAG_STATS, "reading flow control", |_| {})?;
        Ok(answer.map(|answer| {
            let attributes = Attributes(&answer);
            let switch = |field: PauseField| attributes.u8(field.attribute()).is_some_and(|value| value != 0);
            let counters = attributes.nest(ETHTOOL_A_PAUSE_STATS).unwrap_or_default();
            Pause {
                autoneg: switch(PauseField::Autoneg),
                rx: switch(PauseField::Rx),
                tx: switch(PauseField::Tx),
                rx_frames: counters.number(ETHTOOL_A_PAUSE_STAT_RX_FRAMES),
                tx_frames: counters.number(ETHTOOL_A_PAUSE_STAT_TX_FRAMES),
            }
        }))
    }

    /// Sets one parameter of flow control.
    pub(crate) fn set_pause(&mut self, link: &str, field: PauseField, on: bool) -> Result<(), NetlinkError> {
        let what = format!("setting pause {} to {on}", field.word());
        self.ethtool_set(ETHTOOL_MSG_PAUSE_SET, link, &what, |body| {
            body.u8(field.attribute(), u8::from(on));
        })
    }

    /// Offloads by name; empty if the kernel does not report them.
    pub(crate) fn features(&mut self, link: &str) -> Result<BTreeMap<String, FeatureState>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_FEATURES_GET, link, "reading the offloads")?;
        let Some(answer) = answer else { return Ok(BTreeMap::new()) };
        let set = |kind| Attributes(&answer).nest(kind).map(bits_of).unwrap_or_default();
        let (wanted, active, fixed) =
            (set(ETHTOOL_A_FEATURES_WANTED), set(ETHTOOL_A_FEATURES_ACTIVE), set(ETHTOOL_A_FEATURES_NOCHANGE));
        // The mask of the changeable features contains every known feature.
        let states = set(ETHTOOL_A_FEATURES_HW).into_iter().map(|(name, hardware)| {
            let has = |set: &BTreeMap<String, bool>| set.get(&name).copied().unwrap_or(false);
            let active = has(&active);
            let changeable = hardware && !has(&fixed);
            let wanted = if changeable { has(&wanted) } else { active };
            (name, FeatureState { active, wanted, changeable })
        });
        Ok(states.collect())
    }

    /// Requests an offload, or withdraws the request. The kernel accepts requests that it cannot
    /// fulfill, so the caller reads the state back.
    pub(crate) fn set_feature(&mut self, link: &str, name: &str, on: bool) -> Result<(), NetlinkError> {
        self.ethtool_set(ETHTOOL_MSG_FEATURES_SET, link, &format!("setting {name} to {on}"), |body| {
            one_bit(body, ETHTOOL_A_FEATURES_WANTED, name, on);
        })
    }

    /// The driver's own switches.
    pub(crate) fn private_flags(&mut self, link: &str) -> Result<BTreeMap<String, bool>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_PRIVFLAGS_GET, link, "reading the driver's flags")?;
        let flags = answer.and_then(|answer| Attributes(&answer).nest(ETHTOOL_A_PRIVFLAGS_FLAGS).map(bits_of));
        Ok(flags.unwrap_or_default())
    }

    /// Sets one of the driver's own switches.
    pub(crate) fn set_private_flag(&mut self, link: &str, name: &str, on: bool) -> Result<(), NetlinkError> {
        self.ethtool_set(ETHTOOL_MSG_PRIVFLAGS_SET, link, &format!("setting the flag {name} to {on}"), |body| {
            one_bit(body, ETHTOOL_A_PRIVFLAGS_FLAGS, name, on);
        })
    }

    /// The indirection table of receive side scaling.
    pub(crate) fn rss(&mut self, link: &str) -> Result<Option<Rss>, NetlinkError> {
        let answer = self.ethtool_get(ETHTOOL_MSG_RSS_GET, link, "reading the RSS table")?;
        Ok(answer.and_then(|answer| {
            let table = Attributes(&answer).get(ETHTOOL_A_RSS_INDIR)?;
            Some(Rss { indirection: table.chunks_exact(4).filter_map(u32_of).collect() })
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bitsets_with_and_without_mask_are_told_apart() {
        let mut body = Body::default();
        for (kind, no_mask) in [(1, true), (2, false)] {
            body.nest(kind, |set| {
                if no_mask {
                    set.bytes(ETHTOOL_A_BITSET_NOMASK, &[]);
                }
                set.nest(ETHTOOL_A_BITSET_BITS, |bits| {
                    bits.nest(ETHTOOL_A_BITSET_BITS_BIT, |bit| {
                        bit.text(ETHTOOL_A_BITSET_BIT_NAME, "tx-gso-partial");
                    });
                    bits.nest(ETHTOOL_A_BITSET_BITS_BIT, |bit| {
                        bit.text(ETHTOOL_A_BITSET_BIT_NAME, "rx-gro").bytes(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
                    });
                });
            });
        }
        let read = Attributes(&body.0);
        assert!(bits_of(read.nest(1).unwrap()).values().all(|set| *set));
        let masked = bits_of(read.nest(2).unwrap());
        assert_eq!((masked["tx-gso-partial"], masked["rx-gro"]), (false, true));
    }
}
