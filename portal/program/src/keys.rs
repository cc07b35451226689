//! The sealing key: in a file that is made at the first start, or from a passphrase.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use anyhow::bail;
use argon2::{Algorithm, Argon2, Params, Version};
use culvert_portal_seams::randomness::{SystemRandomness, bytes};
use culvert_portal_service::sealing::KEY_BYTES;
use zeroize::Zeroizing;

use crate::args::Common;
use crate::{access, secret_file};

/// The sealing key that the program was told of, or the one of the state directory; `None` if
/// nobody named one and there is none.
///
/// # Errors
/// If it cannot be read, or others may read it.
pub fn sealing_key(common: &Common, state: &Path) -> anyhow::Result<Option<Zeroizing<[u8; KEY_BYTES]>>> {
    if let Some(path) = &common.sealing_passphrase_file {
        return of_passphrase(&secret_file::text(path)?).map(Some);
    }
    let path = match &common.sealing_key_file {
        Some(path) => path.clone(),
        None if path(state).exists() => path(state),
        None => return Ok(None),
    };
    secret_file::key(&path).map(Some)
}

/// Where the state directory has its sealing key.
#[must_use]
pub fn path(state: &Path) -> PathBuf {
    state.join("sealing.key")
}

/// The key in a file, which is made with a random key if it is not there. It appears whole: a
/// program that dies meanwhile leaves no half of a key.
///
/// # Errors
/// If it cannot be read or made, or others may read it.
pub fn read_or_make(path: &Path) -> anyhow::Result<Zeroizing<[u8; KEY_BYTES]>> {
    if path.exists() {
        return secret_file::key(path);
    }
    let directory = access::directory_of(path);
    let name = format!(".{}.{}", path.file_name().unwrap_or_default().display(), std::process::id());
    let unfinished = directory.join(name);
    let _ = std::fs::remove_file(&unfinished);
    let key = Zeroizing::new(bytes::<KEY_BYTES>(&SystemRandomness));
    let made = write_new(&unfinished, key.as_slice());
    let made = made.and_then(|()| {
        access::belong_like(&unfinished, directory).map_err(io::Error::other)?;
        std::fs::hard_link(&unfinished, path)?;
        File::open(directory)?.sync_all()
    });
    let _ = std::fs::remove_file(&unfinished);
    match made {
        Ok(()) => Ok(key),
        Err(error) if error.kind() == ErrorKind::AlreadyExists => secret_file::key(path),
        Err(error) => Err(access::denied(error, "make", path)),
    }
}

fn write_new(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = access::make_new(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// A passphrase needs no salt of its own here: it is one for one database, and the same on all
/// portals. The cost is far beyond a login's, since it is paid once a start.
fn of_passphrase(passphrase: &str) -> anyhow::Result<Zeroizing<[u8; KEY_BYTES]>> {
    if passphrase.chars().count() < 16 {
        bail!("the passphrase of the sealing key has fewer than 16 characters");
    }
    let params = Params::new(256 * 1024, 4, 1, Some(KEY_BYTES)).map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut key = Zeroizing::new([0; KEY_BYTES]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password_into(passphrase.as_bytes(), b"culvert portal sealing key 1", key.as_mut_slice())
        .map_err(|error| anyhow::anyhow!("the passphrase cannot be used: {error}"))?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_nobody_else() {
        let room = tempfile::tempdir().unwrap();
        let path = room.path().join("sealing.key");
        let key = read_or_make(&path).unwrap();
        assert_eq!(*read_or_make(&path).unwrap(), *key);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(read_or_make(&path).unwrap_err().to_string().contains("chmod 600"));
    }

    #[test]
    fn a_passphrase_gives_one_key() {
        let key = of_passphrase("sixteen letters.").unwrap();
        assert_eq!(*of_passphrase("sixteen letters.").unwrap(), *key);
        assert!(of_passphrase("short").is_err());
    }
}
