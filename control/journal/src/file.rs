//! A journal's file: its name, its largest size, its replacement in one step.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use culvert_system::file_lock::{self, FileLock};
use culvert_system::regular_file::sync_directory;

/// The most that is read of a journal, in bytes: as much as the manifests of one partner's
/// transfers may take.
pub const JOURNAL_BYTES_MAX: u64 = 2 << 30;

/// Whether a path still names an open file.
pub(crate) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino())))
}

pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A name derived from a journal's.
pub(crate) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Replaces `path` by a file of `bytes` in one step, durably and locked from the start. The file is
/// written as `temporary`. The caller holds the lock of the file that is replaced.
pub(crate) fn replace(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<(File, FileLock)> {
    // A crash may have left the temporary name.
    let _ = std::fs::remove_file(temporary);
    let written = (|| {
        let mut file = File::options().read(true).append(true).create_new(true).mode(0o600).open(temporary)?;
        let lock = file_lock::lock(&file).map_err(io::Error::other)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        if temporary != path {
            std::fs::rename(temporary, path)?;
        }
        sync_directory(directory_of(path))?;
        Ok((file, lock))
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(temporary);
    }
    written
}
