//! Who may use the program's files: what it makes is for its account alone, and where it is denied
//! something, it says by whom.
//!
//! Root is often at the host while the service has an account of its own. What root makes in the
//! service's directory belongs to whom the directory belongs to, so that the service can use it.

use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};

/// Makes from now on whatever this process makes for its account alone, also what libraries make.
pub fn make_privately() {
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
}

/// Opens a file of this program for writing, made if it is not there.
///
/// # Errors
/// If it cannot be opened; says whose it is.
pub fn open_or_make(path: &Path) -> anyhow::Result<File> {
    let is_new = !path.exists();
    let opened = File::options().create(true).truncate(false).write(true).mode(0o600).open(path);
    let file = opened.map_err(|error| denied(error, "open", path))?;
    if is_new {
        belong_like(path, directory_of(path))?;
    }
    Ok(file)
}

/// Makes a file that is not there.
///
/// # Errors
/// What the system says.
pub fn make_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Gives a file the owner of another, or of its directory. Only root can, and only root needs to.
///
/// # Errors
/// If it cannot be done.
pub fn belong_like(path: &Path, like: &Path) -> anyhow::Result<()> {
    let wanted = std::fs::metadata(like).map_err(|error| denied(error, "look at", like))?;
    let here = std::fs::metadata(path).map_err(|error| denied(error, "look at", path))?;
    if !rustix::process::geteuid().is_root() || (wanted.uid(), wanted.gid()) == (here.uid(), here.gid()) {
        return Ok(());
    }
    std::os::unix::fs::chown(path, Some(wanted.uid()), Some(wanted.gid()))
        .with_context(|| format!("cannot give {} to UID {}", path.display(), wanted.uid()))
}

/// Refuses a file with a secret that everybody on the host may read or write.
///
/// # Errors
/// If everybody may, or it cannot be looked at.
pub fn refuse_public(path: &Path) -> anyhow::Result<()> {
    let mode = mode(&std::fs::metadata(path).map_err(|error| denied(error, "read", path))?);
    if mode & 0o007 != 0 {
        bail!(
            "everybody on this host may use {} (mode {mode:o}): chmod 600 it, and replace the secret in it",
            path.display()
        );
    }
    Ok(())
}

/// Refuses a state directory in which everybody may replace the database and the keys. That
/// everybody may look into it is no harm: what is in it is for its owner alone.
///
/// # Errors
/// If everybody may, or it cannot be looked at.
pub fn refuse_writable_by_all(directory: &Path) -> anyhow::Result<()> {
    let mode = mode(&std::fs::metadata(directory).map_err(|error| denied(error, "look at", directory))?);
    if mode & 0o002 != 0 {
        bail!(
            "everybody on this host may replace what is in {} (mode {mode:o}): chmod 700 it, or name a directory \
             below it, which the portal makes",
            directory.display()
        );
    }
    Ok(())
}

/// Makes a database's file private that something else, or an earlier program, has made for all.
///
/// # Errors
/// If it is public and stays so.
pub fn make_private(path: &Path) -> anyhow::Result<()> {
    let Ok(found) = std::fs::metadata(path) else { return Ok(()) };
    if mode(&found) & 0o077 == 0 {
        return Ok(());
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| denied(error, "make private", path))
}

/// What the system says of a file; where it denies something, also who owns what.
#[must_use]
pub fn denied(error: io::Error, what: &str, path: &Path) -> anyhow::Error {
    let told = format!("cannot {what} {}", path.display());
    let found = [path, directory_of(path)]
        .into_iter()
        .find_map(|path| std::fs::metadata(path).ok().map(|metadata| (path, metadata)));
    match (error.kind(), found) {
        (ErrorKind::PermissionDenied, Some((place, metadata))) => anyhow::anyhow!(
            "{told}: permission denied: {} belongs to UID {} (mode {:o}), and this runs as UID {}: run it as UID {}, \
             or give it all of the directory with chown -R",
            place.display(),
            metadata.uid(),
            mode(&metadata),
            rustix::process::geteuid().as_raw(),
            metadata.uid(),
        ),
        _ => anyhow::Error::new(error).context(told),
    }
}

/// The directory that a file is in.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode() & 0o7777
}
