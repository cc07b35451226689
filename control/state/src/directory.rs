//! The state directory and its files.

mod identity;
mod sweeping;
pub(crate) mod writing;

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use culvert_system::regular_file::{self, Links, ReadError, sync_directory};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::directory::writing::{begin_writing, give_to_owner_of};
use crate::error::{DIRECTORIES, StateError, unreadable};

/// The version at the top level of a file.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// The longest file of the state except journals, in bytes. The longest are records whose request
/// names many sources.
const FILE_BYTES_MAX: u64 = 16 << 20;

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    root: PathBuf,
}

impl StateDirectory {
    /// Uses `root`, and makes it with its subdirectories if it does not exist. Only its owner may
    /// use it.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, StateError> {
        let state = Self { root: root.into() };
        for directory in [""].into_iter().chain(DIRECTORIES) {
            state.make_directory(directory)?;
        }
        Ok(state)
    }

    /// Uses `root` if it exists, and makes nothing in it; `None` if nothing has the name.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Unusable`] if it or a subdirectory is something else.
    pub fn existing(root: impl Into<PathBuf>) -> Result<Option<Self>, StateError> {
        let state = Self { root: root.into() };
        if !has(&state.root)? {
            return Ok(None);
        }
        for directory in DIRECTORIES {
            has(&state.path(directory))?;
        }
        Ok(Some(state))
    }

    /// Makes a subdirectory, unless it exists.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Unusable`] if something else has the name.
    pub fn make_directory(&self, name: &str) -> Result<(), StateError> {
        // Joining an empty name would add a slash, which changes the error for a file.
        let path = if name.is_empty() { self.root.clone() } else { self.path(name) };
        match regular_file::make_directory(&path) {
            Err(ReadError::Os(error)) => Err(StateError::Os { what: "make the directory", path, error }),
            made => made.map_err(|error| StateError::Unusable { path, reason: error.to_string() }),
        }
    }

    /// Opens a file to lock it, and creates it if it does not exist.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Unusable`] if something else has the name. Never blocks on it.
    pub fn open_lock(&self, name: &str) -> Result<fs::File, StateError> {
        let path = self.path(name);
        let mut options = fs::File::options();
        let opened = regular_file::open_to_write(&path, options.create(true).truncate(false).write(true).mode(0o600));
        opened.map_err(|error| match error {
            ReadError::Os(error) => StateError::Os { what: "open", path, error },
            error => StateError::Unusable { path, reason: error.to_string() },
        })
    }

    /// Makes a name free for a socket: removes a socket that a process has left, and sets anything
    /// else aside.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn clear_for_socket(&self, name: &str) -> Result<(), StateError> {
        let path = self.path(name);
        let os = |what| {
            let path = path.clone();
            move |error| StateError::Os { what, path, error }
        };
        match path.symlink_metadata().map(|found| found.file_type()) {
            Ok(kind) if kind.is_socket() => fs::remove_file(&path).map_err(os("remove")),
            Ok(kind) => self.set_aside(&path, &format!("it is {} and not a socket", regular_file::word(kind))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(os("look at")(error)),
        }
    }

    /// A state directory that may not exist, and in which nothing is made.
    #[must_use]
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Its path.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path within it.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// Replaces a file in one step, durably: after a crash, it is old or new, never in between. A
    /// file written by root gets the directory's owner, so that the node, which runs under that
    /// account, can read it.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn write(&self, name: impl AsRef<Path>, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path(name);
        let os = |what| {
            let path = path.clone();
            move |error| StateError::Os { what, path, error }
        };
        let directory = path.parent().unwrap_or(&self.root);
        let mut file = begin_writing(directory).map_err(os("write beside"))?;
        file.write_all(bytes).map_err(os("write"))?;
        give_to_owner_of(directory, file.as_file()).map_err(os("give to its owner"))?;
        file.as_file().sync_all().map_err(os("write"))?;
        if let Err(error) = file.persist(&path) {
            // A file can replace anything but a directory.
            if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(os("replace")(error.error));
            }
            self.set_aside(&path, "it is a directory and not a file")?;
            error.file.persist(&path).map_err(|error| os("replace")(error.error))?;
        }
        sync_directory(directory).map_err(os("write"))
    }

    /// Reads a file; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StateError::Os`]; [`StateError::Unusable`] if something else has the name. Never blocks on
    /// it.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(name);
        match regular_file::read(&path, FILE_BYTES_MAX, Links::Refused) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unreadable(path, error)),
        }
    }

    /// Reads a JSON file of version `known` or older; `None` if it does not exist.
    ///
    /// # Errors
    /// [`StateError`]; after [`StateError::Newer`] and [`StateError::Damaged`], the file must not
    /// be overwritten.
    pub fn read_json<T: DeserializeOwned>(&self, name: impl AsRef<Path>, known: u64) -> Result<Option<T>, StateError> {
        let Some(bytes) = self.read(&name)? else { return Ok(None) };
        match serde_json::from_slice::<Versioned>(&bytes) {
            Ok(Versioned { version: found }) if found > known => {
                Err(StateError::Newer { path: self.path(name), found, known })
            }
            _ => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| StateError::Damaged { path: self.path(name), reason: error.to_string() }),
        }
    }

    /// As [`StateDirectory::read_json`], for a file that will be written again: if it is damaged,
    /// or is not a file, it is set aside as `….damaged` and counts as absent.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn read_json_or_set_aside<T: DeserializeOwned>(
        &self,
        name: impl AsRef<Path>,
        known: u64,
    ) -> Result<Option<T>, StateError> {
        match self.read_json(&name, known) {
            Err(StateError::Damaged { path, reason } | StateError::Unusable { path, reason }) => {
                self.set_aside(&path, &reason).map(|()| None)
            }
            read => read,
        }
    }

    /// Renames a file that cannot be used, and reports it.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn set_aside(&self, path: &Path, reason: &str) -> Result<(), StateError> {
        let os = |error| StateError::Os { what: "set aside", path: path.to_owned(), error };
        // Replaces a file that was set aside before, but neither a directory nor by a directory.
        for suffix in [".damaged", ".damaged-2", ".damaged-3", ".damaged-4"] {
            let mut aside = path.to_owned().into_os_string();
            aside.push(suffix);
            let is_taken = [ErrorKind::DirectoryNotEmpty, ErrorKind::IsADirectory, ErrorKind::NotADirectory];
            match fs::rename(path, &aside) {
                Err(error) if is_taken.contains(&error.kind()) => {}
                renamed => {
                    renamed.map_err(os)?;
                    let (path, aside) = (path.display(), Path::new(&aside).display());
                    say_aside!("culvert: {path} is damaged ({reason}) and was set aside as {aside}");
                    return Ok(());
                }
            }
        }
        Err(StateError::Unusable {
            path: path.to_owned(),
            reason: format!("{reason}, and there are others that were set aside as ….damaged to ….damaged-4"),
        })
    }

    /// The names of a subdirectory's files that have a suffix: without it, sorted. None if there is
    /// no such subdirectory.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn list(&self, directory: &str, suffix: &str) -> Result<Vec<String>, StateError> {
        let path = self.path(directory);
        let os = |error| StateError::Os { what: "list", path: path.clone(), error };
        let mut names = Vec::new();
        let entries = match fs::read_dir(&path) {
            // Until something is stored, there is no directory.
            Err(error) if error.kind() == ErrorKind::NotFound && !has(&path)? => return Ok(names),
            entries => entries.map_err(os)?,
        };
        for entry in entries {
            let name = entry.map_err(os)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(suffix)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a file; false if it did not exist.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn remove(&self, name: impl AsRef<Path>) -> Result<bool, StateError> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StateError::Os { what: "remove", path, error }),
        }
    }
}

/// Whether a directory exists.
fn has(path: &Path) -> Result<bool, StateError> {
    regular_file::has_directory(path).map_err(|error| match error {
        ReadError::Os(error) => StateError::Os { what: "look into", path: path.to_owned(), error },
        error => StateError::Unusable { path: path.to_owned(), reason: error.to_string() },
    })
}

#[cfg(test)]
mod tests;
