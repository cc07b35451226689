//! A file system that folds names: it treats names that differ only in case, or in how a letter is
//! composed, as the same.
//!
//! It is a FUSE file system in the memory of this process, with only what a receiving node needs
//! (include/uapi/linux/fuse.h). Kernels with `CONFIG_UNICODE` have such directories on ext4
//! (`chattr +F`); where they are missing, this one behaves the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::mount::{UnmountFlags, unmount};

use crate::fuse::serve;
use crate::memory_tree::Tree;
use crate::program::is_root;

/// A mounted file system, unmounted when it is dropped.
#[derive(Debug)]
pub struct FoldingDisk {
    /// Where it is mounted.
    pub mounted: PathBuf,
    server: Option<JoinHandle<()>>,
}

/// Why such a file system is not possible here, if it is not.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("mounting a file system of this process's own needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("this kernel has no FUSE")
}

impl FoldingDisk {
    /// An empty one at `mounted`, which is created.
    ///
    /// # Panics
    /// If it cannot be mounted although nothing is [`missing`].
    #[must_use]
    pub fn new(mounted: &Path) -> Self {
        fs::create_dir_all(mounted).expect("a directory can be made");
        let mut tree = Tree::new(fold);
        let server = serve(mounted, "40755", move |operation, node, body| tree.answer(operation, node, body));
        Self { mounted: mounted.to_owned(), server: Some(server) }
    }
}

impl Drop for FoldingDisk {
    fn drop(&mut self) {
        let _ = unmount(&self.mounted, UnmountFlags::empty()).or_else(|_| unmount(&self.mounted, UnmountFlags::DETACH));
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}

/// A name as the file system compares it: as ext4 does, for the letters used in the tests.
fn fold(name: &[u8]) -> Vec<u8> {
    let Ok(name) = std::str::from_utf8(name) else { return name.to_vec() };
    let lower: String = name.chars().flat_map(char::to_lowercase).collect();
    lower.replace('ß', "ss").replace("e\u{301}", "\u{e9}").into_bytes()
}
