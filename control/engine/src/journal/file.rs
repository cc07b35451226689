//! The file that a journal is: under its name, replaced in one step, and not longer than it may be.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use culvert_system::file_lock::{self, FileLock};
use culvert_system::regular_file::sync_directory;

use crate::limits::MANIFEST_BYTES_PER_PARTNER;

/// No journal is longer: as many bytes as the manifests of a partner's transfers may take.
pub(super) const JOURNAL_BYTES_MAX: u64 = MANIFEST_BYTES_PER_PARTNER;

/// Whether a path still names an open file.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let file = file.metadata()?;
    Ok(std::fs::metadata(path).is_ok_and(|named| (named.dev(), named.ino()) == (file.dev(), file.ino())))
}

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

/// A name derived from a journal's.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}

/// Makes `path` a file of `bytes` in one step, durably, and locks it; it is written as `temporary`.
/// The caller keeps others out.
pub(super) fn replace(temporary: &Path, path: &Path, bytes: &[u8]) -> io::Result<(File, FileLock)> {
    // What a crash left under the temporary name.
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
