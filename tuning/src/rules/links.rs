//! Parameters of NICs: rings, channels, coalescing, flow control, driver flags, the PCIe slot.

use culvert_host::facts::{Facts, Link, PcieLink};
use culvert_host::kernel_version::KernelVersion;
use culvert_host::netlink::{CoalesceField, PauseField};
use culvert_host::setting::Setting;
use culvert_protocol::counted::{agree, counted};

use super::rule::{Effect, Rule, Source};
use super::support::{each_link, fasterdata, kernel};
use crate::finding::{Finding, Severity};
use crate::profile::ProfileName;
use crate::targets::{Targets, gigabits, local_cpus, physical_cores};

/// The first kernel on which larger rings no longer help (fasterdata, "100G Tuning").
const RINGS_UNTIL: KernelVersion = KernelVersion::new(6, 11);
/// The largest ring that fasterdata recommends.
const RING_MAX: u32 = 8192;
/// A larger share of missed packets counts as a lack of descriptors rather than an accident.
const MISSED_PER_PACKET: f64 = 1e-6;
/// Drivers of Mellanox and NVIDIA.
const MELLANOX: &str = "mlx5_core";

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "nic.rings",
        title: "ring sizes",
        recommends: "the driver's most, up to 8192, on kernels before 6.11",
        reason: "a burst that finds no free descriptor is lost; since 6.11 larger rings no longer help and cost cache",
        applies_when: "kernel before 6.11 and a driver with rings",
        conflicts_with: &["a change resets the link", "udev and .link files that set rings at boot"],
        effect: Effect::Medium,
        sources: &[fasterdata("Host Tuning, Linux; 100G Tuning (kernel 6.11)")],
        on_request: false,
        check: rings,
    },
    Rule {
        id: "nic.channels",
        title: "channels, cores and lanes",
        recommends: "no more than the cores of the NIC's node; 8 to 16 at 100G, 16 to 32 at 400G; at least one for each lane",
        reason: "a queue served by a core of the other socket costs more for every packet; a lane \
            without its own queue cannot use AF_XDP",
        applies_when: "the driver can set channels and no XDP program holds the queues",
        conflicts_with: &["a change resets the link, and mlx5 refuses it while an AF_XDP socket is bound"],
        effect: Effect::Medium,
        sources: &[fasterdata("100G Tuning, Interrupt Binding"), kernel("networking/scaling, RSS")],
        on_request: false,
        check: channels,
    },
    Rule {
        id: "nic.coalescing",
        title: "interrupt coalescing",
        recommends: "adaptive-rx on, adaptive-tx on",
        reason: "an interrupt for every packet costs the core that should carry the packet",
        applies_when: "the driver supports it; on a measurement host it is only reported, because \
            coalescing blurs timestamps",
        conflicts_with: &["latency measurements without hardware timestamps"],
        effect: Effect::Medium,
        sources: &[fasterdata("100G Tuning")],
        on_request: false,
        check: coalescing,
    },
    Rule {
        id: "nic.pause",
        title: "Ethernet flow control",
        recommends: "rx on, tx on; or priority flow control where the fabric has it",
        reason: "it lets the NIC and the first switch wait for each other instead of losing packets; ice has it off by default",
        applies_when: "the driver has it and it is not negotiated",
        conflicts_with: &["RoCE fabrics with priority flow control"],
        effect: Effect::Small,
        sources: &[fasterdata("Host Tuning, Linux: flow control; 100G Tuning")],
        on_request: false,
        check: pause,
    },
    Rule {
        id: "nic.driver_flags",
        title: "switches of the mlx5 driver",
        recommends: "rx_striding_rq on; rx_cqe_compress on",
        reason: "fewer and fuller completions over PCIe",
        applies_when: "mlx5_core, 100G and above; rx_cqe_compress costs hardware timestamps, so it is left to a measurement",
        conflicts_with: &["rx_cqe_compress switches hardware receive timestamps off"],
        effect: Effect::Small,
        sources: &[Source { document: "NVIDIA", section: "Performance Tuning for Mellanox Adapters" }],
        on_request: true,
        check: driver_flags,
    },
    Rule {
        id: "nic.pcie",
        title: "the slot of the NIC",
        recommends: "all lanes at full speed, and more than the link's rate: x8 Gen3 for 40G, x16 Gen3 for 100G, x16 Gen5 for 400G",
        reason: "a card in a narrow or slow slot never reaches its rate, whatever is tuned",
        applies_when: "the NIC is a PCIe device",
        conflicts_with: &[],
        effect: Effect::Large,
        sources: &[
            Source { document: "PCI Express Base Specification", section: "link speeds and widths" },
            fasterdata("100G Tuning"),
        ],
        on_request: false,
        check: pcie,
    },
    Rule {
        id: "nic.losses",
        title: "packets lost in the NIC",
        recommends: "no missed packets, no damaged packets",
        reason: "packets are missed when the host refills the receive ring too slowly; damaged ones \
            point to a bad cable or optic",
        applies_when: "always",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[kernel("networking/statistics")],
        on_request: false,
        check: losses,
    },
];

