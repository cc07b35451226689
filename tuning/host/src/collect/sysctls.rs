//! Active sysctls, and the assignments in the files of sysctl.d.

use std::collections::BTreeMap;

use super::collector::Collector;
use crate::facts::SysctlFileEntry;

/// Every sysctl that a rule reads. A key that is missing here is never collected.
pub(crate) const KEYS: [&str; 51] = [
    "fs.aio-max-nr",
    "fs.file-max",
    "fs.nr_open",
    "kernel.io_uring_disabled",
    "kernel.numa_balancing",
    "kernel.perf_event_paranoid",
    "kernel.unprivileged_bpf_disabled",
    "net.core.bpf_jit_enable",
    "net.core.busy_poll",
    "net.core.busy_read",
    "net.core.default_qdisc",
    "net.core.netdev_budget",
    "net.core.netdev_budget_usecs",
    "net.core.netdev_max_backlog",
    "net.core.optmem_max",
    "net.core.rmem_default",
    "net.core.rmem_max",
    "net.core.rps_sock_flow_entries",
    "net.core.wmem_default",
    "net.core.wmem_max",
    "net.ipv4.conf.all.arp_announce",
    "net.ipv4.conf.all.arp_filter",
    "net.ipv4.conf.all.arp_ignore",
    "net.ipv4.conf.all.rp_filter",
    "net.ipv4.ip_forward",
    "net.ipv4.ip_no_pmtu_disc",
    "net.ipv4.tcp_available_congestion_control",
    "net.ipv4.tcp_congestion_control",
    "net.ipv4.tcp_mem",
    "net.ipv4.tcp_moderate_rcvbuf",
    "net.ipv4.tcp_mtu_probing",
    "net.ipv4.tcp_no_metrics_save",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_sack",
    "net.ipv4.tcp_slow_start_after_idle",
    "net.ipv4.tcp_timestamps",
    "net.ipv4.tcp_window_scaling",
    "net.ipv4.tcp_wmem",
    "net.ipv4.udp_mem",
    "net.ipv4.udp_rmem_min",
    "net.ipv4.udp_wmem_min",
    "vm.dirty_background_bytes",
    "vm.dirty_background_ratio",
    "vm.dirty_bytes",
    "vm.dirty_ratio",
    "vm.max_map_count",
    "vm.min_free_kbytes",
    "vm.nr_hugepages",
    "vm.overcommit_memory",
    "vm.swappiness",
    "vm.zone_reclaim_mode",
];

/// The folders of sysctl.d; a file hides those of the same name in later folders (sysctl.d(5)).
const FOLDERS: [&str; 5] =
    ["/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d"];

/// The value, its words separated by single blanks: the kernel separates them with tabs, people
/// with blanks.
pub fn normal_value(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The path of a sysctl. A key with slashes is used unchanged, because interface names may contain
/// dots.
pub(crate) fn path_of_key(key: &str) -> String {
    let path = if key.contains('/') { key.to_owned() } else { key.replace('.', "/") };
    format!("/proc/sys/{path}")
}

impl Collector<'_> {
    pub(super) fn sysctls(&mut self) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for key in KEYS {
            match self.files.read(&path_of_key(key)) {
                Ok(text) => {
                    found.insert(key.to_owned(), normal_value(&text));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => self.missing(&format!("sysctl {key}"), &error),
            }
        }
        found
    }

    pub(super) fn sysctl_files(&mut self) -> Vec<SysctlFileEntry> {
        let mut files: BTreeMap<String, String> = BTreeMap::new();
        for folder in FOLDERS {
            for name in self.files.names(folder).into_iter().filter(|name| name.ends_with(".conf")) {
                files.entry(name.clone()).or_insert_with(|| format!("{folder}/{name}"));
            }
        }
        let mut paths: Vec<String> = files.into_values().collect();
        // procps reads it last; Debian links it as 99-sysctl.conf for systemd.
        if !paths.iter().any(|path| path.ends_with("/99-sysctl.conf")) {
            paths.push("/etc/sysctl.conf".to_owned());
        }
        paths.iter().flat_map(|path| self.sysctl_file(path)).collect()
    }

    fn sysctl_file(&self, path: &str) -> Vec<SysctlFileEntry> {
        let text = self.files.read(path).unwrap_or_default();
        let entries = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| {
            // A leading minus means that errors are ignored.
            let (key, value) = line.trim_start_matches('-').split_once('=')?;
            let key = key.trim().replace('/', ".");
            Some(SysctlFileEntry { file: path.to_owned(), key, value: normal_value(value) })
        });
        entries.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_tree::FileTree;

    #[test]
    fn files_are_read_in_the_order_of_their_names_and_hide_each_other() {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("usr/lib/sysctl.d/50-default.conf", "net.core.rmem_max = 1\n");
        put("usr/lib/sysctl.d/60-hidden.conf", "net.core.rmem_max = 2\n");
        put("etc/sysctl.d/60-hidden.conf", "# nothing\n-net/core/rmem_max =  3\n");
        put("etc/sysctl.conf", "net.ipv4.tcp_rmem=4096\t87380  16777216\n");
        let files = FileTree::new(folder.path());
        let found = Collector { files: &files, unreadable: Vec::new() }.sysctl_files();
        let found: Vec<_> =
            found.iter().map(|entry| (entry.file.as_str(), entry.key.as_str(), entry.value.as_str())).collect();
        assert_eq!(
            found,
            [
                ("/usr/lib/sysctl.d/50-default.conf", "net.core.rmem_max", "1"),
                ("/etc/sysctl.d/60-hidden.conf", "net.core.rmem_max", "3"),
                ("/etc/sysctl.conf", "net.ipv4.tcp_rmem", "4096 87380 16777216"),
            ]
        );
    }

    #[test]
    fn keys_are_paths() {
        assert_eq!(path_of_key("net.core.rmem_max"), "/proc/sys/net/core/rmem_max");
        assert_eq!(path_of_key("net/ipv4/conf/eth0.5/rp_filter"), "/proc/sys/net/ipv4/conf/eth0.5/rp_filter");
    }
}
