//! Collects the facts of this host from netlink, sysfs and procfs.
//!
//! Nothing here changes the host, and nothing needs root: what cannot be read is left unknown and
//! listed in [`Facts::unreadable`]. A part that fails never hides the others.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::facts::{FACTS_VERSION, Facts, Origin};
use crate::file_tree::FileTree;
use crate::netlink::Netlink;

mod blocks;
mod collector;
mod cpu;
mod kernel_features;
mod links;
mod memory;
mod paths;
mod sysctls;
mod system;

use collector::Collector;
pub use links::queue_of_name;
pub(crate) use links::{irq_vectors, sysfs_shows};
pub use paths::Partner;
pub use sysctls::normal_value;
pub(crate) use sysctls::path_of_key;

/// Collects the facts of this host.
///
/// `files` is the host's tree; `netlink` is `None` for a copy of a tree, and where a sandbox
/// forbids netlink. For each of `partners` the kernel's view of the path is read; with `probe`,
/// packets are sent to them.
#[must_use]
pub fn collect(files: &FileTree, netlink: Option<&mut Netlink>, partners: &[Partner], probe: bool) -> Facts {
    let mut collector = Collector { files, unreadable: Vec::new() };
    let mut facts = Facts {
        culvert_facts: FACTS_VERSION,
        origin: Origin {
            collected_unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            collected_by: format!("culvert {}", env!("CARGO_PKG_VERSION")),
            ..Origin::default()
        },
        system: collector.system(),
        cpu: collector.cpu(),
        numa: collector.numa(),
        memory: collector.memory(),
        iommu: collector.iommu(),
        sysctls: collector.sysctls(),
        sysctl_files: collector.sysctl_files(),
        blocks: collector.blocks(),
        mounts: collector.mounts(),
        limits: collector.limits(),
        services: collector.services(),
        clock: collector.clock(),
        softnet: collector.softnet(),
        datapath: collector.datapath(),
        ..Facts::default()
    };
    match netlink {
        Some(netlink) => {
            facts.links = collector.links(netlink);
            facts.paths = collector.paths(partners, &facts.links, probe);
        }
        None => collector.missing("network interfaces", &"no netlink socket"),
    }
    facts.unreadable = collector.unreadable;
    facts
}
