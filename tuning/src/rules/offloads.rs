//! Offloads: processing of packet trains by the NIC, or by the kernel at once.

use culvert_host::facts::{Facts, Link};
use culvert_host::kernel_version::KernelVersion;
use culvert_host::setting::Setting;

use super::rule::{Effect, Rule};
use super::support::{culvert, each_link, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// Offloads that help every transfer. A NIC has one of the two kinds of checksum offload; the
/// kernel reports those that it lacks as fixed.
const WANTED: [&str; 10] = [
    "rx-checksum",
    "tx-checksum-ip-generic",
    "tx-checksum-ipv4",
    "tx-checksum-ipv6",
    "tx-scatter-gather",
    "tx-tcp-segmentation",
    "tx-tcp6-segmentation",
    "tx-generic-segmentation",
    "rx-gro",
    "rx-vlan-hw-parse",
];
/// UDP segmentation, which the udp datapath uses; the kernel segments in software if it is off.
const UDP_SEGMENTATION: &str = "tx-udp-segmentation";
/// The first kernel with BIG TCP for IPv4.
const BIG_TCP_SINCE: KernelVersion = KernelVersion::new(6, 3);
/// The size used in the tests at SC24.
const BIG_TCP_BYTES: u32 = 185_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "nic.offloads",
        title: "segmentation, checksum and receive offloads",
        recommends: "checksums, scatter-gather, TSO, GSO, GRO, VLAN stripping: on",
        reason: "the stack then handles up to 64 KiB at once instead of one packet",
        applies_when: "the driver can change them",
        conflicts_with: &["old guides that turn them off for latency or capture"],
        effect: Effect::Large,
        sources: &[fasterdata("Host Tuning, Linux; 100G Tuning"), kernel("networking/segmentation-offloads")],
        on_request: false,
        check: offloads,
    },
    Rule {
        id: "nic.udp_segmentation",
        title: "UDP segmentation offload",
        recommends: "tx-udp-segmentation: on",
        reason: "the udp datapath passes trains of segments to the kernel; the NIC should split them, not the core",
        applies_when: "the driver can change it",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[kernel("networking/segmentation-offloads, UDP GSO"), culvert("the udp datapath")],
        on_request: false,
        check: udp_segmentation,
    },
    Rule {
        id: "nic.lro",
        title: "large receive offload",
        recommends: "rx-lro off where the host forwards or attaches XDP; rx-udp-gro-forwarding and rx-gro-list off",
        reason: "merged packets cannot be forwarded, and AF_XDP gets the merged packet instead of the segments",
        applies_when: "one of them is on",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[kernel("networking/segmentation-offloads"), culvert("AF_XDP and merged packets")],
        on_request: false,
        check: lro,
    },
    Rule {
        id: "nic.big_tcp",
        title: "BIG TCP",
        recommends: "gso_max_size and gro_max_size 185000 where single TCP streams matter; measure",
        reason: "TCP tools send and receive larger trains; Culvert's own UDP does not use it",
        applies_when: "100G and above, kernel 6.3 or later",
        conflicts_with: &["MSG_ZEROCOPY and some tunnels on older kernels"],
        effect: Effect::Small,
        sources: &[fasterdata("100G Tuning"), kernel("networking/ip-sysctl, BIG TCP")],
        on_request: true,
        check: big_tcp,
    },
];

fn offloads(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        if link.features.is_empty() {
            return Finding::unknown(&link.name, "the driver's offloads could not be read");
        }
        let off: Vec<&str> = WANTED
            .into_iter()
            .filter(|name| link.features.get(*name).is_some_and(|feature| !feature.active && !feature.fixed))
            .filter(|name| !is_other_checksum(link, name) && has_what_it_needs(link, name))
            .collect();
        if off.is_empty() {
            return Finding::ok(&link.name, "on");
        }
        let why = "the stack handles packets one by one instead of in trains";
        let finding = Finding::differs(&link.name, Severity::High, format!("off: {}", off.join(", ")), "on", why);
        off.into_iter().fold(finding, |finding, name| {
            finding.change(Setting::Feature { link: link.name.clone(), feature: name.to_owned() }, "on")
        })
    })
}

/// Whether a checksum offload is off because the NIC's other kind is on.
fn is_other_checksum(link: &Link, name: &str) -> bool {
    let generic = link.has_feature("tx-checksum-ip-generic") == Some(true);
    let by_protocol = link.has_feature("tx-checksum-ipv4") == Some(true);
    match name {
        "tx-checksum-ipv4" | "tx-checksum-ipv6" => generic,
        "tx-checksum-ip-generic" => by_protocol,
        _ => false,
    }
}

/// Whether the offloads that an offload depends on are on or can be. Otherwise the kernel accepts
/// the request and leaves the offload off (`netdev_fix_features` in `net/core/dev.c`).
fn has_what_it_needs(link: &Link, name: &str) -> bool {
    let can = |name: &str| link.features.get(name).is_some_and(|feature| feature.active || !feature.fixed);
    let generic = can("tx-checksum-ip-generic");
    match name {
        "tx-generic-segmentation" => can("tx-scatter-gather"),
        "tx-tcp-segmentation" => can("tx-scatter-gather") && (generic || can("tx-checksum-ipv4")),
        "tx-tcp6-segmentation" => can("tx-scatter-gather") && (generic || can("tx-checksum-ipv6")),
        UDP_SEGMENTATION => generic || (can("tx-checksum-ipv4") && can("tx-checksum-ipv6")),
        _ => true,
    }
}

