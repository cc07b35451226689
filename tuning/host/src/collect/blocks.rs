//! Block devices and the file systems on them.

use super::collector::Collector;
use crate::facts::{Block, Mount, PcieLink};

/// Block devices that hold no data of their own.
const NOT_DATA: [&str; 6] = ["loop", "ram", "zram", "sr", "fd", "nbd"];
/// File systems that hold data.
const DATA_FILE_SYSTEMS: [&str; 18] = [
    "xfs",
    "ext4",
    "ext3",
    "ext2",
    "btrfs",
    "zfs",
    "f2fs",
    "bcachefs",
    "nfs",
    "nfs4",
    "lustre",
    "ceph",
    "gpfs",
    "beegfs",
    "glusterfs",
    "fuse.glusterfs",
    "cifs",
    "overlay",
];

impl Collector<'_> {
    pub(super) fn blocks(&mut self) -> Vec<Block> {
        let names = self.files.names("/sys/block");
        let data = names.iter().filter(|name| {
            let kind = name.trim_end_matches(|c: char| c.is_ascii_digit());
            !NOT_DATA.contains(&kind)
        });
        data.filter_map(|name| self.block(name)).collect()
    }

    fn block(&self, name: &str) -> Option<Block> {
        let folder = format!("/sys/block/{name}");
        let queue = |file: &str| format!("{folder}/queue/{file}");
        let sectors: u64 = self.files.number(&format!("{folder}/size")).filter(|sectors| *sectors > 0)?;
        let (scheduler, schedulers) = self.files.choice(&queue("scheduler")).unwrap_or_default();
        let pci = self.files.pci_device(&folder);
        let flag = |file: &str| self.files.number::<u32>(&queue(file)).map(|value| value != 0);
        Some(Block {
            name: name.to_owned(),
            model: self.files.text(&format!("{folder}/device/model")),
            // sysfs always counts sectors of 512 bytes.
            size_bytes: sectors * 512,
            rotational: flag("rotational"),
            nvme: name.starts_with("nvme"),
            // A device with only one scheduler shows it without brackets.
            scheduler: scheduler.or_else(|| (schedulers.len() == 1).then(|| schedulers[0].clone())),
            schedulers,
            read_ahead_kib: self.files.number(&queue("read_ahead_kb")),
            requests_max: self.files.number(&queue("nr_requests")),
            io_poll: flag("io_poll"),
            numa_node: pci.as_ref().and_then(|pci| self.files.number(&format!("{pci}/numa_node"))),
            pcie: pci.as_ref().and_then(|pci| self.pcie(pci)),
            members: self.files.names(&format!("{folder}/slaves")),
        })
    }

    /// The PCIe link of a device; `None` for devices without one.
    pub(super) fn pcie(&self, folder: &str) -> Option<PcieLink> {
        let speed = |file: &str| {
            // `16.0 GT/s PCIe`, or `Unknown` without a link.
            self.files.text(&format!("{folder}/{file}"))?.split_whitespace().next()?.parse::<f64>().ok()
        };
        let width = |file: &str| self.files.number::<u32>(&format!("{folder}/{file}")).filter(|width| *width > 0);
        Some(PcieLink {
            speed_gigatransfers: Some(speed("current_link_speed")?),
            speed_max_gigatransfers: speed("max_link_speed"),
            width: width("current_link_width"),
            // 255 means unknown.
            width_max: width("max_link_width").filter(|width| *width < 255),
        })
    }

    pub(super) fn mounts(&mut self) -> Vec<Mount> {
        let text = self.files.read("/proc/self/mountinfo");
        let text = self.known("/proc/self/mountinfo", text).unwrap_or_default();
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in text.lines().filter_map(|line| self.mount(line)) {
            // A file system mounted in several places (bind mounts) counts once.
            match mounts.iter_mut().find(|known| known.device == mount.device && known.block == mount.block) {
                Some(known) if mount.path.len() < known.path.len() => *known = mount,
                Some(_) => {}
                None => mounts.push(mount),
            }
        }
        mounts
    }

    /// One line of mountinfo (proc_pid_mountinfo(5)).
    fn mount(&self, line: &str) -> Option<Mount> {
        let (before, after) = line.split_once(" - ")?;
        let before: Vec<&str> = before.split_whitespace().collect();
        let after: Vec<&str> = after.split_whitespace().collect();
        let (numbers, path, mount_options) = (before.get(2)?, before.get(4)?, before.get(5)?);
        let (file_system, device, super_options) = (after.first()?, after.get(1)?, after.get(2).unwrap_or(&""));
        if !DATA_FILE_SYSTEMS.contains(file_system) {
            return None;
        }
        let mut options: Vec<String> =
            mount_options.split(',').chain(super_options.split(',')).map(str::to_owned).collect();
        options.sort_unstable();
        options.dedup();
        Some(Mount {
            device: unescape(device),
            path: unescape(path),
            file_system: (*file_system).to_owned(),
            options,
            block: self.disk_of(numbers),
        })
    }

    /// The disk with this device number, or the disk of which it is a partition.
    fn disk_of(&self, numbers: &str) -> Option<String> {
        let folder = self.files.resolve(&format!("/sys/dev/block/{numbers}"))?;
        let folder = if self.files.exists(&format!("{folder}/partition")) {
            folder.rsplit_once('/')?.0.to_owned()
        } else {
            folder
        };
        Some(folder.rsplit_once('/')?.1.to_owned())
    }
}

/// Decodes the octal escapes that the kernel writes for blanks in paths (`\040`).
fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 4).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| bytes[at] == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 4;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_paths_are_restored() {
        assert_eq!(unescape("/mnt/my\\040data\\134x"), "/mnt/my data\\x");
        assert_eq!(unescape("/plain\\"), "/plain\\");
    }
}
