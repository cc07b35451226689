//! The settings that tuning can change: their names and values, the order in which they are
//! written, and what a change of one may disturb.
//!
//! A setting has a name that stays valid while the host runs: an interrupt is named by its link and
//! the driver's name for it, not by its number, which changes with the number of channels.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::collect::normal_value;
use crate::cpu_set::CpuSet;
use crate::netlink::{CoalesceField, LinkBytes, PauseField, QdiscEntry, QdiscTree};

mod command;

/// One setting that can be read and written.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Setting {
    /// A service of systemd: `running` or `stopped`.
    Service {
        /// The unit's name without `.service`.
        unit: String,
    },
    /// A sysctl. A key with slashes is a path below `/proc/sys`, for link names with dots.
    Sysctl {
        /// The dotted name.
        key: String,
    },
    /// `vm.dirty_bytes` and `vm.dirty_ratio`, or the two of the background: setting one clears the
    /// other, so they are one setting with the value `bytes N` or `ratio N`.
    DirtyLimit {
        /// Whether this is the limit at which background writing starts.
        background: bool,
    },
    /// A file below `/sys` or `/proc` that holds one value. The value of a list with a marked word
    /// is that word.
    KernelFile {
        /// Its path.
        path: String,
    },
    /// The channels of a link: `rx 0 tx 0 combined 16`.
    Channels {
        /// The link.
        link: String,
    },
    /// The rings of a link: `rx 1024 tx 1024`.
    Rings {
        /// The link.
        link: String,
    },
    /// A driver's own switch: `on` or `off`.
    PrivateFlag {
        /// The link.
        link: String,
        /// The driver's name for it.
        flag: String,
    },
    /// The MTU or another size of a link.
    LinkBytes {
        /// The link.
        link: String,
        /// Which size.
        size: LinkBytes,
    },
    /// An offload: `on` or `off`, or `off requested on` if an offload that it needs is off.
    Feature {
        /// The link.
        link: String,
        /// The kernel's name for it.
        feature: String,
    },
    /// A parameter of Ethernet flow control: `on` or `off`.
    Pause {
        /// The link.
        link: String,
        /// Which.
        field: PauseField,
    },
    /// A parameter of interrupt coalescing.
    Coalesce {
        /// The link.
        link: String,
        /// Which.
        field: CoalesceField,
    },
    /// The header fields that choose the receive queue, as ethtool's letters.
    FlowHash {
        /// The link.
        link: String,
        /// `udp4` or `udp6`.
        flow: String,
    },
    /// The queue of each hash bucket: `0 1 2 3 0 1 2 3`.
    RssTable {
        /// The link.
        link: String,
    },
    /// The queueing disciplines of a link, as JSON of a [`QdiscTree`].
    Qdisc {
        /// The link.
        link: String,
    },
    /// A file below `/sys/class/net/LINK`.
    LinkFile {
        /// The link.
        link: String,
        /// Its path below the link's folder.
        file: String,
    },
    /// The CPUs that may take an interrupt of a link's device.
    IrqAffinity {
        /// The link.
        link: String,
        /// The driver's name for the interrupt.
        vector: String,
    },
    /// A configuration file that Culvert owns; it may be absent.
    OwnedFile {
        /// Its path.
        path: String,
    },
}

/// The value of a setting; `None` means that a file does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Value(pub Option<String>);

impl Value {
    /// A value that exists.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(Some(text.into()))
    }

    /// The value as `on` or `off`.
    #[must_use]
    pub fn switch(on: bool) -> Self {
        Self::new(if on { "on" } else { "off" })
    }

    /// The text; empty if there is none.
    #[must_use]
    pub fn text(&self) -> &str {
        self.0.as_deref().unwrap_or_default()
    }
}

impl fmt::Display for Value {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.0.as_deref().unwrap_or("(absent)"))
    }
}

/// The cost of a change while it takes effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Risk {
    /// Nothing.
    #[default]
    None,
    /// The link goes down for seconds and drops packets.
    LinkReset,
    /// Peers without a matching value may be unreachable.
    Reachability,
}

