//! A FUSE file system in the memory of this process, with only what a node needs
//! (include/uapi/linux/fuse.h).

use std::collections::BTreeMap;
use std::time::SystemTime;

use rustix::io::Errno;

use crate::fuse::{Answer, Fields, init};

/// The node of the root.
pub const ROOT: u64 = 1;
const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;

#[derive(Debug, Default)]
struct Node {
    mode: u32,
    links: u32,
    modified: (u64, u32),
    bytes: Vec<u8>,
    /// By folded name: the name as it was created, and its node.
    names: BTreeMap<Vec<u8>, (Vec<u8>, u64)>,
}

/// The tree of a file system in memory.
#[derive(Debug)]
pub struct Tree {
    nodes: BTreeMap<u64, Node>,
    /// Folds a name into the form that the file system compares.
    fold: fn(&[u8]) -> Vec<u8>,
}

type Done = Result<Vec<u8>, Errno>;

/// The time, in seconds since 1970 and nanoseconds.
fn now() -> (u64, u32) {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    (since.as_secs(), since.subsec_nanos())
}

/// The string at an offset.
fn string(body: Fields<'_>, at: usize) -> &[u8] {
    body.strings(at).next().unwrap_or_default()
}

impl Tree {
    /// An empty one, which takes names to be the same if `fold` makes them equal.
    #[must_use]
    pub fn new(fold: fn(&[u8]) -> Vec<u8>) -> Self {
        let root = Node { mode: DIRECTORY | 0o755, links: 2, ..Node::default() };
        Self { nodes: BTreeMap::from([(ROOT, root)]), fold }
    }

    /// The answer to a request; `None` for those that get none. The operation numbers are those of
    /// `enum fuse_opcode`.
    pub fn answer(&mut self, operation: u32, node: u64, body: Fields<'_>) -> Answer {
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
            8 => self.make(node, string(body, 16), body.word(0)).and_then(|made| self.entry(made)),
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
            43 => self.allocate(node, body),
            45 => self.rename(node, body.long(0), body.strings(16)),
            _ => Err(Errno::NOSYS),
        })
    }

    fn node(&self, node: u64) -> Result<&Node, Errno> {
        self.nodes.get(&node).ok_or(Errno::NOENT)
    }

    fn find(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        self.node(directory)?.names.get(&(self.fold)(name)).map(|&(_, node)| node).ok_or(Errno::NOENT)
    }

    fn put(&mut self, directory: u64, name: &[u8], node: u64) -> Result<(), Errno> {
        let names = &mut self.nodes.get_mut(&directory).ok_or(Errno::NOENT)?.names;
        names.insert((self.fold)(name), (name.to_vec(), node));
        Ok(())
    }

    fn make(&mut self, directory: u64, name: &[u8], mode: u32) -> Result<u64, Errno> {
        if self.find(directory, name).is_ok() {
            return Err(Errno::EXIST);
        }
        let made = self.nodes.last_key_value().map_or(ROOT, |(&last, _)| last) + 1;
        let links = if mode & 0o170_000 == DIRECTORY { 2 } else { 1 };
        self.nodes.insert(made, Node { mode, links, modified: now(), ..Node::default() });
        self.put(directory, name, made)?;
        Ok(made)
    }

    fn remove(&mut self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        let names = &mut self.nodes.get_mut(&directory).ok_or(Errno::NOENT)?.names;
        let (_, node) = names.remove(&(self.fold)(name)).ok_or(Errno::NOENT)?;
        // Open files live on without a name, so the node stays.
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
        // The kernel has already rejected what may not be replaced.
        let _ = self.remove(to, new);
        self.nodes.get_mut(&from).ok_or(Errno::NOENT)?.names.remove(&(self.fold)(old));
        self.put(to, new, node)?;
        Ok(Vec::new())
    }

    fn write(&mut self, node: u64, offset: usize, written: &[u8]) -> Done {
        let node = self.nodes.get_mut(&node).ok_or(Errno::NOENT)?;
        node.modified = now();
        let bytes = &mut node.bytes;
        bytes.resize(bytes.len().max(offset + written.len()), 0);
        bytes[offset..offset + written.len()].copy_from_slice(written);
        Ok([(written.len() as u32).to_le_bytes(), [0; 4]].concat())
    }

    /// Allocates space, of which there is enough, or punches a hole (`FALLOC_FL_KEEP_SIZE`,
    /// `FALLOC_FL_PUNCH_HOLE`).
    fn allocate(&mut self, node: u64, body: Fields<'_>) -> Done {
        let bytes = &mut self.nodes.get_mut(&node).ok_or(Errno::NOENT)?.bytes;
        let (begin, end, mode) = (body.long(8) as usize, (body.long(8) + body.long(16)) as usize, body.word(24));
        if mode & 1 == 0 {
            bytes.resize(bytes.len().max(end), 0);
        }
        if mode & 2 != 0 {
            let end = end.min(bytes.len());
            bytes[begin.min(end)..end].fill(0);
        }
        Ok(Vec::new())
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
        // Inode, size, blocks, three timestamps.
        for number in [at, bytes, bytes.div_ceil(512), 0, node.modified.0, 0] {
            out.extend(number.to_le_bytes());
        }
        // Their nanoseconds, mode, links, owner, group, device, block size, flags.
        for number in [0, node.modified.1, 0, node.mode, node.links, 0, 0, 0, 4_096, 0] {
            out.extend(number.to_le_bytes());
        }
        Ok(out)
    }

    /// `struct fuse_attr_out`, valid for zero seconds.
    fn attributes(&self, at: u64) -> Done {
        Ok([vec![0; 16], self.attribute_fields(at)?].concat())
    }

    /// `struct fuse_entry_out`, valid for zero seconds.
    fn entry(&self, at: u64) -> Done {
        Ok([at.to_le_bytes().to_vec(), vec![0; 32], self.attribute_fields(at)?].concat())
    }

    /// `struct fuse_dirent`s starting with number `from`, as many as fit.
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

/// `struct fuse_statfs_out`: enough room.
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
