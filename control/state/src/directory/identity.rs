//! The node's key in its state directory.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use culvert_protocol::identity::Identity;
use culvert_system::regular_file::{self, Links, sync_directory};

use crate::directory::writing::{begin_writing, give_to_owner_of};
use crate::directory::{FILE_BYTES_MAX, StateDirectory};
use crate::error::{StateError, unreadable};

impl StateDirectory {
    /// The node's key; makes one if there are neither key nor profiles.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::LostKey`] if there are profiles but no key: to those partners,
    /// a new key would be another node.
    pub fn identity(&self) -> Result<Identity, StateError> {
        match self.identity_unless_lost()? {
            Some(identity) => Ok(identity),
            None => self.make_identity(),
        }
    }

    /// The node's key; `None` if there are neither key nor profiles.
    ///
    /// # Errors
    /// As [`StateDirectory::identity`].
    pub fn identity_unless_lost(&self) -> Result<Option<Identity>, StateError> {
        if let Some(identity) = self.existing_identity()? {
            return Ok(Some(identity));
        }
        if !self.has_profiles()? {
            return Ok(None);
        }
        // Another process may have made both the key and a profile since.
        let lost = || StateError::LostKey { path: self.path("identity.pk8") };
        self.existing_identity()?.ok_or_else(lost).map(Some)
    }

    fn has_profiles(&self) -> Result<bool, StateError> {
        let path = self.path("profiles");
        match fs::read_dir(&path) {
            // An unreadable profile counts too.
            Ok(mut entries) => Ok(entries.any(|entry| {
                entry.is_ok_and(|entry| Path::new(&entry.file_name()).extension().is_some_and(|end| end == "toml"))
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StateError::Os { what: "look into", path, error }),
        }
    }

    /// The node's key; makes one if there is none, even if partners know this node by another.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn make_identity(&self) -> Result<Identity, StateError> {
        if let Some(identity) = self.existing_identity()? {
            return Ok(identity);
        }
        let identity = Identity::generate();
        let path = self.path("identity.pk8");
        let os = |error| StateError::Os { what: "make", path: path.clone(), error };
        // Created with mode 0600. After a crash, the file is whole or does not exist.
        let mut file = begin_writing(&self.root).map_err(os)?;
        file.write_all(identity.to_pkcs8()).map_err(os)?;
        give_to_owner_of(&self.root, file.as_file()).and_then(|()| file.as_file().sync_all()).map_err(os)?;
        match file.persist_noclobber(&path) {
            Ok(_) => {
                sync_directory(&self.root).map_err(os)?;
                Ok(identity)
            }
            // Another process made a key first, which is the node's.
            Err(error) if error.error.kind() == io::ErrorKind::AlreadyExists => self.make_identity(),
            Err(error) => Err(os(error.error)),
        }
    }

    /// The node's key, if it has one.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn existing_identity(&self) -> Result<Option<Identity>, StateError> {
        let path = self.path("identity.pk8");
        let file = match regular_file::open(&path, Links::Refused) {
            Ok(file) => file,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(unreadable(path, error)),
        };
        let os = |error| StateError::Os { what: "look at", path: path.clone(), error };
        let mode = file.metadata().map_err(os)?.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(StateError::ExposedKey { path, mode });
        }
        let pkcs8 =
            regular_file::read_opened(&file, FILE_BYTES_MAX).map_err(|error| unreadable(path.clone(), error))?;
        Identity::from_pkcs8(&pkcs8).map(Some).map_err(|error| StateError::Damaged { path, reason: error.to_string() })
    }
}