impl Setting {
    /// A sysctl.
    #[must_use]
    pub fn sysctl(key: &str) -> Self {
        Self::Sysctl { key: key.to_owned() }
    }

    /// A file of the kernel.
    #[must_use]
    pub fn kernel_file(path: impl Into<String>) -> Self {
        Self::KernelFile { path: path.into() }
    }

    /// A file of a link.
    #[must_use]
    pub fn link_file(link: &str, file: impl Into<String>) -> Self {
        Self::LinkFile { link: link.to_owned(), file: file.into() }
    }

    /// The MTU of a link.
    #[must_use]
    pub fn mtu(link: &str) -> Self {
        Self::LinkBytes { link: link.to_owned(), size: LinkBytes::Mtu }
    }

    /// The IPv6 MTU of a link, which follows the link's own unless it was set.
    #[must_use]
    pub fn ipv6_mtu(link: &str) -> Self {
        Self::Sysctl { key: format!("net/ipv6/conf/{link}/mtu") }
    }

    /// The link that the setting belongs to.
    #[must_use]
    pub fn link(&self) -> Option<&str> {
        match self {
            Self::Channels { link }
            | Self::Rings { link }
            | Self::PrivateFlag { link, .. }
            | Self::LinkBytes { link, .. }
            | Self::Feature { link, .. }
            | Self::Pause { link, .. }
            | Self::Coalesce { link, .. }
            | Self::FlowHash { link, .. }
            | Self::RssTable { link }
            | Self::Qdisc { link }
            | Self::LinkFile { link, .. }
            | Self::IrqAffinity { link, .. } => Some(link),
            Self::Sysctl { key } => key.strip_prefix("net/ipv6/conf/")?.split('/').next(),
            Self::Service { .. } | Self::DirtyLimit { .. } | Self::KernelFile { .. } | Self::OwnedFile { .. } => None,
        }
    }

    /// Whether the kernel forgets the setting when the host restarts.
    #[must_use]
    pub fn ends_with_the_boot(&self) -> bool {
        !matches!(self, Self::OwnedFile { .. })
    }

    /// The order in which settings are written and restored: a setting that resets others comes
    /// before them.
    #[must_use]
    pub fn stage(&self) -> u8 {
        match self {
            Self::Service { .. } => 0,
            Self::Sysctl { .. } if self.link().is_some() => 5,
            Self::Sysctl { .. } | Self::DirtyLimit { .. } | Self::KernelFile { .. } => 1,
            Self::Channels { .. } => 2,
            Self::Rings { .. } | Self::PrivateFlag { .. } => 3,
            Self::LinkBytes { .. } => 4,
            Self::Feature { .. } => 6,
            Self::Pause { .. } | Self::Coalesce { .. } => 7,
            Self::FlowHash { .. } | Self::RssTable { .. } => 8,
            Self::Qdisc { .. } => 9,
            Self::LinkFile { .. } => 10,
            Self::IrqAffinity { .. } => 11,
            Self::OwnedFile { .. } => 12,
        }
    }

    /// The cost of changing this setting.
    #[must_use]
    pub fn risk(&self) -> Risk {
        match self {
            Self::Channels { .. }
            | Self::Rings { .. }
            | Self::PrivateFlag { .. }
            | Self::Pause { field: PauseField::Autoneg, .. } => Risk::LinkReset,
            Self::LinkBytes { size: LinkBytes::Mtu, .. } => Risk::Reachability,
            _ => Risk::None,
        }
    }

