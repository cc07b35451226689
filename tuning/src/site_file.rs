//! The site file on disk: parsing, and checks of its values.
//!
//! `docs/tuning.md` describes the format. Every mistake is an error that names the file, the line
//! and the remedy.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::path::Path;

use culvert_host::collect::normal_value;
use culvert_host::cpu_set::CpuSet;
use culvert_system::regular_file::{self, Links};
use serde::{Deserialize, Serialize};

use crate::profile::ProfileName;
use crate::rules;
use crate::site::{Pacing, Site, SiteLink, SitePartner};

/// The default site file.
pub const SITE_FILE: &str = "/etc/culvert/tuning.toml";

/// The largest site file that is read.
const SITE_BYTES_MAX: u64 = 1 << 20;
/// Accepted MTUs: from IPv6's minimum to the largest IP packet.
const MTU_BYTES: RangeInclusive<u32> = 1280..=65_535;
/// Accepted numbers of streams.
const STREAMS: RangeInclusive<u32> = 1..=1024;
/// Accepted round trip times; they cover all paths on Earth, by satellite too.
const RTT_MS: RangeInclusive<f64> = 0.01..=10_000.0;

/// The value of a sysctl: text or a number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "the value of a sysctl is a text or a number; write its dotted name in quotes")]
enum SysctlValue {
    Number(i64),
    Text(String),
}

/// The file's structure.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct SiteText {
    profile: Option<String>,
    rtt_ms: Option<f64>,
    streams: Option<u32>,
    lanes: Option<u32>,
    lane_cores: Option<String>,
    storage_bytes_per_second: Option<u64>,
    pacing: Option<Pacing>,
    skip: Vec<String>,
    enable: Vec<String>,
    links: BTreeMap<String, SiteLink>,
    sysctl: BTreeMap<String, SysctlValue>,
    partners: Vec<SitePartner>,
}

/// Why a site file is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {reason}")]
pub struct SiteError {
    /// The file.
    pub path: String,
    /// What is wrong, where, and what to write.
    pub reason: String,
}

impl Site {
    /// This host's own site file ([`SITE_FILE`]), or an empty one if it does not exist.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn of_this_host() -> Result<Self, SiteError> {
        let path = Path::new(SITE_FILE);
        if path.exists() { Self::load(path) } else { Ok(Self::default()) }
    }

    /// Reads a site file.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn load(path: &Path) -> Result<Self, SiteError> {
        let name = path.display().to_string();
        let error = |reason: String| SiteError { path: name.clone(), reason };
        let text = regular_file::read_text(path, SITE_BYTES_MAX, Links::Followed)
            .map_err(|why| error(format!("the site file cannot be read: {why}; name another one with --site")))?;
        Self::from_toml(&text, &name)
    }

    /// Reads a site file from its text; `name` is for errors.
    ///
    /// # Errors
    /// [`SiteError`].
    pub fn from_toml(text: &str, name: &str) -> Result<Self, SiteError> {
        let error = |reason: String| SiteError { path: name.to_owned(), reason };
        let written: SiteText = toml::from_str(text).map_err(|why| {
            let line = why.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map(|line| format!("line {line}: ")).unwrap_or_default();
            error(format!("{place}{}", why.message()))
        })?;
        written.check(name).map_err(error)
    }
}

