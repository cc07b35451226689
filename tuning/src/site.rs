//! The site: what the admin knows about the host and its network that facts cannot show, and the
//! admin's own values. It comes from the site file ([`site_file`](crate::site_file)).

use std::collections::BTreeMap;

use culvert_host::collect::Partner;
use culvert_host::cpu_set::CpuSet;
use serde::{Deserialize, Serialize};

use crate::profile::ProfileName;

/// How transfers stay below the rate of the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pacing {
    /// Programs pace their own sockets, as Culvert does.
    #[default]
    Sockets,
    /// fq paces every flow of the host to the same rate.
    Qdisc,
}

/// One link in the site file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SiteLink {
    /// Whether the link carries transfers; if absent, its speed decides.
    pub data: Option<bool>,
    /// The MTU of the network behind the link; without it, the link's MTU is never raised.
    pub mtu: Option<u32>,
}

/// A partner named in the site file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SitePartner {
    /// Its name.
    pub name: String,
    /// A host name or address.
    pub address: String,
    /// The round trip time to it, in place of a measured one.
    pub rtt_ms: Option<f64>,
}

/// The contents of the site file; empty if the file does not exist.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Site {
    /// The file's path.
    pub path: Option<String>,
    /// The profile.
    pub profile: Option<ProfileName>,
    /// The longest round trip time of transfers.
    pub rtt_ms: Option<f64>,
    /// Streams of one transfer.
    pub streams: Option<u32>,
    /// Lanes of the data plane.
    pub lanes: Option<u32>,
    /// The CPUs that lanes run on.
    pub lane_cores: Option<CpuSet>,
    /// The write rate of the storage in bytes per second.
    pub storage_bytes_per_second: Option<u64>,
    /// How transfers are paced.
    pub pacing: Pacing,
    /// Rules that are left out.
    pub skip: Vec<String>,
    /// Rules that apply only on request.
    pub enable: Vec<String>,
    /// Links.
    pub links: BTreeMap<String, SiteLink>,
    /// The admin's own values of sysctls.
    pub sysctl: BTreeMap<String, String>,
    /// Partners.
    pub partners: Vec<SitePartner>,
}

impl Site {
    /// The partners whose paths are examined.
    #[must_use]
    pub fn partners_to_ask(&self) -> Vec<Partner> {
        let partner = |partner: &SitePartner| Partner { name: partner.name.clone(), address: partner.address.clone() };
        self.partners.iter().map(partner).collect()
    }
}
