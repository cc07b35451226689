//! Requirements of Culvert's data plane: AF_XDP, busy polling, io_uring, ciphers.

use culvert_host::facts::Facts;
use culvert_host::kernel_version::KernelVersion;
use culvert_host::setting::Setting;
use culvert_protocol::counted::{agree, counted};

use super::rule::{Effect, Rule, Source};
use super::support::{Compare, WantedSysctl, bytes, culvert, each_link, kernel};
use crate::finding::{Finding, Severity};
use crate::targets::Targets;

/// The first kernel whose AF_XDP has busy polling and the other options that the data plane uses.
const AF_XDP_SINCE: KernelVersion = KernelVersion::new(5, 11);
/// The first kernel that reports XDP features through netlink.
const XDP_FEATURES_SINCE: KernelVersion = KernelVersion::new(6, 3);
/// The first kernel whose zero-copy mode supports packets of several buffers.
const MULTI_BUFFER_SINCE: KernelVersion = KernelVersion::new(6, 6);
/// The largest MTU whose packet fits one page with the driver's headroom (measured on veth: 3506;
/// ena: 3498).
const ONE_BUFFER_MTU_BYTES: u32 = 3498;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "datapath.kernel",
        title: "kernel",
        recommends: "6.6 or later; at least 5.11",
        reason: "5.11 added AF_XDP busy polling, 6.3 reports what a NIC supports, 6.6 added jumbo frames to zero-copy",
        applies_when: "always",
        conflicts_with: &["vendor kernels with backports: what counts is the features the kernel \
            reports, not its version"],
        effect: Effect::Medium,
        sources: &[kernel("networking/af_xdp"), culvert("AF_XDP readiness")],
        on_request: false,
        check: kernel_version,
    },
    Rule {
        id: "datapath.af_xdp",
        title: "AF_XDP readiness",
        recommends: "a driver with xsk-zerocopy",
        reason: "zero-copy takes packets from the NIC without the kernel's network stack; copy mode and the udp datapath work everywhere",
        applies_when: "the kernel has AF_XDP and reports the NIC's features",
        conflicts_with: &["another XDP program on the link"],
        effect: Effect::Large,
        sources: &[kernel("networking/af_xdp; netlink/specs/netdev"), culvert("AF_XDP readiness")],
        on_request: false,
        check: af_xdp,
    },
    Rule {
        id: "datapath.af_xdp_mtu",
        title: "jumbo frames and AF_XDP",
        recommends: "rx-sg, and more than one zero-copy segment, for an MTU above 3498",
        reason: "a packet that does not fit one buffer is dropped, or the program does not attach",
        applies_when: "the link's MTU is above 3498 bytes",
        conflicts_with: &["nic.mtu"],
        effect: Effect::Medium,
        sources: &[kernel("networking/af_xdp, multi-buffer support"), culvert("AF_XDP readiness")],
        on_request: false,
        check: af_xdp_mtu,
    },
    Rule {
        id: "nic.busy_poll",
        title: "polling instead of interrupts",
        recommends: "napi_defer_hard_irqs 2, gro_flush_timeout 200000 ns",
        reason: "a lane that polls its queue must not be disturbed by the interrupt of the same queue",
        applies_when: "AF_XDP with busy polling is used on the link; without it, quiet traffic waits up to 0.2 ms",
        conflicts_with: &["latency of other programs on the link"],
        effect: Effect::Small,
        sources: &[
            Source { document: "DPDK", section: "AF_XDP poll mode driver, preferred busy polling" },
            kernel("networking/napi"),
        ],
        on_request: true,
        check: busy_poll,
    },
    Rule {
        id: "datapath.io_uring",
        title: "io_uring",
        recommends: "kernel.io_uring_disabled: 0",
        reason: "lanes read and write disks only through io_uring: without it the data plane does not start",
        applies_when: "the kernel has the switch; it is left to the admin, because distributions \
            disable io_uring for security",
        conflicts_with: &["hardened distributions; seccomp profiles of containers"],
        effect: Effect::Large,
        sources: &[kernel("admin-guide/sysctl/kernel, io_uring_disabled")],
        on_request: true,
        check: io_uring,
    },
    Rule {
        id: "datapath.bpf_jit",
        title: "BPF compiler",
        recommends: "bpf_jit_enable: 1",
        reason: "an interpreted XDP program costs several times the cycles for every packet",
        applies_when: "the host's own network namespace",
        conflicts_with: &[],
        effect: Effect::Medium,
        sources: &[kernel("admin-guide/sysctl/net, bpf_jit_enable")],
        on_request: false,
        check: bpf_jit,
    },
    Rule {
        id: "datapath.memlock",
        title: "memory that may be locked",
        recommends: "LimitMEMLOCK=infinity for the data plane, or CAP_IPC_LOCK",
        reason: "packet buffers are locked; registering them fails with ENOBUFS beyond the limit",
        applies_when: "always; the limit shown is that of the process that collected the facts, and a service may have another",
        conflicts_with: &[],
        effect: Effect::Large,
        sources: &[kernel("networking/af_xdp"), Source { document: "systemd.exec(5)", section: "Process Properties" }],
        on_request: false,
        check: memlock,
    },
    Rule {
        id: "datapath.cipher",
        title: "AES in the CPU",
        recommends: "aes and pclmulqdq (x86) or aes and pmull (ARM); vaes and avx512 for twice the speed",
        reason: "every byte is encrypted: without these instructions a core is thirty times slower",
        applies_when: "always",
        conflicts_with: &["hypervisors that hide the flags from the guest"],
        effect: Effect::Large,
        sources: &[culvert("ciphers")],
        on_request: false,
        check: cipher,
    },
];

