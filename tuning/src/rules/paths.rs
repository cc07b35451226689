//! The MTU of links, and whether the paths behind them carry packets of that size.

use culvert_host::facts::Facts;
use culvert_host::setting::Setting;

use super::rule::{Effect, Rule, Source};
use super::support::{culvert, each_link, fasterdata};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// The usual MTU of research networks.
const JUMBO_BYTES: u32 = 9000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "nic.mtu",
        title: "MTU",
        recommends: "9000 end to end, where the network has it",
        reason: "a sixth of the packets and of their cost, and six times the rate that TCP sustains at the same loss",
        applies_when: "changed only if the site file gives the MTU of the network behind the link; the confirm timer undoes what cuts the admin off",
        conflicts_with: &[
            "a switch port, router or peer with a smaller MTU",
            "AF_XDP without multi-buffer support above 3498 bytes",
        ],
        effect: Effect::Large,
        sources: &[fasterdata("Host Tuning, Linux: MTU; DTN, Tuning")],
        on_request: false,
        check: mtu,
    },
    Rule {
        id: "path.mtu",
        title: "MTU along the path",
        recommends: "packets of the link's MTU reach every partner",
        reason: "a path that silently drops full-size packets (a black hole) stops transfers that \
            worked while packets were small",
        applies_when: "the site file names partners; with --probe, packets are sent to them",
        conflicts_with: &["firewalls that drop ICMP"],
        effect: Effect::Large,
        sources: &[Source { document: "RFC 8899", section: "section 4" }, fasterdata("Host Tuning, Linux: MTU")],
        on_request: false,
        check: path_mtu,
    },
    Rule {
        id: "path.rtt",
        title: "round trip times",
        recommends: "rtt_ms in the site file: the longest of all transfers",
        reason: "buffer sizes follow from the rate times the round-trip time",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::None,
        sources: &[culvert("choosing values")],
        on_request: false,
        check: rtt,
    },
];

fn mtu(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let current = link.mtu_bytes.to_string();
        let site = targets.site.links.get(&link.name).and_then(|site| site.mtu);
        if let Some(wanted) = site {
            if wanted == link.mtu_bytes {
                return Finding::ok(&link.name, current);
            }
            if link.mtu_max_bytes.is_some_and(|max| wanted > max) {
                let why = format!(
                    "the site file asks for {wanted}, but the driver supports at most {}",
                    link.mtu_max_bytes.unwrap_or(0)
                );
                return Finding::conflict(&link.name, Severity::High, current, wanted.to_string(), why)
                    .step(format!("correct [links.{}] mtu in the site file", link.name));
            }
            let why = "the site file gives this MTU for the network behind the link";
            return Finding::differs(&link.name, Severity::High, current, wanted.to_string(), why)
                .change(Setting::mtu(&link.name), wanted.to_string())
                .step("afterwards: culvert tune audit --probe, or culvert path check PARTNER");
        }
        if link.mtu_bytes >= JUMBO_BYTES {
            return Finding::ok(&link.name, current);
        }
        if link.mtu_max_bytes.is_some_and(|max| max < JUMBO_BYTES) {
            return Finding {
                current,
                ..Finding::not_applicable(&link.name, "the driver does not support jumbo frames")
            };
        }
        let severity = if targets.is_at_least(10) { Severity::High } else { Severity::Info };
        Finding::differs(
            &link.name,
            severity,
            current,
            JUMBO_BYTES.to_string(),
            "six times the packets for the same bytes",
        )
        .step(format!(
            "ask whether the network supports jumbo frames end to end; if so, write [links.{}] \
                 mtu = 9000 into the site file and apply",
            link.name
        ))
    })
}

fn path_mtu(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if targets.site.partners.is_empty() && facts.paths.is_empty() {
        return vec![Finding::not_applicable("", "no partner is known: name them in the site file under [[partners]]")];
    }
    if facts.paths.is_empty() {
        return vec![Finding::unknown("", "the facts have no path to a partner: the names may not resolve")];
    }
    facts
        .paths
        .iter()
        .map(|path| {
            let link = path.link.as_ref().and_then(|name| facts.link(name));
            let Some(link) = link else {
                return Finding::unknown(&path.partner, "the link of this path is not known");
            };
            let step = "find the device that drops large packets: culvert path check, or tracepath with the full size";
            match (path.proven_mtu_bytes, path.kernel_mtu_bytes) {
                (Some(proven), _) if proven < link.mtu_bytes => Finding::differs(
                    &path.partner,
                    Severity::Critical,
                    format!("{proven} of {} bytes arrive", link.mtu_bytes),
                    format!("{} bytes", link.mtu_bytes),
                    format!("{} sends packets that the path to {} loses", link.name, path.address),
                )
                .step(step),
                (Some(proven), _) => Finding::ok(&path.partner, format!("{proven} bytes arrive")),
                (None, Some(kernel)) if kernel < link.mtu_bytes => Finding::differs(
                    &path.partner,
                    Severity::Warning,
                    format!("{kernel} bytes according to a route or a router"),
                    format!("{} bytes", link.mtu_bytes),
                    format!("the path to {} is narrower than {}", path.address, link.name),
                )
                .step(step),
                (None, _) => {
                    Finding::unknown(&path.partner, "not proven: run the audit with --probe, or culvert path check")
                }
            }
        })
        .collect()
}

fn rtt(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let known = targets.site.rtt_ms.is_some()
        || targets.site.partners.iter().any(|partner| partner.rtt_ms.is_some())
        || facts.paths.iter().any(|path| path.rtt_ms.is_some());
    if known {
        return vec![Finding::ok("", format!("{} ms", targets.rtt_ms))];
    }
    let why = format!("buffers are sized for {} ms, the profile's default", targets.rtt_ms);
    vec![Finding::unknown("", why).step("write rtt_ms into the site file, or name partners and run with --probe")]
}
