//! `culvert bench disk`: measures a disk with sequential I/O that bypasses the page cache.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use culvert_model::exit_code::ExitCode;
use culvert_model::units::show_rate;
use rustix::fs::{CWD, FallocateFlags, Mode, OFlags, fallocate, fsync, openat};
use rustix::io::Errno;

use crate::exit::CommandError;
use crate::report::{print_json, say};

/// Size of a request: a chunk.
const PIECE_BYTES: usize = 4 << 20;
/// Concurrent requests.
const THREADS: usize = 4;
/// Alignment of direct I/O.
const ALIGNMENT: usize = 4096;

/// Measures writing, with a final fsync, and reading.
///
/// # Errors
/// [`CommandError`].
pub fn run(directory: &Path, size: u64, json: bool) -> Result<ExitCode, CommandError> {
    let fail = |error: &dyn std::fmt::Display| {
        CommandError::new(ExitCode::BadHost, format!("cannot measure {}: {error}", directory.display()))
    };
    let file =
        tempfile::Builder::new().prefix("culvert-bench-").tempfile_in(directory).map_err(|error| fail(&error))?;
    let open = |flags| openat(CWD, file.path(), OFlags::RDWR | OFlags::CLOEXEC | flags, Mode::empty());
    let opened = open(OFlags::DIRECT).map(|fd| (fd, true)).or_else(|_| Ok((open(OFlags::empty())?, false)));
    let (fd, is_direct) = opened.map_err(|error: Errno| fail(&error))?;
    // The file loses its name before it grows, so that nothing remains however this process ends.
    file.close().map_err(|error| fail(&error))?;
    let pieces = (size as usize / PIECE_BYTES).max(THREADS);
    let bytes = pieces * PIECE_BYTES;
    let _ = fallocate(&fd, FallocateFlags::empty(), 0, bytes as u64);
    let began = Instant::now();
    each_piece(&fd, pieces, |fd, piece, offset| rustix::io::pwrite(fd, piece, offset)).map_err(|error| fail(&error))?;
    fsync(&fd).map_err(|error| fail(&error))?;
    let write = bytes as f64 * 8.0 / began.elapsed().as_secs_f64();
    let began = Instant::now();
    each_piece(&fd, pieces, |fd, piece, offset| rustix::io::pread(fd, piece, offset)).map_err(|error| fail(&error))?;
    let read = bytes as f64 * 8.0 / began.elapsed().as_secs_f64();
    if json {
        print_json(
            &serde_json::json!({ "direct": is_direct, "bytes": bytes, "write_bits_per_second": write as u64, "read_bits_per_second": read as u64 }),
        )?;
    } else {
        let how = if is_direct { "direct" } else { "through the page cache: this file system has no direct I/O" };
        say(&format!("write {}, read {} ({how})", show_rate(write as u64), show_rate(read as u64)))?;
    }
    Ok(ExitCode::Done)
}

/// Reads or writes every piece, with several threads.
fn each_piece(
    fd: &OwnedFd,
    pieces: usize,
    act: impl Fn(&OwnedFd, &mut [u8], u64) -> Result<usize, Errno> + Sync,
) -> Result<(), Errno> {
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        let worker = || {
            let mut memory = vec![7u8; PIECE_BYTES + ALIGNMENT];
            let begin = memory.as_ptr().align_offset(ALIGNMENT);
            let piece = &mut memory[begin..begin + PIECE_BYTES];
            loop {
                let at = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if at >= pieces {
                    return Ok(());
                }
                let mut done = 0;
                while done < PIECE_BYTES {
                    let moved = act(fd, &mut piece[done..], (at * PIECE_BYTES + done) as u64)?;
                    if moved == 0 {
                        return Err(Errno::IO);
                    }
                    done += moved;
                }
            }
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Err(Errno::IO)))
    })
}