fn udp_segmentation(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| match link.features.get(UDP_SEGMENTATION) {
        None => Finding::unknown(&link.name, "the kernel does not report it"),
        Some(feature) if feature.active => Finding::ok(&link.name, "on"),
        Some(feature) if feature.fixed || !has_what_it_needs(link, UDP_SEGMENTATION) => Finding::not_applicable(
            &link.name,
            "the NIC cannot do it; the kernel splits the segments, which costs part of a core",
        ),
        Some(_) => {
            let why = "the kernel splits the segments on the core that sends them";
            Finding::differs(&link.name, Severity::Warning, "off", "on", why)
                .change(Setting::Feature { link: link.name.clone(), feature: UDP_SEGMENTATION.to_owned() }, "on")
        }
    })
}

fn lro(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let forwards = facts.sysctl_number("net.ipv4.ip_forward") == Some(1);
    each_link(facts, targets, |link| {
        let attached = link.xdp.as_ref().and_then(|xdp| xdp.program_attached) == Some(true);
        let unwanted: Vec<&str> =
            [("rx-lro", forwards || attached), ("rx-gro-list", true), ("rx-udp-gro-forwarding", true)]
                .into_iter()
                .filter(|(name, unwanted)| {
                    *unwanted && link.features.get(*name).is_some_and(|feature| feature.active && !feature.fixed)
                })
                .map(|(name, _)| name)
                .collect();
        if unwanted.is_empty() {
            return Finding::ok(&link.name, "off where it must be");
        }
        let why = "merged packets reach programs that want segments";
        let finding =
            Finding::differs(&link.name, Severity::Warning, format!("on: {}", unwanted.join(", ")), "off", why);
        unwanted.into_iter().fold(finding, |finding, name| {
            finding.change(Setting::Feature { link: link.name.clone(), feature: name.to_owned() }, "off")
        })
    })
}

fn big_tcp(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    use culvert_host::netlink::LinkBytes;
    each_link(facts, targets, |link| {
        let recent = facts.system.kernel_version().is_some_and(|kernel| kernel >= BIG_TCP_SINCE);
        let sizes = [
            (LinkBytes::GsoMax, link.gso_max_bytes),
            (LinkBytes::GroMax, link.gro_max_bytes),
            (LinkBytes::GsoIpv4Max, link.gso_ipv4_max_bytes),
            (LinkBytes::GroIpv4Max, link.gro_ipv4_max_bytes),
        ];
        if !targets.is_at_least(100) || !recent || sizes.iter().any(|(_, size)| size.is_none()) {
            return Finding::not_applicable(&link.name, "for 100G and above on kernel 6.3 or later");
        }
        let small: Vec<LinkBytes> = sizes
            .into_iter()
            .filter(|(_, size)| size.is_some_and(|size| size < BIG_TCP_BYTES))
            .map(|(size, _)| size)
            .collect();
        if small.is_empty() {
            return Finding::ok(&link.name, format!("{BIG_TCP_BYTES} or more"));
        }
        let why = "single TCP streams may gain; measure it";
        let finding = Finding::differs(&link.name, Severity::Info, "64 KiB", BIG_TCP_BYTES.to_string(), why);
        small.into_iter().fold(finding, |finding, size| {
            finding.change(Setting::LinkBytes { link: link.name.clone(), size }, BIG_TCP_BYTES.to_string())
        })
    })
}

#[cfg(test)]
mod tests {
    use culvert_host::facts::Feature;

    use super::*;
    use crate::site::Site;

    /// virtio_net behind a hypervisor that offers no checksums: scatter-gather is fixed off, and
    /// the kernel accepts generic segmentation without ever switching it on (seen on Linux 6.1 in
    /// QEMU).
    #[test]
    fn what_the_kernel_would_not_switch_on_is_not_asked_for() {
        let feature = |fixed| Feature { active: false, fixed };
        let mut link = Link { name: "a".to_owned(), device: Some("x".to_owned()), up: true, ..Link::default() };
        for name in WANTED {
            link.features
                .insert(name.to_owned(), feature(name.starts_with("tx-checksum") || name == "tx-scatter-gather"));
        }
        link.features.insert(UDP_SEGMENTATION.to_owned(), feature(false));
        let changes = |link: &Link| -> Vec<String> {
            let facts = Facts { links: vec![link.clone()], ..Facts::default() };
            let targets = Targets::choose(&facts, &Site::default(), None);
            let findings = offloads(&facts, &targets).into_iter().chain(udp_segmentation(&facts, &targets));
            findings.flat_map(|finding| finding.changes).map(|change| change.setting.to_string()).collect()
        };
        assert!(!changes(&link).iter().any(|name| name.contains("segmentation")), "{:?}", changes(&link));
        for name in ["tx-checksum-ip-generic", "tx-scatter-gather"] {
            link.features.insert(name.to_owned(), feature(false));
        }
        assert_eq!(changes(&link).iter().filter(|name| name.contains("segmentation")).count(), 4);
    }
}