impl SiteText {
    fn check(self, name: &str) -> Result<Site, String> {
        let profile = self.profile.map(|name| name.parse::<ProfileName>()).transpose()?;
        within("rtt_ms", self.rtt_ms, &RTT_MS)?;
        within("streams", self.streams, &STREAMS)?;
        within("lanes", self.lanes, &(1..=1024))?;
        for (link, site) in &self.links {
            within(&format!("links.{link}.mtu"), site.mtu, &MTU_BYTES)?;
        }
        for partner in &self.partners {
            within(&format!("rtt_ms of the partner {}", partner.name), partner.rtt_ms, &RTT_MS)?;
        }
        let lane_cores = self
            .lane_cores
            .map(|cores| cores.parse::<CpuSet>().map_err(|why| format!("lane_cores: {why}")))
            .transpose()?;
        for (list, ids) in [("skip", &self.skip), ("enable", &self.enable)] {
            for id in ids {
                rules::find(id).map_err(|why| format!("{list}: {why}"))?;
            }
        }
        let sysctl = self.sysctl.into_iter().map(|(key, value)| {
            let value = match value {
                SysctlValue::Number(number) => number.to_string(),
                SysctlValue::Text(text) => normal_value(&text),
            };
            check_key(&key).map(|()| (key, value))
        });
        Ok(Site {
            path: Some(name.to_owned()),
            profile,
            rtt_ms: self.rtt_ms,
            streams: self.streams,
            lanes: self.lanes,
            lane_cores,
            storage_bytes_per_second: self.storage_bytes_per_second.filter(|rate| *rate > 0),
            pacing: self.pacing.unwrap_or_default(),
            skip: self.skip,
            enable: self.enable,
            links: self.links,
            sysctl: sysctl.collect::<Result<_, String>>()?,
            partners: self.partners,
        })
    }
}

fn within<T: PartialOrd + std::fmt::Display>(
    name: &str,
    value: Option<T>,
    range: &RangeInclusive<T>,
) -> Result<(), String> {
    match value {
        Some(value) if !range.contains(&value) => {
            Err(format!("{name} is {value}: write a number from {} to {}", range.start(), range.end()))
        }
        _ => Ok(()),
    }
}

/// A key becomes a path below `/proc/sys`, so it must not lead outside.
fn check_key(key: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
    if key.is_empty() || !key.chars().all(plain) || key.split(['.', '/']).any(str::is_empty) {
        return Err(format!("sysctl: '{key}' is not the name of a sysctl such as \"net.core.rmem_max\" (in quotes)"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_file_is_read() {
        let site = Site::from_toml(
            r#"
            profile = "dtn-100g"
            rtt_ms = 88.5
            streams = 8
            lane_cores = "8-15"
            pacing = "qdisc"
            skip = ["cpu.smt"]
            [links.ens1f0]
            data = true
            mtu = 9000
            [sysctl]
            "net.ipv4.tcp_congestion_control" = "bbr"
            "net.ipv4.tcp_rmem" = "4096	87380 16777216"
            "vm.swappiness" = 1
            [[partners]]
            name = "far"
            address = "192.0.2.7"
            "#,
            "site.toml",
        )
        .unwrap();
        assert_eq!(site.profile, Some(ProfileName::Dtn100g));
        assert_eq!(site.links["ens1f0"], SiteLink { data: Some(true), mtu: Some(9000) });
        assert_eq!(site.sysctl["net.ipv4.tcp_rmem"], "4096 87380 16777216");
        assert_eq!(site.sysctl["vm.swappiness"], "1");
        assert_eq!(site.partners_to_ask()[0].address, "192.0.2.7");
    }

    #[test]
    fn mistakes_are_named_with_file_line_and_remedy() {
        for (text, parts) in [
            ("profile = \"dtn-11g\"", vec!["dtn-11g", "dtn-10g"]),
            ("rtt = 5", vec!["line 1", "unknown field `rtt`", "rtt_ms"]),
            ("\n\nstreams = \"many\"", vec!["line 3", "invalid type"]),
            ("streams = 0", vec!["streams is 0", "from 1 to 1024"]),
            ("[links.eth0]\nmtu = 100", vec!["links.eth0.mtu is 100", "1280"]),
            ("skip = [\"nic.ring\"]", vec!["skip", "nic.ring", "nic.rings"]),
            ("[sysctl]\n\"../../etc/passwd\" = 1", vec!["not the name of a sysctl"]),
            ("[sysctl]\nnet.core.rmem_max = 1", vec!["line 2", "sysctl"]),
            ("lane_cores = \"a-b\"", vec!["lane_cores", "list of CPUs"]),
            ("profile =", vec!["line 1"]),
        ] {
            let error = Site::from_toml(text, "site.toml").unwrap_err().to_string();
            assert!(error.starts_with("site.toml: "), "{error}");
            for part in parts {
                assert!(error.contains(part), "'{error}' does not say '{part}'");
            }
        }
    }
}
