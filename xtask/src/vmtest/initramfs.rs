//! A root file system in memory: an archive in the format that Linux unpacks at its start (`newc`,
//! Documentation/driver-api/early-userspace/buffer-format.rst).

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, bail};

const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;

/// The archive in the making.
#[derive(Debug)]
pub struct Initramfs {
    bytes: Vec<u8>,
    names: BTreeSet<String>,
    entries: u32,
}

impl Initramfs {
    /// An archive with nothing but the console, which the first process writes to.
    pub fn new() -> Self {
        let mut files = Self { bytes: Vec::new(), names: BTreeSet::new(), entries: 0 };
        files.directory("/dev");
        files.entry("/dev/console", CHARACTER_DEVICE | 0o600, (5, 1), &[]);
        files
    }

    /// Adds a program and the libraries that it is linked to.
    pub fn program(&mut self, path: &Path, name: &str) -> anyhow::Result<()> {
        self.file(name, 0o755, &std::fs::read(path).with_context(|| path.display().to_string())?);
        let listed = Command::new("ldd").arg(path).output().context("ldd")?;
        if !listed.status.success() {
            bail!("ldd {}: {}", path.display(), String::from_utf8_lossy(&listed.stderr));
        }
        for library in libraries(&String::from_utf8_lossy(&listed.stdout)) {
            self.file(library, 0o755, &std::fs::read(library).with_context(|| library.to_owned())?);
        }
        Ok(())
    }

    /// Adds a file, unless it is there, and the directories above it.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if self.names.contains(name) {
            return;
        }
        if let Some((above, _)) = name.rsplit_once('/') {
            self.directory(above);
        }
        self.entry(name, FILE | mode, (0, 0), bytes);
    }

    /// The archive, whole.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn directory(&mut self, name: &str) {
        if name.is_empty() || self.names.contains(name) {
            return;
        }
        if let Some((above, _)) = name.rsplit_once('/') {
            self.directory(above);
        }
        self.entry(name, DIRECTORY | 0o755, (0, 0), &[]);
    }

    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), bytes: &[u8]) {
        self.names.insert(name.to_owned());
        self.entries += 1;
        let name = name.trim_start_matches('/');
        let links = if mode & DIRECTORY != 0 { 2 } else { 1 };
        let (size, name_size) = (bytes.len() as u32, name.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, file system (2), device (2), length of the
        // name, checksum.
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, device.0, device.1, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(bytes);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

/// The files among what `ldd` lists: libraries with a path, and the loader.
fn libraries(listing: &str) -> impl Iterator<Item = &str> {
    listing.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_comes_after_its_directories_and_once() {
        let mut files = Initramfs::new();
        files.file("/a/b/c", 0o644, b"hello");
        files.file("/a/b/c", 0o644, b"again");
        files.file("/a/d", 0o644, &[]);
        let bytes = files.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(at("dev") < at("dev/console") && at("a") < at("a/b") && at("a/b") < at("a/b/c"));
        assert!(at("a/d") < at("TRAILER!!!"));
        assert_eq!(text.matches("070701").count(), 7, "dev, console, a, b, c, d, trailer, and none twice");
        assert!(text.contains("hello") && !text.contains("again"));
    }

    #[test]
    fn libraries_have_paths() {
        let listing = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\t/lib64/ld-linux-x86-64.so.2 (0x7)\n";
        let found: Vec<&str> = libraries(listing).collect();
        assert_eq!(found, ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"]);
    }
}