/// The recommended number of channels; `None` if the current one is fine or cannot be changed.
pub(super) fn wanted_channels(facts: &Facts, targets: &Targets, link: &Link) -> Option<u32> {
    let channels = link.channels.filter(|channels| channels.combined_max > 1)?;
    if link.xdp.as_ref().and_then(|xdp| xdp.program_attached) == Some(true) {
        return None;
    }
    let cores = u32::try_from(physical_cores(facts, &local_cpus(facts, link)).len()).ok().filter(|cores| *cores > 0)?;
    let (fewest, most) = channel_range(targets);
    let most = most.min(cores).min(channels.combined_max);
    let fewest = fewest.max(targets.lanes).min(most);
    let wanted = channels.combined.clamp(fewest, most);
    (wanted != channels.combined).then_some(wanted)
}

fn rings(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(rings) = link.rings.filter(|rings| rings.rx_max > 0) else {
            return Finding::not_applicable(&link.name, "the driver has no rings to set");
        };
        let current = format!("rx {} tx {}", rings.rx, rings.tx);
        let Some(kernel) = facts.system.kernel_version() else {
            return Finding::unknown(&link.name, "the advice depends on the kernel's version");
        };
        if kernel >= RINGS_UNTIL {
            let why = format!("kernel {kernel}: since {RINGS_UNTIL} larger rings no longer help");
            return Finding { current, ..Finding::not_applicable(&link.name, why) };
        }
        let best = |now: u32, max: u32| now.max(max.min(RING_MAX));
        let wanted = format!("rx {} tx {}", best(rings.rx, rings.rx_max), best(rings.tx, rings.tx_max));
        if wanted == current {
            return Finding::ok(&link.name, current);
        }
        let why = format!("kernel {kernel}: bursts find too few free descriptors");
        Finding::differs(&link.name, Severity::Warning, current, &wanted, why)
            .change(Setting::Rings { link: link.name.clone() }, wanted)
    })
}

/// The fewest and the most channels for the rate.
fn channel_range(targets: &Targets) -> (u32, u32) {
    match targets.profile {
        ProfileName::Dtn400g => (16, 32),
        ProfileName::Dtn100g => (8, 16),
        ProfileName::Measurement if targets.is_at_least(100) => (8, 16),
        _ => (1, u32::MAX),
    }
}

fn channels(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(channels) = link.channels.filter(|channels| channels.combined_max > 1) else {
            return Finding::not_applicable(&link.name, "the driver has one channel, or none to set");
        };
        let current = format!("{} combined of {}", channels.combined, channels.combined_max);
        if link.xdp.as_ref().and_then(|xdp| xdp.program_attached) == Some(true) {
            return Finding { current, ..Finding::not_applicable(&link.name, "an XDP program holds the queues") };
        }
        let Some(wanted) = wanted_channels(facts, targets, link) else {
            return Finding::ok(&link.name, current);
        };
        let cores = physical_cores(facts, &local_cpus(facts, link)).len();
        let why = if wanted < channels.combined {
            format!(
                "the NIC's node has {}: the other queues are served by remote cores, or share one",
                counted(cores, "core")
            )
        } else {
            {
                let (lanes, near) = (counted(targets.lanes, "lane"), counted(cores, "core"));
                let (need, are) = (agree(targets.lanes, "needs", "need"), agree(cores, "is", "are"));
                format!("{lanes} {need} a queue each, and {near} {are} near")
            }
        };
        let value = format!("rx {} tx {} combined {wanted}", channels.rx, channels.tx);
        Finding::differs(&link.name, Severity::Warning, current, format!("{wanted} combined"), why)
            .change(Setting::Channels { link: link.name.clone() }, value)
    })
}

fn coalescing(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(coalesce) = link.coalesce else {
            return Finding::not_applicable(&link.name, "the driver has no coalescing");
        };
        let word = |on: Option<bool>| on.map_or("not available", |on| if on { "on" } else { "off" });
        let current = format!("adaptive-rx {}, adaptive-tx {}", word(coalesce.adaptive_rx), word(coalesce.adaptive_tx));
        // virtio and others report `off` for parameters that they lack; a delay that could be
        // adapted exists only if one is set.
        if link.driver.as_deref() == Some("virtio_net") {
            return Finding { current, ..Finding::not_applicable(&link.name, "virtio_net: the hypervisor coalesces") };
        }
        let off: Vec<CoalesceField> =
            [(CoalesceField::AdaptiveRx, coalesce.adaptive_rx), (CoalesceField::AdaptiveTx, coalesce.adaptive_tx)]
                .into_iter()
                .filter(|(_, on)| *on == Some(false))
                .map(|(field, _)| field)
                .collect();
        if off.is_empty() {
            return Finding::ok(&link.name, current);
        }
        let finding = Finding::differs(
            &link.name,
            Severity::Warning,
            current,
            "adaptive-rx on, adaptive-tx on",
            "fixed delays fit one rate: too many interrupts above it, too much delay below it",
        );
        if targets.profile == ProfileName::Measurement {
            return Finding { severity: Severity::Info, ..finding }.step(format!(
                "if times are taken in hardware: ethtool -C {} adaptive-rx on adaptive-tx on",
                link.name
            ));
        }
        off.into_iter()
            .fold(finding, |finding, field| finding.change(Setting::Coalesce { link: link.name.clone(), field }, "1"))
    })
}