    /// Whether a write of this setting may disturb `other`, one of the same link.
    ///
    /// For most of these, drivers reopen their queues, and some then lose earlier settings.
    #[must_use]
    pub fn disturbs(&self, other: &Self) -> bool {
        let queues = matches!(
            other,
            Self::Coalesce { .. }
                | Self::FlowHash { .. }
                | Self::RssTable { .. }
                | Self::LinkFile { .. }
                | Self::IrqAffinity { .. }
        );
        match self {
            Self::Channels { .. } => {
                queues || matches!(other, Self::Qdisc { .. } | Self::Rings { .. } | Self::Feature { .. })
            }
            Self::Rings { .. } | Self::PrivateFlag { .. } => queues || matches!(other, Self::Feature { .. }),
            Self::LinkBytes { size: LinkBytes::Mtu, .. } => {
                queues || matches!(other, Self::Feature { .. } | Self::LinkBytes { .. } | Self::Sysctl { .. })
            }
            Self::LinkBytes { .. } => matches!(other, Self::LinkBytes { .. }),
            Self::Feature { .. } => {
                matches!(
                    other,
                    Self::Feature { .. } | Self::RssTable { .. } | Self::FlowHash { .. } | Self::LinkBytes { .. }
                )
            }
            Self::Pause { .. } => matches!(other, Self::Pause { .. }),
            Self::Coalesce { .. } => matches!(other, Self::Coalesce { .. }),
            _ => false,
        }
    }

