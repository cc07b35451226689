//! A file system that folds names: those that differ by case, or by how a letter is composed, are the same to it.
//!
//! It is a FUSE file system in the memory of this process, as small as a receiving node needs it (include/uapi/linux/fuse.h). Kernels
//! with `CONFIG_UNICODE` have such directories on ext4 (`chattr +F`); where there are none this one shows the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::mount::{UnmountFlags, unmount};

use crate::fuse::{Answer, Fields, init, serve};
use crate::program::is_root;

const ROOT: u64 = 1;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

/// A mounted file system. Dropped, it is unmounted.
#[derive(Debug)]
pub struct FoldingDisk {
    /// Where it is.
    pub mounted: PathBuf,
    server: Option<JoinHandle<()>>,
}

/// Why there are none here.
#[must_use]
pub fn missing() -> Option<&'static str> {
    if !is_root() {
        return Some("mounting a file system of this process's own needs root");
    }
    (!Path::new("/dev/fuse").exists()).then_some("this kernel has no FUSE")
}

impl FoldingDisk {
    /// An empty one at `mounted`, which is made.
    ///
    /// # Panics
    /// If it cannot be mounted although nothing is [`missing`].
    #[must_use]
    pub fn new(mounted: &Path) -> Self {
        fs::create_dir_all(mounted).expect("a directory can be made");
        let mut tree = Tree::default();
        tree.nodes.insert(ROOT, Node { mode: DIRECTORY | 0o755, links: 2, ..Node::default() });
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

/// A name as the file system compares it: as ext4 does for the letters that the tests have.
fn fold(name: &[u8]) -> Vec<u8> {
    let Ok(name) = std::str::from_utf8(name) else { return name.to_vec() };
    let lower: String = name.chars().flat_map(char::to_lowercase).collect();
    lower.replace('ß', "ss").replace("e\u{301}", "\u{e9}").into_bytes()
}

#[derive(Debug, Default)]
struct Node {
    mode: u32,
    links: u32,
    modified: (u64, u32),
    bytes: Vec<u8>,
    /// By folded name: as it was made, and its node.
    names: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

#[derive(Debug, Default)]
struct Tree {
    nodes: BTreeMap<u64, Node>,
}

type Done = Result<Vec<u8>, Errno>;

/// The string at an offset.
fn string(body: Fields<'_>, at: usize) -> &[u8] {
    body.strings(at).next().unwrap_or_default()
}

impl Tree {
    /// The answer to a request; `None` for those that get none. The numbers are those of `enum fuse_opcode`.
    fn answer(&mut self, operation: u32, node: u64, body: Fields<'_>) -> Answer {
        Some(match operation {
            // FORGET, INTERRUPT, BATCH_FORGET.
            2 | 36 | 42 => return None,
            1 => self.find(node, string(body, 0)).and_then(|found| self.entry(found)),
            3 => self.attributes(node),
            4 => self.set_attributes(node, body),
            5 => self.node(node).map(|node| node.bytes.clone()),
            6 => {
                let mut strings = body.strings(0);
                let (name, target) = (strings.next().unwrap_or_default(), strings.next().unwrap_or_default());
                let made = self.make(node, name, SYMLINK | 0o777);
                made.and_then(|made| {
                    self.nodes.get_mut(&made).ok_or(Errno::NOENT)?.bytes = target.to_vec();
                    self.entry(made)
                })
            }
            9 => self.make(node, string(body, 8), DIRECTORY | body.word(0) & 0o7777).and_then(|made| self.entry(made)),
            10 | 11 => self.remove(node, string(body, 0)).map(|_| Vec::new()),
            12 => self.rename(node, body.long(0), body.strings(8)),
            13 => self.link(body.long(0), node, string(body, 8)),
            // OPEN and OPENDIR.
            14 | 27 => Ok(vec![0; 16]),
            15 => self.node(node).map(|node| {
                let begin = (body.long(8) as usize).min(node.bytes.len());
                node.bytes[begin..(begin + body.word(16) as usize).min(node.bytes.len())].to_vec()
            }),
            16 => self.write(node, body.long(8) as usize, &body.0[40..40 + body.word(16) as usize]),
            17 => Ok(room()),
            // RELEASE, FSYNC, FLUSH, RELEASEDIR, FSYNCDIR.
            18 | 20 | 25 | 29 | 30 => Ok(Vec::new()),
            26 => Ok(init(body.word(4))),
            28 => self.list(node, body.long(8) as usize, body.word(16) as usize),
            35 => self.make(node, string(body, 16), REGULAR | body.word(4) & 0o7777).and_then(|made| {
                let mut created = self.entry(made)?;
                created.extend([0; 16]);
                Ok(created)
            }),
            45 => self.rename(node, body.long(0), body.strings(16)),
            _ => Err(Errno::NOSYS),
        })
    }

    fn node(&self, node: u64) -> Result<&Node, Errno> {
        self.nodes.get(&node).ok_or(Errno::NOENT)
    }

    fn find(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        self.node(directory)?.names.get(&fold(name)).map(|&(_, node)| node).ok_or(Errno::NOENT)
    }

    fn put(&mut self, directory: u64, name: &[u8], node: u64) -> Result<(), Errno> {
        let names = &mut self.nodes.get_mut(&directory).ok_or(Errno::NOENT)?.names;
        names.insert(fold(name), (name.to_vec(), node));
        Ok(())
    }

    fn make(&mut self, directory: u64, name: &[u8], mode: u32) -> Result<u64, Errno> {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EXIST);
        }
        let made = self.nodes.last_key_value().map_or(ROOT, |(&last, _)| last) + 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        self.nodes.insert(made, Node { mode, links, ..Node::default() });
        self.put(directory, name, made)?;
        Ok(made)
    }

    fn remove(&mut self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        let names = &mut self.nodes.get_mut(&directory).ok_or(Errno::NOENT)?.names;
        let (_, node) = names.remove(&fold(name)).ok_or(Errno::NOENT)?;
        // Open files go on without a name, so the node stays.
        if let Some(node) = self.nodes.get_mut(&node) {
            node.links = node.links.saturating_sub(1);
        }
        Ok(node)
    }

    fn link(&mut self, node: u64, directory: u64, name: &[u8]) -> Done {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EXIST);
        }
        self.nodes.get_mut(&node).ok_or(Errno::NOENT)?.links += 1;
        self.put(directory, name, node)?;
        self.entry(node)
    }

    fn rename<'a>(&mut self, from: u64, to: u64, mut names: impl Iterator<Item = &'a [u8]>) -> Done {
        let (old, new) = (names.next().unwrap_or_default(), names.next().unwrap_or_default());
        let node = self.find(from, old)?;
        // What may not be replaced has been found by the kernel.
        let _ = self.remove(to, new);
        self.nodes.get_mut(&from).ok_or(Errno::NOENT)?.names.remove(&fold(old));
        self.put(to, new, node)?;
        Ok(Vec::new())
    }

    fn write(&mut self, node: u64, offset: usize, written: &[u8]) -> Done {
        let bytes = &mut self.nodes.get_mut(&node).ok_or(Errno::NOENT)?.bytes;
        bytes.resize(bytes.len().max(offset + written.len()), 0);
        bytes[offset..offset + written.len()].copy_from_slice(written);
        Ok([(written.len() as u32).to_le_bytes(), [0; 4]].concat())
    }

    fn set_attributes(&mut self, at: u64, body: Fields<'_>) -> Done {
        let node = self.nodes.get_mut(&at).ok_or(Errno::NOENT)?;
        let valid = body.word(0);
        if valid & 1 != 0 {
            node.mode = node.mode & !0o7777 | body.word(68) & 0o7777;
        }
        if valid & 8 != 0 {
            node.bytes.resize(body.long(16) as usize, 0);
        }
        if valid & 32 != 0 {
            node.modified = (body.long(40), body.word(60));
        }
        self.attributes(at)
    }

    /// `struct fuse_attr`.
    fn attribute_fields(&self, at: u64) -> Done {
        let node = self.node(at)?;
        let bytes = node.bytes.len() as u64;
        let mut out = Vec::with_capacity(88);
        // Inode, size, blocks, three times.
        for number in [at, bytes, bytes.div_ceil(512), 0, node.modified.0, 0] {
            out.extend(number.to_le_bytes());
        }
        // Their nanoseconds, mode, links, owner, group, device, block size, flags.
        for number in [0, node.modified.1, 0, node.mode, node.links, 0, 0, 0, 4_096, 0] {
            out.extend(number.to_le_bytes());
        }
        Ok(out)
    }

    /// `struct fuse_attr_out`; valid for no time.
    fn attributes(&self, at: u64) -> Done {
        Ok([vec![0; 16], self.attribute_fields(at)?].concat())
    }

    /// `struct fuse_entry_out`; valid for no time.
    fn entry(&self, at: u64) -> Done {
        Ok([at.to_le_bytes().to_vec(), vec![0; 32], self.attribute_fields(at)?].concat())
    }

    /// `struct fuse_dirent`s from number `from` on, as many as fit.
    fn list(&self, node: u64, from: usize, bytes_max: usize) -> Done {
        let mut out = Vec::new();
        for (at, (name, node)) in self.node(node)?.names.values().enumerate().skip(from) {
            if out.len() + 24 + name.len().next_multiple_of(8) > bytes_max {
                break;
            }
            let kind = self.node(*node)?.mode >> 12;
            out.extend(node.to_le_bytes());
            out.extend((at as u64 + 1).to_le_bytes());
            out.extend((name.len() as u32).to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend(name);
            out.resize(out.len().next_multiple_of(8), 0);
        }
        Ok(out)
    }
}

/// `struct fuse_statfs_out`: room enough.
fn room() -> Vec<u8> {
    let mut out = Vec::with_capacity(80);
    for number in [1u64 << 20; 5] {
        out.extend(number.to_le_bytes());
    }
    for number in [4_096u32, 255, 4_096, 0] {
        out.extend(number.to_le_bytes());
    }
    out.resize(80, 0);
    out
}
