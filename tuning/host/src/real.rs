//! This machine: netlink for links, files for everything else, systemd for services.

use std::io;
use std::path::Path;

use crate::access::{Host, HostError, Place};
use rustix::fs::{Access, AtFlags, CWD, accessat};
use rustix::time::{ClockId, clock_gettime};

use crate::collect::{Partner, collect, irq_vectors, normal_value, path_of_key, sysfs_shows};
use crate::facts::Facts;
use crate::file_tree::FileTree;
use crate::netlink::{Netlink, NetlinkError};
use crate::setting::{Setting, Value};

mod links;
mod owned_file;
mod qdiscs;
mod services;

/// This machine, or a copy of its files in a folder, which has no links and services.
#[derive(Debug)]
pub struct RealHost {
    files: FileTree,
    netlink: Option<Netlink>,
    /// Why there is no netlink, for the errors.
    no_netlink: String,
}

impl RealHost {
    /// This machine, in the network namespace of the calling thread.
    #[must_use]
    pub fn open() -> Self {
        let (netlink, no_netlink) = match Netlink::open() {
            Ok(netlink) => (Some(netlink), String::new()),
            Err(error) => (None, error.to_string()),
        };
        Self { files: FileTree::new(Path::new("/")), netlink, no_netlink }
    }

    /// A tree of files in a folder.
    #[must_use]
    pub fn below(root: &Path) -> Self {
        let no_netlink = format!("{} is a folder, not this machine", root.display());
        Self { files: FileTree::new(root), netlink: None, no_netlink }
    }

    /// The facts of the machine; see [`collect`].
    #[must_use]
    pub fn facts(&mut self, partners: &[Partner], probe: bool) -> Facts {
        collect(&self.files, self.netlink.as_mut(), partners, probe)
    }

    /// The machine's files.
    #[must_use]
    pub fn files(&self) -> &FileTree {
        &self.files
    }

    fn netlink(&mut self, setting: &Setting) -> Result<&mut Netlink, HostError> {
        let reason = || HostError::Unsupported { setting: setting.to_string(), reason: self.no_netlink.clone() };
        match &mut self.netlink {
            Some(netlink) => Ok(netlink),
            None => Err(reason()),
        }
    }

    /// The index of a link.
    fn index(&mut self, setting: &Setting, link: &str) -> Result<u32, HostError> {
        let found = self.netlink(setting)?.link(link).map_err(|error| netlink_error(setting, None, &error))?;
        found.map(|link| link.index).ok_or_else(|| HostError::Missing {
            setting: setting.to_string(),
            reason: format!("no interface '{link}' in this network namespace"),
        })
    }

    /// The path of a link's file, after checking that sysfs shows this network namespace's link.
    fn link_file(&mut self, setting: &Setting, link: &str, file: &str) -> Result<String, HostError> {
        if self.files.is_host() {
            let index = self.index(setting, link)?;
            if !sysfs_shows(&self.files, link, index) {
                return Err(HostError::Unsupported {
                    setting: setting.to_string(),
                    reason: "/sys shows another network namespace: mount sysfs in this one".to_owned(),
                });
            }
        }
        Ok(format!("/sys/class/net/{link}/{file}"))
    }

    /// The file with the affinity of an interrupt.
    fn affinity_file(&mut self, setting: &Setting, link: &str, vector: &str) -> Result<String, HostError> {
        self.link_file(setting, link, "device")?;
        let vectors = irq_vectors(&self.files, link);
        let number = vectors.iter().find(|(_, name)| *name == vector).map(|(number, _)| number);
        let number = number.ok_or_else(|| HostError::Missing {
            setting: setting.to_string(),
            reason: format!("the device of {link} has no interrupt of this name at present"),
        })?;
        Ok(format!("/proc/irq/{number}/smp_affinity_list"))
    }

    fn read_file(&self, setting: &Setting, path: &str) -> Result<Value, HostError> {
        let text = self.files.read(path).map_err(|error| file_error(setting, None, &error))?;
        // The value of a list with a marked word is that word.
        let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        Ok(Value::new(chosen.map_or_else(|| normal_value(&text), str::to_owned)))
    }

    fn write_file(&self, setting: &Setting, path: &str, value: &Value) -> Result<(), HostError> {
        let text = present(setting, value)?;
        self.files.write(path, text).map_err(|error| file_error(setting, Some(value), &error))
    }

    fn may_write_file(&self, setting: &Setting, path: &str) -> Result<(), HostError> {
        let place = self.files.place(path);
        // Asks the kernel, which knows read-only mounts and the sysctls that even root may not
        // write in this namespace.
        accessat(CWD, place.as_path(), Access::WRITE_OK, AtFlags::EACCESS)
            .map_err(|error| file_error(setting, None, &error.into()))
    }

    /// Whether the nearest existing folder above `path` is writable.
    fn may_make_file(&self, setting: &Setting, path: &str) -> Result<(), HostError> {
        let mut folder = path;
        while let Some((above, _)) = folder.rsplit_once('/') {
            folder = if above.is_empty() { "/" } else { above };
            if self.files.exists(folder) {
                return self.may_write_file(setting, folder);
            }
        }
        Ok(())
    }

