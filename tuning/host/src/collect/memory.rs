//! Memory and hugepages.

use super::collector::Collector;
use crate::facts::{HugepagePool, Memory};

impl Collector<'_> {
    pub(super) fn memory(&mut self) -> Memory {
        let meminfo = self.files.read("/proc/meminfo");
        let meminfo = self.known("/proc/meminfo", meminfo).unwrap_or_default();
        let bytes = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
        };
        Memory {
            total_bytes: bytes("MemTotal").unwrap_or(0),
            available_bytes: bytes("MemAvailable").unwrap_or(0),
            // The process's own group, as containers mount it; `max` means no limit.
            cgroup_limit_bytes: self
                .files
                .number("/sys/fs/cgroup/memory.max")
                .or_else(|| self.files.number("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
                .filter(|limit| bytes("MemTotal").is_some_and(|total| *limit < total)),
            hugepages: self.hugepages("/sys/kernel/mm/hugepages"),
            transparent_hugepages: self
                .files
                .choice("/sys/kernel/mm/transparent_hugepage/enabled")
                .and_then(|(chosen, _)| chosen),
        }
    }

    /// The pools in a folder that has one `hugepages-NkB` for each size.
    pub(super) fn hugepages(&self, folder: &str) -> Vec<HugepagePool> {
        let pools = self.files.names(folder);
        let pools = pools.iter().filter_map(|name| {
            let kib: u64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
            Some(HugepagePool {
                page_bytes: kib * 1024,
                total: self.files.number(&format!("{folder}/{name}/nr_hugepages"))?,
                free: self.files.number(&format!("{folder}/{name}/free_hugepages"))?,
            })
        });
        pools.collect()
    }
}
