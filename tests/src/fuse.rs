//! What this process's file systems have in common: requests from the kernel, and answers
//! (include/uapi/linux/fuse.h).

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::io::Errno;
use rustix::mount::{MountFlags, mount};

/// The largest write that the kernel hands over at once.
pub const WRITE_BYTES_MAX: u32 = 1 << 20;
/// `struct fuse_in_header`.
const IN_HEADER_BYTES: usize = 40;
/// `FUSE_BIG_WRITES | FUSE_MAX_PAGES`.
const INIT_FLAGS: u32 = 1 << 5 | 1 << 22;

/// The answer to a request: the body, or an error; `None` for requests that get none.
pub type Answer = Option<Result<Vec<u8>, Errno>>;

/// A request's body, by field.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// Four bytes at an offset.
    ///
    /// # Panics
    /// If the request is shorter, which the kernel's never are.
    #[must_use]
    pub fn word(self, at: usize) -> u32 {
        u32::from_le_bytes(self.0[at..at + 4].try_into().expect("four bytes"))
    }

    /// Eight bytes at an offset.
    ///
    /// # Panics
    /// As [`Fields::word`].
    #[must_use]
    pub fn long(self, at: usize) -> u64 {
        u64::from_le_bytes(self.0[at..at + 8].try_into().expect("eight bytes"))
    }

    /// The strings that start at an offset.
    pub fn strings(self, at: usize) -> impl Iterator<Item = &'a [u8]> {
        self.0[at..].split(|&byte| byte == 0)
    }
}

/// A request from the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is wanted (`enum fuse_opcode`).
    pub operation: u32,
    /// The node that it is for.
    pub node: u64,
    /// The thread that made it; 0 for the kernel's own requests.
    pub thread: u32,
    /// The body.
    pub body: Fields<'a>,
}

/// Mounts a file system whose root has `root_mode` (octal digits) at `path`, and answers requests
/// with `answer` (operation, node, body) until it is unmounted; then the thread ends.
///
/// # Panics
/// If that cannot be done.
pub fn serve(
    path: &Path,
    root_mode: &str,
    mut answer: impl FnMut(u32, u64, Fields<'_>) -> Answer + Send + 'static,
) -> JoinHandle<()> {
    serve_in_time(path, root_mode, move |request| {
        (answer(request.operation, request.node, request.body), Duration::ZERO)
    })
}

/// As [`serve`], but answers go out only after a delay. Others go out meanwhile.
///
/// # Panics
/// If that cannot be done.
pub fn serve_in_time(
    path: &Path,
    root_mode: &str,
    mut answer: impl FnMut(Request<'_>) -> (Answer, Duration) + Send + 'static,
) -> JoinHandle<()> {
    let mut device = File::options().read(true).write(true).open("/dev/fuse").expect("FUSE can be used");
    let options = format!("fd={},rootmode={root_mode},user_id=0,group_id=0", device.as_raw_fd());
    let options = std::ffi::CString::new(options).expect("the options contain no NUL");
    mount("culvert-test", path, "fuse", MountFlags::empty(), options.as_c_str()).expect("FUSE can be mounted");
    std::thread::spawn(move || {
        let mut request = vec![0; WRITE_BYTES_MAX as usize + 4_096];
        loop {
            let bytes = match device.read(&mut request) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                // Unmounted.
                Err(_) => return,
            };
            let header = Fields(&request[..IN_HEADER_BYTES]);
            let (operation, unique, node, thread) = (header.word(4), header.long(8), header.long(16), header.word(32));
            let body = Fields(&request[IN_HEADER_BYTES..bytes]);
            let (answer, time) = answer(Request { operation, node, thread, body });
            let Some(answer) = answer else { continue };
            let (error, body) = match answer {
                Ok(body) => (0, body),
                Err(error) => (-error.raw_os_error(), Vec::new()),
            };
            let mut reply = Vec::with_capacity(16 + body.len());
            reply.extend((16 + body.len() as u32).to_le_bytes());
            reply.extend(error.to_le_bytes());
            reply.extend(unique.to_le_bytes());
            reply.extend(body);
            // A request that was interrupted no longer exists.
            if time.is_zero() {
                let _ = device.write_all(&reply);
            } else {
                let mut device = device.try_clone().expect("a descriptor can be duplicated");
                std::thread::spawn(move || {
                    std::thread::sleep(time);
                    let _ = device.write_all(&reply);
                });
            }
        }
    })
}

/// `struct fuse_init_out`, for a kernel of this minor version.
#[must_use]
pub fn init(minor: u32) -> Vec<u8> {
    let mut out = Vec::with_capacity(64);
    for word in [7, minor.min(31), 0, INIT_FLAGS] {
        out.extend(u32::to_le_bytes(word));
    }
    // Limits of background requests.
    out.extend([32u16.to_le_bytes(), 24u16.to_le_bytes()].concat());
    out.extend(WRITE_BYTES_MAX.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend(((WRITE_BYTES_MAX / 4_096) as u16).to_le_bytes());
    out.resize(64, 0);
    out
}