    fn has_net_admin(&self) -> bool {
        // Bit 12 (`include/uapi/linux/capability.h`).
        let status = self.files.read("/proc/self/status").unwrap_or_default();
        let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).is_some_and(|bits| bits >> 12 & 1 == 1)
    }

    fn read_dirty(&self, setting: &Setting, background: bool) -> Result<Value, HostError> {
        let bytes = self.read_file(setting, &path_of_key(dirty_key(background, "bytes")))?;
        if bytes.text() != "0" {
            return Ok(Value::new(format!("bytes {}", bytes.text())));
        }
        let ratio = self.read_file(setting, &path_of_key(dirty_key(background, "ratio")))?;
        Ok(Value::new(format!("ratio {}", ratio.text())))
    }

    fn write_dirty(&self, setting: &Setting, background: bool, value: &Value) -> Result<(), HostError> {
        let (kind, number) = present(setting, value)?.split_once(' ').unwrap_or_default();
        if !matches!(kind, "bytes" | "ratio") {
            return Err(malformed(setting, value, "bytes N or ratio N"));
        }
        self.write_file(setting, &path_of_key(dirty_key(background, kind)), &Value::new(number))
    }
}

fn dirty_key(background: bool, kind: &str) -> &'static str {
    match (background, kind) {
        (true, "bytes") => "vm.dirty_background_bytes",
        (true, _) => "vm.dirty_background_ratio",
        (false, "bytes") => "vm.dirty_bytes",
        (false, _) => "vm.dirty_ratio",
    }
}

/// The value's text; only files that Culvert owns can be absent.
fn present<'a>(setting: &Setting, value: &'a Value) -> Result<&'a str, HostError> {
    value.0.as_deref().ok_or_else(|| malformed(setting, value, "a value"))
}

fn malformed(setting: &Setting, value: &Value, expected: &str) -> HostError {
    HostError::Refused {
        setting: setting.to_string(),
        value: value.to_string(),
        reason: format!("expected {expected}"),
    }
}

/// A file error as a setting's error.
fn file_error(setting: &Setting, value: Option<&Value>, error: &io::Error) -> HostError {
    let setting = setting.to_string();
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::NotFound, _) | (_, Some(libc::ENODEV | libc::ENXIO)) => HostError::Missing {
            setting,
            reason: "this kernel, device or network namespace does not have it".to_owned(),
        },
        (io::ErrorKind::PermissionDenied, _) => {
            let reason = if rustix::process::geteuid().is_root() {
                "not even root may, in this container or network namespace"
            } else {
                "only root may"
            };
            HostError::NotPermitted { setting, reason: reason.to_owned() }
        }
        (_, Some(libc::EROFS)) => {
            HostError::NotPermitted { setting, reason: "it is mounted read-only, as in containers".to_owned() }
        }
        (_, Some(libc::EOPNOTSUPP)) => HostError::Unsupported { setting, reason: error.to_string() },
        _ => refused_or_unreadable(setting, value, error.to_string()),
    }
}

/// A netlink error as a setting's error.
fn netlink_error(setting: &Setting, value: Option<&Value>, error: &NetlinkError) -> HostError {
    let setting = setting.to_string();
    match error.errno {
        Some(libc::ENODEV) => HostError::Missing { setting, reason: "the interface is gone".to_owned() },
        Some(libc::EPERM | libc::EACCES) => HostError::NotPermitted { setting, reason: error.reason.clone() },
        Some(libc::EOPNOTSUPP) => HostError::Unsupported { setting, reason: error.reason.clone() },
        _ => refused_or_unreadable(setting, value, error.reason.clone()),
    }
}

fn refused_or_unreadable(setting: String, value: Option<&Value>, reason: String) -> HostError {
    match value {
        Some(value) => HostError::Refused { setting, value: value.to_string(), reason },
        None => HostError::Unsupported { setting, reason },
    }
}

impl Host for RealHost {
    fn read(&mut self, setting: &Setting) -> Result<Value, HostError> {
        match setting {
            Setting::Service { unit } => Ok(self.read_service(unit)),
            Setting::Sysctl { key } => self.read_file(setting, &path_of_key(key)),
            Setting::DirtyLimit { background } => self.read_dirty(setting, *background),
            Setting::KernelFile { path } => self.read_file(setting, path),
            Setting::LinkFile { link, file } => {
                let path = self.link_file(setting, link, file)?;
                self.read_file(setting, &path)
            }
            Setting::IrqAffinity { link, vector } => {
                let path = self.affinity_file(setting, link, vector)?;
                self.read_file(setting, &path)
            }
            Setting::OwnedFile { path } => self.read_owned(setting, path),
            Setting::Qdisc { link } => self.read_qdisc(setting, link),
            Setting::Channels { link }
            | Setting::Rings { link }
            | Setting::PrivateFlag { link, .. }
            | Setting::LinkBytes { link, .. }
            | Setting::Feature { link, .. }
            | Setting::Pause { link, .. }
            | Setting::Coalesce { link, .. }
            | Setting::FlowHash { link, .. }
            | Setting::RssTable { link } => self.read_link(setting, link),
        }
    }