fn kernel_version(facts: &Facts, _: &Targets) -> Vec<Finding> {
    let release = facts.system.kernel_release.clone();
    let Some(version) = facts.system.kernel_version() else {
        return vec![Finding::unknown("", "the kernel's release is not known")];
    };
    let (severity, why) = if version < AF_XDP_SINCE {
        (Severity::High, "AF_XDP lacks busy polling; the udp datapath is used")
    } else if version < XDP_FEATURES_SINCE {
        (Severity::Info, "the kernel cannot report what the NIC supports: AF_XDP is tried and may fall back")
    } else if version < MULTI_BUFFER_SINCE {
        (Severity::Info, "zero-copy does not support jumbo frames yet")
    } else {
        return vec![Finding::ok("", release)];
    };
    vec![
        Finding::differs("", severity, release, "6.6 or later", why).step("install a newer kernel of the distribution"),
    ]
}

fn af_xdp(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if facts.datapath.xdp_sockets == Some(false) {
        let finding = Finding::differs(
            "",
            Severity::High,
            "no AF_XDP",
            "AF_XDP",
            "this kernel was built without it: the udp datapath is used",
        );
        return vec![finding.step("use a kernel with CONFIG_XDP_SOCKETS")];
    }
    each_link(facts, targets, |link| {
        let Some(xdp) = &link.xdp else {
            return Finding::unknown(&link.name, "the kernel does not report it (before 6.3)");
        };
        let current = if xdp.features.is_empty() { "none".to_owned() } else { xdp.features.join(", ") };
        if xdp.program_attached == Some(true) {
            return Finding::conflict(
                &link.name,
                Severity::Warning,
                "an XDP program is attached",
                "none but Culvert's",
                "the link's queues belong to that program; if it is Culvert's own, nothing needs to be done",
            )
            .step(format!("ip link set dev {} xdp off, if it is not needed", link.name));
        }
        if xdp.has("xsk-zerocopy") {
            return Finding::ok(&link.name, current);
        }
        let why = if xdp.has("basic") {
            "XDP works, but each packet is copied once"
        } else {
            "the driver has no XDP: packets pass the kernel's stack (skb mode), and the udp datapath is as fast"
        };
        Finding::differs(&link.name, Severity::Info, current, "xsk-zerocopy", why)
            .step("a NIC or driver with zero-copy: i40e, ixgbe, ice, igc, mlx5, and others that `xdp-features` names")
    })
}

fn af_xdp_mtu(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        let mtu = targets.site.links.get(&link.name).and_then(|site| site.mtu).unwrap_or(link.mtu_bytes);
        if mtu <= ONE_BUFFER_MTU_BYTES {
            return Finding::not_applicable(&link.name, "packets fit one buffer");
        }
        let Some(xdp) = link.xdp.as_ref().filter(|xdp| xdp.has("basic")) else {
            return Finding::not_applicable(&link.name, "the link has no XDP");
        };
        let segments = xdp.zero_copy_segments_max.unwrap_or(1);
        let current =
            format!("MTU {mtu}, rx-sg {}, {segments} zero-copy segments", if xdp.has("rx-sg") { "yes" } else { "no" });
        let step = "transfers use the udp datapath on this link, which supports jumbo frames; or set an \
             MTU of 3498 for AF_XDP";
        if !xdp.has("rx-sg") {
            let why = "the XDP program cannot attach at this MTU";
            return Finding::differs(&link.name, Severity::Warning, current, "rx-sg", why).step(step);
        }
        if xdp.has("xsk-zerocopy") && segments < 2 {
            let why = "zero-copy drops packets of several buffers: AF_XDP falls back to copying";
            return Finding::differs(&link.name, Severity::Info, current, "several zero-copy segments", why).step(step);
        }
        Finding::ok(&link.name, current)
    })
}

