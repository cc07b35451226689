//! The state directory, and what is opened from it.
//!
//! Only a portal that serves makes a state: [`make`], and [`database`] with [`Wish::Make`].
//! Commands look for one that is there ([`find`]), and say so if there is none, since a state
//! directory that was misspelt would otherwise be a new and empty portal, of which everything is
//! true.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use culvert_portal_service::sealing::Sealer;
use culvert_portal_store::{Database, StoreError, keys as sealed};

use crate::args::Common;
use crate::{access, database_url, keys, secret_file};

/// The name of the database's file.
pub const DATABASE: &str = "portal.db";
/// Where the packaged service, and whoever starts the portal as root, has its state.
const OF_SERVICE: &str = "/var/lib/culvert-portal";

/// Whether what is not there is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// By a portal that serves.
    Make,
    /// By everything else.
    Find,
}

/// The state directory's path, whether or not it is there.
#[must_use]
pub fn directory(common: &Common) -> PathBuf {
    common.state.clone().unwrap_or_else(default_directory)
}

/// The state directory, made if it is not there.
///
/// # Errors
/// If it cannot be made, or everybody may write to it.
pub fn make(common: &Common) -> anyhow::Result<PathBuf> {
    let path = directory(common);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .map_err(|error| access::denied(error, "make the state directory", &path))
        .context("name another directory with --state")?;
    access::refuse_writable_by_all(&path)?;
    Ok(path)
}

/// The state directory of a portal that has served from it.
///
/// # Errors
/// If there is no portal in it.
pub fn find(common: &Common) -> anyhow::Result<PathBuf> {
    let path = directory(common);
    let url = url(common, &path)?;
    let Some(file) = database_url::file(&url) else { return Ok(path) };
    match file.try_exists() {
        Ok(true) => Ok(path),
        Ok(false) => bail!(
            "there is no portal in {}: it has no {}. Name the portal's state directory with --state or \
             CULVERT_PORTAL_STATE, and its database, if that is elsewhere, with --database or \
             CULVERT_PORTAL_DATABASE. The packaged service has its state in {OF_SERVICE}, and its settings in \
             /etc/culvert/portal.env, which commands do not read",
            access::directory_of(file).display(),
            file.file_name().unwrap_or_default().display(),
        ),
        Err(error) => Err(access::denied(error, "look at", file)),
    }
}

/// Who has a state directory in use. It is free again when this is dropped, or the process ends,
/// however it ends.
#[derive(Debug)]
pub struct InUse {
    _file: Option<File>,
}

