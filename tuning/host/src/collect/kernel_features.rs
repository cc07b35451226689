//! Whether the kernel has the features that the data plane and the recommended settings need.

use std::collections::BTreeMap;
use std::io::Read;

use flate2::read::GzDecoder;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use super::collector::Collector;
use crate::facts::Datapath;

/// Configuration names, each with the name of its module.
const FEATURES: [(&str, &str); 8] = [
    ("NET_SCH_FQ", "sch_fq"),
    ("NET_SCH_FQ_CODEL", "sch_fq_codel"),
    ("TCP_CONG_BBR", "tcp_bbr"),
    ("TCP_CONG_CUBIC", "tcp_cubic"),
    ("XDP_SOCKETS", ""),
    ("BPF_SYSCALL", ""),
    ("BPF_JIT", ""),
    ("IO_URING", ""),
];
/// The largest configuration that is decompressed.
const CONFIGURATION_BYTES_MAX: u64 = 4 << 20;

impl Collector<'_> {
    pub(super) fn datapath(&mut self) -> Datapath {
        let release = self.files.text("/proc/sys/kernel/osrelease").unwrap_or_default();
        let configuration = self.configuration(&release);
        let modules = |name: &str| self.files.read(&format!("/lib/modules/{release}/{name}")).unwrap_or_default();
        let (builtin, loadable) = (modules("modules.builtin"), modules("modules.dep"));
        let state = |option: &str, module: &str| -> Option<&'static str> {
            let file = format!("/{module}.ko");
            if !module.is_empty() && self.files.exists(&format!("/sys/module/{module}")) {
                return Some("loaded");
            }
            if !module.is_empty() && builtin.contains(&file) {
                return Some("builtin");
            }
            if !module.is_empty() && loadable.contains(&file) {
                return Some("module");
            }
            let set =
                |value: &str| configuration.as_ref()?.lines().find(|line| *line == format!("CONFIG_{option}={value}"));
            if set("y").is_some() {
                return Some("builtin");
            }
            // Configured as a module that is not installed, or not configured.
            (configuration.is_some() || !loadable.is_empty()).then_some("absent")
        };
        let kernel_features: BTreeMap<String, String> = FEATURES
            .iter()
            .filter_map(|(option, module)| Some(((*option).to_owned(), state(option, module)?.to_owned())))
            .collect();
        Datapath {
            xdp_sockets: self.files.is_host().then(xdp_sockets_exist),
            btf: Some(self.files.exists("/sys/kernel/btf/vmlinux")),
            kernel_features,
        }
    }

    fn configuration(&self, release: &str) -> Option<String> {
        if let Ok(text) = self.files.read(&format!("/boot/config-{release}")) {
            return Some(text);
        }
        let packed = self.files.read_bytes("/proc/config.gz").ok()?;
        let mut text = String::new();
        GzDecoder::new(packed.as_slice()).take(CONFIGURATION_BYTES_MAX).read_to_string(&mut text).ok()?;
        Some(text)
    }
}

/// Whether the kernel knows the address family. A lack of permission is a different error.
fn xdp_sockets_exist() -> bool {
    let answer = socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None);
    !matches!(answer, Err(Errno::AFNOSUPPORT))
}
