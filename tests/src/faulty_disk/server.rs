//! The FUSE file system of one file: its root is a regular file, mounted over another one (include/uapi/linux/fuse.h).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

use super::{Medium, lock};

/// The largest write that the kernel hands over at once, and room for the request around it.
const WRITE_BYTES_MAX: u32 = 1 << 20;
const REQUEST_BYTES_MAX: usize = WRITE_BYTES_MAX as usize + 4_096;
/// `struct fuse_in_header`.
const IN_HEADER_BYTES: usize = 40;
/// `FOPEN_DIRECT_IO`: nothing is kept in the page cache, so a write is a write.
const DIRECT_IO: u32 = 1;
/// `FUSE_BIG_WRITES | FUSE_MAX_PAGES`.
const INIT_FLAGS: u32 = 1 << 5 | 1 << 22;

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

/// Shows `medium` as the file at `path`, until it is unmounted; then the thread ends.
pub(super) fn mount_file(path: &Path, medium: Arc<Medium>) -> JoinHandle<()> {
    let device = File::options().read(true).write(true).open("/dev/fuse").expect("FUSE can be used");
    let options = format!("fd={},rootmode=100600,user_id=0,group_id=0", device.as_raw_fd());
    let options = std::ffi::CString::new(options).expect("the options contain no NUL");
    mount("culvert-test", path, "fuse", MountFlags::empty(), options.as_c_str()).expect("FUSE can be mounted");
    std::thread::spawn(move || serve(device, &medium))
}

fn serve(mut device: File, medium: &Medium) {
    let mut request = vec![0; REQUEST_BYTES_MAX];
    loop {
        let bytes = match device.read(&mut request) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            // Unmounted.
            Err(_) => return,
        };
        let number = |at: usize| u64::from_le_bytes(request[at..at + 8].try_into().expect("eight bytes"));
        let (operation, unique) = (number(0) >> 32, number(8));
        let Some(answer) = answer(operation as u32, &request[IN_HEADER_BYTES..bytes], medium) else { continue };
        let (error, body) = match answer {
            Ok(body) => (0, body),
            Err(error) => (-error.raw_os_error(), Vec::new()),
        };
        let mut reply = Vec::with_capacity(16 + body.len());
        reply.extend((16 + body.len() as u32).to_le_bytes());
        reply.extend(error.to_le_bytes());
        reply.extend(unique.to_le_bytes());
        reply.extend(body);
        // A request that was interrupted is not there any more.
        let _ = device.write_all(&reply);
    }
}

/// The answer to a request; `None` for those that get none.
fn answer(operation: u32, body: &[u8], medium: &Medium) -> Option<Result<Vec<u8>, Errno>> {
    let long = |at: usize| u64::from_le_bytes(body[at..at + 8].try_into().expect("eight bytes"));
    let word = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
    Some(match operation {
        FORGET | BATCH_FORGET | INTERRUPT => return None,
        INIT => Ok(init(word(4))),
        GET_ATTRIBUTES | SET_ATTRIBUTES => Ok(attributes(medium)),
        OPEN => Ok([&1u64.to_le_bytes()[..], &DIRECT_IO.to_le_bytes(), &0u32.to_le_bytes()].concat()),
        READ => medium.read(long(8), word(16) as usize).ok_or(Errno::IO),
        WRITE => {
            let count = word(16);
            let is_written = medium.write(long(8), &body[40..40 + count as usize]);
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

/// `struct fuse_init_out`.
fn init(minor: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for word in [7, minor.min(31), 0, INIT_FLAGS] {
        out.extend(u32::to_le_bytes(word));
    }
    // Requests in the background.
    out.extend([32u16.to_le_bytes(), 24u16.to_le_bytes()].concat());
    out.extend(WRITE_BYTES_MAX.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(((WRITE_BYTES_MAX / 4_096) as u16).to_le_bytes());
    out.resize(64, 0);
    out
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