    fn write(&mut self, setting: &Setting, value: &Value) -> Result<(), HostError> {
        match setting {
            Setting::Service { unit } => self.write_service(setting, unit, value),
            Setting::Sysctl { key } => self.write_file(setting, &path_of_key(key), value),
            Setting::DirtyLimit { background } => self.write_dirty(setting, *background, value),
            Setting::KernelFile { path } => self.write_file(setting, path, value),
            Setting::LinkFile { link, file } => {
                let path = self.link_file(setting, link, file)?;
                self.write_file(setting, &path, value)
            }
            Setting::IrqAffinity { link, vector } => {
                let path = self.affinity_file(setting, link, vector)?;
                self.write_file(setting, &path, value)
            }
            Setting::OwnedFile { path } => self.write_owned(setting, path, value),
            Setting::Qdisc { link } => self.write_qdisc(setting, link, value),
            Setting::Channels { link }
            | Setting::Rings { link }
            | Setting::PrivateFlag { link, .. }
            | Setting::LinkBytes { link, .. }
            | Setting::Feature { link, .. }
            | Setting::Pause { link, .. }
            | Setting::Coalesce { link, .. }
            | Setting::FlowHash { link, .. }
            | Setting::RssTable { link } => self.write_link(setting, link, value),
        }
    }

    fn may_write(&mut self, setting: &Setting) -> Result<(), HostError> {
        match setting {
            Setting::Service { .. } => self.may_start_and_stop(setting),
            Setting::Sysctl { key } => self.may_write_file(setting, &path_of_key(key)),
            Setting::DirtyLimit { background } => {
                self.may_write_file(setting, &path_of_key(dirty_key(*background, "bytes")))
            }
            Setting::KernelFile { path } => self.may_write_file(setting, path),
            Setting::LinkFile { link, file } => {
                let path = self.link_file(setting, link, file)?;
                self.may_write_file(setting, &path)
            }
            Setting::IrqAffinity { link, vector } => {
                let path = self.affinity_file(setting, link, vector)?;
                self.may_write_file(setting, &path)
            }
            Setting::OwnedFile { path } => self.may_make_file(setting, path),
            _ if self.has_net_admin() => Ok(()),
            _ => Err(HostError::NotPermitted {
                setting: setting.to_string(),
                reason: "it takes CAP_NET_ADMIN in this network namespace".to_owned(),
            }),
        }
    }

    fn settings_of_link(&mut self, link: &str) -> Result<Vec<Setting>, HostError> {
        self.list_link(link)
    }

    fn place(&self) -> Place {
        let initial = self.files.exists("/proc/sys/net/core/netdev_max_backlog");
        let named = self.files.link_name("/proc/self/ns/net").unwrap_or_else(|| "unknown".to_owned());
        Place {
            boot_id: self.files.text("/proc/sys/kernel/random/boot_id").unwrap_or_default(),
            network_namespace: if initial { "initial".to_owned() } else { named },
        }
    }

    fn now_boot_ms(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> (tempfile::TempDir, RealHost) {
        let folder = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        put("proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
        put("proc/sys/vm/dirty_bytes", "0\n");
        put("proc/sys/vm/dirty_ratio", "20\n");
        put("sys/block/nvme0n1/queue/scheduler", "[none] mq-deadline\n");
        let host = RealHost::below(folder.path());
        (folder, host)
    }

    #[test]
    fn files_are_read_in_their_normal_form() {
        let (_folder, mut host) = host();
        let mut read = |setting: Setting| host.read(&setting).unwrap().text().to_owned();
        assert_eq!(read(Setting::sysctl("net.ipv4.tcp_rmem")), "4096 131072 6291456");
        assert_eq!(read(Setting::DirtyLimit { background: false }), "ratio 20");
        assert_eq!(read(Setting::kernel_file("/sys/block/nvme0n1/queue/scheduler")), "none");
    }

    #[test]
    fn a_key_that_is_not_there_is_missing_and_not_made() {
        let (folder, mut host) = host();
        let setting = Setting::sysctl("net.core.no_such_key");
        assert!(host.read(&setting).unwrap_err().is_missing());
        assert!(host.write(&setting, &Value::new("1")).unwrap_err().is_missing());
        assert!(!folder.path().join("proc/sys/net/core").exists());
    }

    #[test]
    fn values_that_make_no_sense_are_refused() {
        let (_folder, mut host) = host();
        let dirty = Setting::DirtyLimit { background: false };
        assert!(matches!(host.write(&dirty, &Value::new("lots")), Err(HostError::Refused { .. })));
        assert!(matches!(host.write(&dirty, &Value(None)), Err(HostError::Refused { .. })));
        let mtu = Setting::mtu("eth9");
        assert!(matches!(host.write(&mtu, &Value::new("9000")), Err(HostError::Unsupported { .. })));
    }
}
