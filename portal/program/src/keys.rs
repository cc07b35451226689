//! The sealing key: in a file that is made at the first start, or from a passphrase.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, bail};
use argon2::{Algorithm, Argon2, Params, Version};
use culvert_portal_seams::randomness::{SystemRandomness, bytes};
use culvert_portal_service::sealing::KEY_BYTES;
use zeroize::Zeroizing;

use crate::args::Common;
use crate::secret_file;

/// The sealing key that the program was told of, or the one of the state directory, made if it is
/// not there and nobody named another.
///
/// # Errors
/// If it cannot be read or made, or others may read it.
pub fn sealing_key(common: &Common, state: &Path) -> anyhow::Result<Zeroizing<[u8; KEY_BYTES]>> {
    if let Some(path) = &common.sealing_passphrase_file {
        return of_passphrase(&secret_file::text(path)?);
    }
    match &common.sealing_key_file {
        Some(path) => read(path),
        None => read_or_make(&state.join("sealing.key")),
    }
}

/// The key in a file, which is made with a random key if it is not there.
///
/// # Errors
/// If it cannot be read or made, or others may read it.
pub fn read_or_make(path: &Path) -> anyhow::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    match made {
        Ok(mut file) => {
            let key = Zeroizing::new(bytes::<KEY_BYTES>(&SystemRandomness));
            let written = file.write_all(key.as_slice()).and_then(|()| file.sync_all());
            written.with_context(|| format!("cannot write {}", path.display()))?;
            Ok(key)
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read(path),
        Err(error) => Err(error).with_context(|| format!("cannot make {}", path.display())),
    }
}

fn read(path: &Path) -> anyhow::Result<Zeroizing<[u8; KEY_BYTES]>> {
    let metadata = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o007 != 0 {
        bail!("everybody may read {} (mode {mode:o}): chmod 600 it, and consider its key known", path.display());
    }
    secret_file::key(path)
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