fn busy_poll(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    each_link(facts, targets, |link| {
        if !link.xdp.as_ref().is_some_and(|xdp| xdp.has("xsk-zerocopy")) {
            return Finding::not_applicable(&link.name, "the link has no zero-copy");
        }
        let (Some(defer), Some(timeout)) = (link.napi_defer_hard_irqs, link.gro_flush_timeout_ns) else {
            return Finding::unknown(&link.name, "sysfs does not show them");
        };
        let current = format!("napi_defer_hard_irqs {defer}, gro_flush_timeout {timeout}");
        if defer >= 2 && timeout >= 200_000 {
            return Finding::ok(&link.name, current);
        }
        let why = "with busy polling, an interrupt takes the queue away from the lane";
        Finding::differs(&link.name, Severity::Info, current, "2, 200000", why)
            .change(Setting::link_file(&link.name, "napi_defer_hard_irqs"), "2")
            .change(Setting::link_file(&link.name, "gro_flush_timeout"), "200000")
    })
}

fn io_uring(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let key = "kernel.io_uring_disabled";
    if facts.datapath.kernel_features.get("IO_URING").is_some_and(|state| state == "absent") {
        let finding = Finding::differs(
            key,
            Severity::Critical,
            "not built",
            "io_uring",
            "this kernel has no io_uring: the data plane does not start",
        );
        return vec![finding.step("use a kernel with CONFIG_IO_URING")];
    }
    let (severity, why) = if facts.sysctl_number(key) == Some(1) {
        (Severity::Warning, "only privileged users and the group of kernel.io_uring_group can run the data plane")
    } else {
        (Severity::Critical, "the data plane does not start")
    };
    let why = why.to_owned();
    let wanted = "0".to_owned();
    vec![WantedSysctl { key, wanted, compare: Compare::Equal, severity, why }.check(facts, targets)]
}

fn bpf_jit(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    let why = "XDP programs are interpreted".to_owned();
    let (key, wanted) = ("net.core.bpf_jit_enable", "1".to_owned());
    vec![WantedSysctl { key, wanted, compare: Compare::AtLeast, severity: Severity::High, why }.check(facts, targets)]
}

fn memlock(facts: &Facts, targets: &Targets) -> Vec<Finding> {
    if facts.system.may("ipc_lock") {
        return vec![Finding::ok("", "CAP_IPC_LOCK")];
    }
    let Some(limit) = facts.limits.memlock else {
        return vec![Finding::unknown("", "the limit is not known")];
    };
    let current = limit.soft.map_or("unlimited".to_owned(), bytes);
    if limit.allows(targets.umem_bytes) {
        return vec![Finding::ok("", current)];
    }
    let why = {
        let lanes = counted(targets.lanes, "lane");
        format!("{lanes} {} {} for packet buffers", agree(targets.lanes, "locks", "lock"), bytes(targets.umem_bytes))
    };
    let severity =
        if limit.hard.is_none_or(|hard| hard >= targets.umem_bytes) { Severity::Info } else { Severity::High };
    let finding = Finding::differs("", severity, current, "unlimited", why);
    vec![
        finding
            .step("in the service: LimitMEMLOCK=infinity; for a shell: ulimit -l unlimited, or /etc/security/limits.d"),
    ]
}

fn cipher(facts: &Facts, _: &Targets) -> Vec<Finding> {
    if facts.cpu.flags.is_empty() {
        return vec![Finding::unknown("", "the CPU's flags are not known")];
    }
    let has = |flag| facts.cpu.has_flag(flag);
    let current = facts.cpu.flags.iter().filter(|flag| *flag != "hypervisor").cloned().collect::<Vec<_>>().join(", ");
    if !(has("aes") && (has("pclmulqdq") || has("pmull"))) {
        let why = "encryption runs in software";
        let finding = Finding::differs("", Severity::Critical, current, "aes and pclmulqdq or pmull", why);
        return vec![finding.step("a newer CPU; in a virtual machine: the host's CPU model (for QEMU -cpu host)")];
    }
    if has("pclmulqdq") && !(has("vaes") && has("vpclmulqdq")) {
        let why = "one block at a time instead of two or four";
        return vec![
            Finding::differs("", Severity::Info, current, "vaes, vpclmulqdq", why)
                .step("a newer CPU, where the cores are the limit"),
        ];
    }
    vec![Finding::ok("", current)]
}
