//! The state directory, and what is opened from it.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use culvert_portal_service::sealing::Sealer;
use culvert_portal_store::Database;

use crate::args::Common;
use crate::{keys, secret_file};

/// The name of the database's file.
pub const DATABASE: &str = "portal.db";

/// The state directory, made if it is not there.
///
/// # Errors
/// If it cannot be made.
pub fn directory(common: &Common) -> anyhow::Result<PathBuf> {
    let path = common.state.clone().unwrap_or_else(default_directory);
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&path)
        .with_context(|| format!("cannot make the state directory {}: name another with --state", path.display()))?;
    Ok(path)
}

/// Who has a state directory in use. It is free again when this is dropped, or the process ends,
/// however it ends.
#[derive(Debug)]
pub struct InUse {
    _file: File,
}

/// Takes a state directory in use, beside others.
///
/// # Errors
/// If somebody has it for themselves.
pub fn share(state: &Path) -> anyhow::Result<InUse> {
    let (path, file) = lock_file(state)?;
    file.try_lock_shared().with_context(|| format!("{} is being restored or resealed: wait", path.display()))?;
    Ok(InUse { _file: file })
}

/// Takes a state directory for this process alone.
///
/// # Errors
/// If a portal or another command uses it.
pub fn take_alone(state: &Path) -> anyhow::Result<InUse> {
    let (_, file) = lock_file(state)?;
    let in_use = || format!("a portal or another command uses {}: stop it first", state.display());
    file.try_lock().with_context(in_use)?;
    Ok(InUse { _file: file })
}

/// Opens the database that the program was told of, or the one of the state directory.
///
/// # Errors
/// If it cannot be reached, or was made by a newer program.
pub async fn database(common: &Common, state: &Path) -> anyhow::Result<Database> {
    let url = url(common, state)?;
    let name = without_password(&url);
    Database::open(&url).await.with_context(|| format!("cannot open the database {name}"))
}

/// Seals under the program's key.
///
/// # Errors
/// If there is none.
pub fn sealer(common: &Common, state: &Path) -> anyhow::Result<Sealer> {
    Ok(Sealer::new(&*keys::sealing_key(common, state)?, &[]))
}

fn lock_file(state: &Path) -> anyhow::Result<(PathBuf, File)> {
    let path = state.join("in-use.lock");
    let file = File::options().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    Ok((path, file))
}

fn url(common: &Common, state: &Path) -> anyhow::Result<String> {
    let Some(url) = &common.database else {
        let path = state.join(DATABASE);
        let path = path.to_str().with_context(|| format!("{} is not UTF-8: use another --state", path.display()))?;
        if path.contains(['?', '%', '#']) {
            bail!("{path} has a character that an address of a database cannot have: use another --state");
        }
        return Ok(format!("sqlite:{path}"));
    };
    let known = ["postgresql://", "postgres://", "sqlite:"].iter().any(|scheme| url.starts_with(scheme));
    if !known {
        bail!("--database must be postgresql://USER@HOST/NAME or sqlite:PATH, not '{}'", without_password(url));
    }
    match &common.database_password_file {
        Some(path) => with_password(url, &secret_file::text(path)?),
        None => Ok(url.clone()),
    }
}

fn with_password(url: &str, password: &str) -> anyhow::Result<String> {
    let (scheme, rest) = url.split_once("://").context("--database-password-file is for postgresql://")?;
    let (user, rest) = rest.split_once('@').context("--database names no user: postgresql://USER@HOST/NAME")?;
    if user.contains(':') {
        bail!("--database has a password already: remove it there, or --database-password-file");
    }
    let password: String = password.bytes().map(|byte| format!("%{byte:02X}")).collect();
    Ok(format!("{scheme}://{user}:{password}@{rest}"))
}

/// An address as it may be shown.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    match rest.rsplit_once('@') {
        Some((user, rest)) => {
            let user = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{user}@{}", rest.split('?').next().unwrap_or_default())
        }
        None => format!("{scheme}://{}", rest.split('?').next().unwrap_or_default()),
    }
}

fn default_directory() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/culvert/portal");
    }
    let variable = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let state = variable("XDG_STATE_HOME").or_else(|| variable("HOME").map(|home| home.join(".local/state")));
    state.map_or_else(|| PathBuf::from("/var/lib/culvert/portal"), |state| state.join("culvert/portal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_put_in_and_not_shown() {
        let url = with_password("postgresql://ada@db/culvert", "p@ss/w:d").unwrap();
        assert_eq!(url, "postgresql://ada:%70%40%73%73%2F%77%3A%64@db/culvert");
        assert_eq!(without_password(&url), "postgresql://ada@db/culvert");
        assert_eq!(without_password("postgresql://a:b@c@db/x?password=y"), "postgresql://a@db/x");
        assert!(with_password("postgresql://ada:x@db/culvert", "y").is_err());
        assert!(with_password("postgresql://db/culvert", "y").is_err());
    }
}