/// Takes a state directory in use, beside others. One that is not there, as of a command for a
/// database on a server, is nobody's.
///
/// # Errors
/// If somebody has it for themselves.
pub fn share(state: &Path) -> anyhow::Result<InUse> {
    let Some((path, file)) = lock_file(state)? else { return Ok(InUse { _file: None }) };
    match file.try_lock_shared() {
        Ok(()) => Ok(InUse { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => {
            bail!("{} is being restored or resealed by another command: wait until it has ended", state.display())
        }
        Err(TryLockError::Error(error)) => Err(access::denied(error, "lock", &path)),
    }
}

/// Takes a state directory for this process alone.
///
/// # Errors
/// If a portal or another command uses it.
pub fn take_alone(state: &Path) -> anyhow::Result<InUse> {
    let Some((path, file)) = lock_file(state)? else { return Ok(InUse { _file: None }) };
    match file.try_lock() {
        Ok(()) => Ok(InUse { _file: Some(file) }),
        Err(TryLockError::WouldBlock) => {
            bail!("a portal or another command uses {}: stop it first", state.display())
        }
        Err(TryLockError::Error(error)) => Err(access::denied(error, "lock", &path)),
    }
}

/// Opens the database that the program was told of, or the one of the state directory.
///
/// # Errors
/// If it cannot be reached, was made by a newer program, or is no portal's and shall not be made.
pub async fn database(common: &Common, state: &Path, wish: Wish) -> anyhow::Result<Database> {
    let url = url(common, state)?;
    if let Some(file) = database_url::file(&url) {
        look_at_file(file, wish)?;
    }
    let opened = match wish {
        Wish::Make => Database::open(&url).await,
        Wish::Find => Database::open_existing(&url).await,
    };
    opened.with_context(|| format!("cannot open the database {}", database_url::without_password(&url)))
}

/// The files of a database of SQLite: itself, and its journal.
pub fn parts(database: &Path) -> impl Iterator<Item = PathBuf> {
    let name = database.file_name().unwrap_or_default().display();
    ["", "-wal", "-shm"].map(|suffix| database.with_file_name(format!("{name}{suffix}"))).into_iter()
}

/// Whether opening the database failed for a cause that may go away by itself: a server that is
/// not there yet.
#[must_use]
pub fn may_come(error: &anyhow::Error) -> bool {
    error.downcast_ref::<StoreError>().is_some_and(StoreError::is_temporary)
}

/// The address of the database, with its password.
///
/// # Errors
/// If it is none, or the password cannot be read.
pub fn url(common: &Common, state: &Path) -> anyhow::Result<String> {
    let Some(url) = &common.database else {
        let path = state.join(DATABASE);
        let path = path.to_str().with_context(|| format!("{} is not UTF-8: use another --state", path.display()))?;
        if path.contains(['?', '%', '#']) {
            bail!("{path} has a character that an address of a database cannot have: use another --state");
        }
        return Ok(format!("sqlite:{path}"));
    };
    database_url::check(url)?;
    match &common.database_password_file {
        Some(path) => database_url::with_password(url, &secret_file::text(path)?),
        None => Ok(url.clone()),
    }
}

/// Seals under the program's key. A key is made only by a portal that serves, and only if nothing
/// was ever sealed in the database: another key would open nothing, and hide that one is missing.
///
/// # Errors
/// If there is none.
pub async fn sealer(common: &Common, state: &Path, database: &Database, wish: Wish) -> anyhow::Result<Sealer> {
    if let Some(key) = keys::sealing_key(common, state)? {
        return Ok(Sealer::new(&key, &[]));
    }
    let path = keys::path(state);
    if !sealed::is_empty(&mut database.read().await?).await? {
        bail!(
            "{} is missing, and the database has secrets that are sealed under the key in it: put that file back \
             (mode 600), or name where it is with --sealing-key-file; every portal of a database needs the same one",
            path.display()
        );
    }
    if wish == Wish::Find {
        bail!("{} is missing: the portal makes it when it serves for the first time", path.display());
    }
    if common.database.is_some() {
        tracing::warn!(
            file = %path.display(),
            "a sealing key was made in this portal's state directory: the other portals of this database, and whoever \
             restores it, need the same file (--sealing-key-file)"
        );
    }
    Ok(Sealer::new(&*keys::read_or_make(&path)?, &[]))
}

/// A file that cannot be used is told with its owner; the database's driver knows only that.
fn look_at_file(file: &Path, wish: Wish) -> anyhow::Result<()> {
    if wish == Wish::Make {
        drop(access::open_or_make(file)?);
    }
    for part in parts(file) {
        match File::options().read(true).write(true).open(&part) {
            Ok(_) => access::make_private(&part)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && part != file => {}
            Err(error) => return Err(access::denied(error, "open", &part)),
        }
    }
    Ok(())
}

fn lock_file(state: &Path) -> anyhow::Result<Option<(PathBuf, File)>> {
    if !state.exists() {
        return Ok(None);
    }
    let path = state.join("in-use.lock");
    let file =
        access::open_or_make(&path).with_context(|| format!("cannot use the state directory {}", state.display()))?;
    Ok(Some((path, file)))
}

fn default_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(OF_SERVICE);
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map_or_else(|| PathBuf::from(OF_SERVICE), |state| state.join("culvert/portal"))
}