    /// Settings outside any link that a write may disturb.
    #[must_use]
    pub fn disturbs_elsewhere(&self) -> Vec<Self> {
        match self {
            // intel_pstate and amd_pstate move the preference with the governor.
            Self::KernelFile { path } => path
                .strip_suffix("/scaling_governor")
                .map(|policy| vec![Self::kernel_file(format!("{policy}/energy_performance_preference"))])
                .unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// Whether the value read is the value wanted, regardless of the blanks, zeros or extra
    /// attributes that the kernel adds.
    #[must_use]
    pub fn same(&self, wanted: &Value, found: &Value) -> bool {
        let (Some(wanted), Some(found)) = (&wanted.0, &found.0) else { return wanted.0 == found.0 };
        match self {
            Self::OwnedFile { .. } => wanted == found,
            Self::Qdisc { .. } => same_qdiscs(wanted, found),
            Self::IrqAffinity { .. } => {
                let set = |text: &str| text.parse::<CpuSet>();
                set(wanted).is_ok_and(|wanted| set(found) == Ok(wanted))
            }
            Self::LinkFile { file, .. } if file.ends_with("_cpus") => {
                let set = |text: &str| CpuSet::from_mask(text);
                set(wanted).is_ok_and(|wanted| set(found) == Ok(wanted))
            }
            Self::FlowHash { .. } => {
                let letters = |text: &str| {
                    let mut letters: Vec<char> = text.chars().collect();
                    letters.sort_unstable();
                    letters
                };
                letters(wanted) == letters(found)
            }
            _ => normal_value(wanted) == normal_value(found),
        }
    }
}

/// Whether the existing tree matches the wanted one at every place that this names. A default root
/// equals only another default root: otherwise a rollback would leave attached what replaced it.
fn same_qdiscs(wanted: &str, found: &str) -> bool {
    let tree = |text: &str| serde_json::from_str::<QdiscTree>(text).ok();
    let (Some(wanted), Some(found)) = (tree(wanted), tree(found)) else { return false };
    let root_of_defaults = |tree: &QdiscTree| tree.0.first().is_none_or(QdiscEntry::is_default);
    if root_of_defaults(&wanted) != root_of_defaults(&found) || wanted.0.is_empty() != found.0.is_empty() {
        return false;
    }
    wanted.0.iter().all(|wanted| {
        found.0.iter().any(|found| {
            found.parent == wanted.parent
                && found.kind == wanted.kind
                && (wanted.handle.is_empty() || wanted.is_default() || wanted.handle == found.handle)
                && found.options_include(&wanted.options)
        })
    })
}

impl fmt::Display for Setting {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service { unit } => write!(out, "service {unit}"),
            Self::Sysctl { key } => write!(out, "sysctl {}", key.replace('/', ".")),
            Self::DirtyLimit { background: true } => out.write_str("sysctl vm.dirty_background_bytes or _ratio"),
            Self::DirtyLimit { background: false } => out.write_str("sysctl vm.dirty_bytes or _ratio"),
            Self::KernelFile { path } | Self::OwnedFile { path } => out.write_str(path),
            Self::Channels { link } => write!(out, "{link} channels"),
            Self::Rings { link } => write!(out, "{link} rings"),
            Self::PrivateFlag { link, flag } => write!(out, "{link} driver flag {flag}"),
            Self::LinkBytes { link, size } => {
                let size = match size {
                    LinkBytes::Mtu => "MTU",
                    LinkBytes::GsoMax => "gso_max_size",
                    LinkBytes::GroMax => "gro_max_size",
                    LinkBytes::GsoIpv4Max => "gso_ipv4_max_size",
                    LinkBytes::GroIpv4Max => "gro_ipv4_max_size",
                };
                write!(out, "{link} {size}")
            }
            Self::Feature { link, feature } => write!(out, "{link} offload {feature}"),
            Self::Pause { link, field } => write!(out, "{link} pause {}", field.word()),
            Self::Coalesce { link, field } => write!(out, "{link} coalescing {}", field.word()),
            Self::FlowHash { link, flow } => write!(out, "{link} hash fields of {flow}"),
            Self::RssTable { link } => write!(out, "{link} RSS table"),
            Self::Qdisc { link } => write!(out, "{link} queueing discipline"),
            Self::LinkFile { link, file } => write!(out, "{link} {file}"),
            Self::IrqAffinity { link, vector } => write!(out, "{link} interrupt {vector}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(entries: &[(&str, &str, &str)]) -> Value {
        let entry = |(kind, parent, handle): &(&str, &str, &str)| QdiscEntry {
            kind: (*kind).to_owned(),
            parent: (*parent).to_owned(),
            handle: (*handle).to_owned(),
            options: String::new(),
        };
        Value::new(serde_json::to_string(&QdiscTree(entries.iter().map(entry).collect())).unwrap())
    }

    #[test]
    fn blanks_and_zeroes_make_no_difference() {
        let same = |setting: &Setting, a: &str, b: &str| setting.same(&Value::new(a), &Value::new(b));
        assert!(same(&Setting::sysctl("net.ipv4.tcp_rmem"), "4096 87380 1", "4096\t87380\t1\n"));
        let affinity = Setting::IrqAffinity { link: "a".to_owned(), vector: "b".to_owned() };
        assert!(same(&affinity, "0,1,2", "0-2"));
        assert!(same(&Setting::link_file("a", "queues/tx-0/xps_cpus"), "3", "00000000,00000003"));
        assert!(!same(&Setting::link_file("a", "napi_defer_hard_irqs"), "2", "0"));
        let hash = Setting::FlowHash { link: "a".to_owned(), flow: "udp4".to_owned() };
        assert!(same(&hash, "sdfn", "nfds"));
    }

    #[test]
    fn a_default_root_is_not_one_that_was_hung() {
        let qdisc = Setting::Qdisc { link: "a".to_owned() };
        assert!(qdisc.same(&tree(&[("fq", "root", "")]), &tree(&[("fq", "root", "8001:")])));
        assert!(!qdisc.same(&tree(&[("fq", "root", "0:")]), &tree(&[("fq", "root", "8001:")])));
        assert!(!qdisc.same(&tree(&[("fq", "root", "8002:")]), &tree(&[("fq", "root", "8001:")])));
        assert!(!qdisc.same(&tree(&[("mq", "root", "1:"), ("fq", "1:1", "")]), &tree(&[("mq", "root", "1:")])));
        assert!(!qdisc.same(&tree(&[]), &tree(&[("fq", "root", "8001:")])));
    }

    #[test]
    fn a_setting_survives_json() {
        let setting = Setting::Coalesce { link: "eth0".to_owned(), field: CoalesceField::RxUsecs };
        let json = serde_json::to_string(&setting).unwrap();
        assert_eq!(json, r#"{"kind":"coalesce","link":"eth0","field":"rx_usecs"}"#);
        assert_eq!(serde_json::from_str::<Setting>(&json).unwrap(), setting);
    }
}
