//! A disk that loses power and has bad blocks, with a real file system on it.
//!
//! The disk is memory of this process. A FUSE file system with one file presents it to the kernel,
//! a loop device turns the file into a block device, and ext4 is mounted from that. So the system
//! under test runs unchanged on a real file system, while this process sees every write and every
//! flush that reaches the medium: it can refuse them, and it can work out afterwards what would
//! have been left if the power had failed at any moment, when writes not covered by a flush may or
//! may not have arrived.

mod medium;
mod server;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::program::{is_installed, is_root};
use crate::random::Random;
pub use medium::{BadBlocks, Event, Record};
use medium::{Medium, lock};

/// A mounted disk, unmounted when it is dropped.
#[derive(Debug)]
pub struct FaultyDisk {
    medium: Arc<Medium>,
    /// What was on it when it was mounted.
    pub initial: Vec<u8>,
    /// Where its file system is mounted.
    pub mounted: PathBuf,
    file: PathBuf,
    device: Option<String>,
    server: Option<JoinHandle<()>>,
}

/// Why such disks are not possible here, if they are not.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("mounting a disk of this process's own needs root");
    }
    if !Path::new("/dev/fuse").exists() || !Path::new("/dev/loop-control").exists() {
        return Some("this kernel has no FUSE or no loop devices");
    }
    if !is_installed("mkfs.ext4") || !is_installed("losetup") {
        return Some("mkfs.ext4 or losetup is not installed");
    }
    None
}

impl FaultyDisk {
    /// A new disk with an empty ext4, mounted in `room` under `name`.
    ///
    /// # Panics
    /// If it cannot be made although nothing is [`missing`].
    #[must_use]
    pub fn new(room: &Path, name: &str, bytes: usize, record: Option<(Record, usize)>) -> Self {
        // Made in an ordinary file first, which mkfs prefers.
        let image = room.join(format!("{name}.image"));
        File::create(&image).and_then(|file| file.set_len(bytes as u64)).expect("an image can be made");
        // A small journal and no lazy initialization, so that the disk does only what the test
        // does.
        let options = ["-q", "-F", "-J", "size=4", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard", "-m", "0"];
        let made = Command::new("mkfs.ext4").args(options).arg(&image).output().expect("mkfs.ext4 runs");
        assert!(made.status.success(), "mkfs.ext4: {}", String::from_utf8_lossy(&made.stderr));
        let bytes = fs::read(&image).expect("the image can be read");
        fs::remove_file(image).expect("the image can be removed");
        Self::with_contents(room, name, bytes, record)
    }

    /// A disk with the given contents, for instance as a power failure left them.
    ///
    /// # Panics
    /// If it cannot be mounted.
    #[must_use]
    pub fn with_contents(room: &Path, name: &str, bytes: Vec<u8>, record: Option<(Record, usize)>) -> Self {
        let (file, mounted) = (room.join(format!("{name}.disk")), room.join(name));
        File::create(&file).expect("a file can be made");
        fs::create_dir_all(&mounted).expect("a directory can be made");
        let initial = bytes.clone();
        let medium = Arc::new(Medium { bytes: Mutex::new(bytes), bad: Mutex::default(), record });
        let server = server::mount_file(&file, medium.clone());
        let mut disk = Self { medium, initial, mounted, file, device: None, server: Some(server) };
        let set_up = Command::new("losetup").args(["--find", "--show"]).arg(&disk.file).output();
        let set_up = set_up.expect("losetup runs");
        assert!(set_up.status.success(), "losetup: {}", String::from_utf8_lossy(&set_up.stderr));
        let device = String::from_utf8_lossy(&set_up.stdout).trim().to_owned();
        disk.device = Some(device.clone());
        // The weakest guarantees of ext4: names may reach the disk before the data they refer to.
        let options = c"noauto_da_alloc,data=writeback";
        mount(device.as_str(), &disk.mounted, "ext4", MountFlags::empty(), options).expect("ext4 can be mounted");
        disk
    }

    /// Changes which blocks are bad.
    pub fn set_bad(&self, bad: BadBlocks) {
        *lock(&self.medium.bad) = bad;
    }

    /// What is on the disk.
    #[must_use]
    pub fn contents(&self) -> Vec<u8> {
        lock(&self.medium.bytes).clone()
    }
}

impl Drop for FaultyDisk {
    fn drop(&mut self) {
        self.set_bad(BadBlocks::default());
        let _ = unmount(&self.mounted, UnmountFlags::empty()).or_else(|_| unmount(&self.mounted, UnmountFlags::DETACH));
        if let Some(device) = &self.device {
            let _ = Command::new("losetup").arg("--detach").arg(device).status();
        }
        let is_gone = unmount(&self.file, UnmountFlags::empty()).or_else(|_| unmount(&self.file, UnmountFlags::DETACH));
        if let (Ok(()), Some(server)) = (is_gone, self.server.take()) {
            let _ = server.join();
        }
    }
}

/// What a power failure just before event number `cut` leaves of `disk`, which started as `image`:
/// everything up to its last flush, and of what was written since, whatever `random` decides;
/// without it, nothing.
#[must_use]
pub fn after_power_failure(
    image: &[u8],
    events: &[Event],
    disk: usize,
    cut: usize,
    mut random: Option<&mut Random>,
) -> Vec<u8> {
    let before = &events[..cut];
    let flushed = before.iter().rposition(|event| matches!(event, Event::Flush { disk: of } if *of == disk));
    let mut bytes = image.to_vec();
    for (at, event) in before.iter().enumerate() {
        let Event::Write { disk: of, offset, bytes: written } = event else { continue };
        let is_stable = flushed.is_some_and(|flushed| at < flushed);
        if *of == disk && (is_stable || random.as_mut().is_some_and(|random| random.below(2) == 0)) {
            bytes[*offset as usize..*offset as usize + written.len()].copy_from_slice(written);
        }
    }
    bytes
}
