//! The generic netlink family `netdev`: XDP features (6.3) and NAPI instances (6.7).

use super::attributes::{Attributes, Body};
use super::error::NetlinkError;
use super::numbers::{
    NETDEV_A_DEV_IFINDEX, NETDEV_A_DEV_XDP_FEATURES, NETDEV_A_DEV_XDP_ZC_MAX_SEGS, NETDEV_A_NAPI_DEFER_HARD_IRQS,
    NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT, NETDEV_A_NAPI_ID, NETDEV_A_NAPI_IFINDEX, NETDEV_A_NAPI_IRQ, NETDEV_CMD_DEV_GET,
    NETDEV_CMD_NAPI_GET, XDP_FEATURE_NAMES,
};
use super::sockets::Netlink;
use crate::facts::{Napi, XdpFeatures};

impl Netlink {
    /// XDP support of a link; `None` if the kernel lacks this family.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn xdp_features(&mut self, index: u32) -> Result<Option<XdpFeatures>, NetlinkError> {
        let Some(family) = self.netdev else { return Ok(None) };
        let mut body = Body::default();
        body.u32(NETDEV_A_DEV_IFINDEX, index);
        let request = format!("link {index}: reading the XDP features");
        let answers = self.generic.get(family, NETDEV_CMD_DEV_GET, &body, &request)?;
        Ok(answers.first().map(|answer| {
            let attributes = Attributes(answer);
            let bits = attributes.number(NETDEV_A_DEV_XDP_FEATURES).unwrap_or(0);
            let named = XDP_FEATURE_NAMES.iter().enumerate().filter(|(bit, _)| bits >> bit & 1 == 1);
            XdpFeatures {
                features: named.map(|(_, name)| (*name).to_owned()).collect(),
                zero_copy_segments_max: attributes.u32(NETDEV_A_DEV_XDP_ZC_MAX_SEGS),
                program_attached: None,
            }
        }))
    }

    /// The NAPI instances of a link; empty if the kernel does not report them.
    ///
    /// # Errors
    /// [`NetlinkError`].
    pub(crate) fn napi(&mut self, index: u32) -> Result<Vec<Napi>, NetlinkError> {
        let Some(family) = self.netdev else { return Ok(Vec::new()) };
        let mut body = Body::default();
        body.u32(NETDEV_A_NAPI_IFINDEX, index);
        let request = format!("link {index}: listing the NAPI instances");
        let answers = match self.generic.dump(family, NETDEV_CMD_NAPI_GET, &body, &request) {
            Ok(answers) => answers,
            // The family is older than this command.
            Err(error) if matches!(error.errno, Some(libc::EOPNOTSUPP | libc::EINVAL)) => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let napi = answers.iter().map(|answer| Attributes(answer)).filter_map(|attributes| {
            Some(Napi {
                id: attributes.u32(NETDEV_A_NAPI_ID)?,
                irq: attributes.u32(NETDEV_A_NAPI_IRQ),
                defer_hard_irqs: attributes.u32(NETDEV_A_NAPI_DEFER_HARD_IRQS),
                gro_flush_timeout_ns: attributes.number(NETDEV_A_NAPI_GRO_FLUSH_TIMEOUT),
            })
        });
        Ok(napi.collect())
    }
}
