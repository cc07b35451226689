//! A FUSE file system with a single file: its root is a regular file, mounted over another one
//! (include/uapi/linux/fuse.h).

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::io::Errno;

use super::medium::{Medium, lock};
use crate::fuse::{Answer, Fields, init, serve};

/// `FOPEN_DIRECT_IO`: nothing is kept in the page cache, so every write arrives.
const DIRECT_IO: u32 = 1;

const SET_ATTRIBUTES: u32 = 4;
const GET_ATTRIBUTES: u32 = 3;
const FORGET: u32 = 2;
const OPEN: u32 = 14;
const READ: u32 = 15;
const WRITE: u32 = 16;
const STATFS: u32 = 17;
const RELEASE: u32 = 18;
const FSYNC: u32 = 20;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const INTERRUPT: u32 = 36;
const BATCH_FORGET: u32 = 42;

/// Presents `medium` as the file at `path`, until it is unmounted; then the thread ends.
pub(super) fn mount_file(path: &Path, medium: Arc<Medium>) -> JoinHandle<()> {
    serve(path, "100600", move |operation, _, body| answer(operation, body, &medium))
}

/// The answer to a request; `None` for those that get none.
fn answer(operation: u32, body: Fields<'_>, medium: &Medium) -> Answer {
    let (long, word) = (|at| body.long(at), |at| body.word(at));
    Some(match operation {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(word(4))),
        GET_ATTRIBUTES | SET_ATTRIBUTES => Ok(attributes(medium)),
        OPEN => Ok([&1u64.to_le_bytes()[..], &DIRECT_IO.to_le_bytes(), &0u32.to_le_bytes()].concat()),
        READ => medium.read(long(8), word(16) as usize).ok_or(Errno::IO),
        WRITE => {
            let count = word(16);
            let is_written = medium.write(long(8), &body.0[40..40 + count as usize]);
            is_written.then(|| [count.to_le_bytes(), [0; 4]].concat()).ok_or(Errno::IO)
        }
        FSYNC => {
            medium.flush();
            Ok(Vec::new())
        }
        STATFS => Ok(vec![0; 80]),
        RELEASE | FLUSH => Ok(Vec::new()),
        _ => Err(Errno::NOSYS),
    })
}

/// `struct fuse_attr_out` of the file.
fn attributes(medium: &Medium) -> Vec<u8> {
    let bytes = lock(&medium.bytes).len() as u64;
    let mut out = Vec::with_capacity(104);
    // Valid for an hour; then inode, size and blocks.
    for number in [3_600, 0, 1, bytes, bytes / 512, 0, 0, 0] {
        out.extend(u64::to_le_bytes(number));
    }
    // Nanoseconds of three times, mode, links, owner, group, device, block size, flags.
    for number in [0, 0, 0, 0o100_600, 1, 0, 0, 0, 4_096, 0] {
        out.extend(u32::to_le_bytes(number));
    }
    out
}