fn pause(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(pause) = link.pause else {
            return Finding::not_applicable(&link.name, "the driver has no flow control");
        };
        let word = |on: bool| if on { "on" } else { "off" };
        let current = format!("rx {}, tx {}", word(pause.rx), word(pause.tx));
        if pause.rx && pause.tx {
            return Finding::ok(&link.name, current);
        }
        let why = "a full buffer in this host or the switch loses packets instead of waiting";
        let finding = Finding::differs(&link.name, Severity::Warning, current, "rx on, tx on", why);
        if pause.autoneg {
            return finding.step(format!(
                "it is negotiated: turn it on at the other end, or run ethtool -A {} autoneg off rx on tx on",
                link.name
            ));
        }
        [(PauseField::Rx, pause.rx), (PauseField::Tx, pause.tx)]
            .into_iter()
            .filter(|(_, on)| !on)
            .fold(finding, |finding, (field, _)| {
                finding.change(Setting::Pause { link: link.name.clone(), field }, "on")
            })
    })
}

fn driver_flags(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        if link.driver.as_deref() != Some(MELLANOX) || !targets.is_at_least(100) {
            return Finding::not_applicable(&link.name, "only for mlx5 at 100G and above");
        }
        let off: Vec<&str> = ["rx_striding_rq", "rx_cqe_compress"]
            .into_iter()
            .filter(|flag| link.private_flags.get(*flag) == Some(&false))
            .collect();
        if off.is_empty() {
            return Finding::ok(&link.name, "on");
        }
        let why = "completions take more PCIe transactions than they need; measure, since compression costs timestamps";
        let finding = Finding::differs(&link.name, Severity::Info, format!("{} off", off.join(", ")), "on", why);
        off.into_iter().fold(finding, |finding, flag| {
            finding.change(Setting::PrivateFlag { link: link.name.clone(), flag: flag.to_owned() }, "on")
        })
    })
}

fn describe(pcie: &PcieLink) -> String {
    let speed = |speed: Option<f64>| speed.map_or("?".to_owned(), |speed| format!("{speed}"));
    let width = |width: Option<u32>| width.map_or("?".to_owned(), |width| format!("{width}"));
    format!(
        "x{} at {} GT/s of x{} at {}",
        width(pcie.width),
        speed(pcie.speed_gigatransfers),
        width(pcie.width_max),
        speed(pcie.speed_max_gigatransfers)
    )
}

fn pcie(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let Some(pcie) = &link.pcie else {
            return Finding::not_applicable(&link.name, "not a PCIe device, or behind a hypervisor");
        };
        let Some(carries) = pcie.bits_per_second() else {
            return Finding::unknown(&link.name, "the slot does not report its width");
        };
        let current = format!("{}, {}", describe(pcie), gigabits((carries / 1e9).floor() as u64 * 1_000_000_000));
        let narrow = matches!((pcie.width, pcie.width_max), (Some(now), Some(max)) if now < max);
        let slow =
            matches!((pcie.speed_gigatransfers, pcie.speed_max_gigatransfers), (Some(now), Some(max)) if now < max);
        let too_little = link.speed_bits_per_second.is_some_and(|speed| carries < speed as f64 * 1.05);
        let step =
            "move the card to a slot with all its lanes; check the BIOS for bifurcation and link speed, and the riser";
        if too_little {
            let why = "the slot carries less than the link";
            return Finding::differs(&link.name, Severity::Critical, current, "the card's full width and speed", why)
                .step(step);
        }
        if narrow || slow {
            let why = "the slot gives the card less than it supports, but enough for the link";
            return Finding::differs(&link.name, Severity::Info, current, "the card's full width and speed", why)
                .step(step);
        }
        Finding::ok(&link.name, current)
    })
}

fn losses(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let counters = &link.counters;
        let Some(packets) = counters.rx_packets.filter(|packets| *packets > 0) else {
            return Finding::unknown(&link.name, "no packets yet");
        };
        let (missed, errors) = (counters.rx_missed.unwrap_or(0), counters.rx_errors.unwrap_or(0));
        let current = format!("{missed} missed, {errors} damaged of {packets}");
        let beyond = |count: u64| count as f64 / packets as f64 > MISSED_PER_PACKET;
        match (beyond(errors), beyond(missed)) {
            (true, _) => Finding::differs(
                &link.name,
                Severity::High,
                current,
                "none",
                "damaged packets count as loss on every transfer",
            )
            .step("clean or replace the optic, the fiber or the cable; `ethtool -m` shows the light levels"),
            (_, true) => Finding::differs(
                &link.name,
                Severity::Warning,
                current,
                "none",
                "the host refilled the NIC's receive ring too slowly",
            )
            .step("first look at nic.rings, nic.irq_affinity, cpu.governor and cpu.c_states in this audit"),
            _ => Finding::ok(&link.name, current),
        }
    })
}
