//! A node's state directory: its key, profiles, transfers, journals and receipts.
//!
//! ```text
//! identity.pk8     the node's private key, mode 0600
//! profiles/        a TOML file for each partner
//! pending.json     keys that asked and are not approved yet
//! transfers/       a JSON file for each transfer
//! receipts/        a text for each completed transfer
//! journals/        what incoming transfers have stored so far
//! tuning/          what culvert tune has changed, so that it can go back
//! api.sock         the running node's API
//! node.lock        the running node's
//! owner-….lock     of each process that carries transfers out
//! ```
//!
//! Versions: JSON and TOML files may state theirs under `version` at the top level; those without
//! have version 1. A receipt's version is in its first field, a journal's in its first record. A
//! file with an unknown version was written by a newer program: it is left as it is, and its users
//! get [`StateError::Newer`].
//!
//! Anything other than a file in a file's place (a pipe, a device, a symlink) is not opened, so
//! nothing blocks on it: [`StateError::Unusable`].

pub mod writer;

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use culvert_protocol::control::RefusalCode;
use culvert_protocol::identity::Identity;
use culvert_system::regular_file::{self, Links, ReadError, sync_directory};
use culvert_system::{accounts, file_lock, os_error};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// A file or directory of the state that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refuses.
    #[error("cannot {what} {path}: {error}; {}", remedy(.path, .error))]
    Os {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
    /// A file has been damaged or edited wrongly.
    #[error("{path} is damaged: {reason}; restore it from a backup, or move it away")]
    Damaged {
        /// Which.
        path: PathBuf,
        /// In what way.
        reason: String,
    },
    /// Something that is no file or no directory, or longer than any of its kind.
    #[error("{path} cannot be used: {reason}; replace it with what belongs there, or move it away")]
    Unusable {
        /// What.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A file that a newer program has written.
    #[error(
        "{path} has version {found}, but this program reads version {known} and older: it was left \
         as it is. A newer Culvert wrote it: use that version, or move the file away"
    )]
    Newer {
        /// Which.
        path: PathBuf,
        /// Its version.
        found: u64,
        /// The newest version that this program reads.
        known: u64,
    },
    /// A transfer that has begun already.
    #[error("the transfer of {path} is already running")]
    UnderWay {
        /// Its record.
        path: PathBuf,
    },
    /// A file whose turn has not come.
    #[error("{path} could not be written yet, and later writes are waiting for it")]
    Waits {
        /// The file that comes before.
        path: PathBuf,
    },
    /// There is no private key, and partners know this node by one.
    #[error(
        "{path} is missing, but there are profiles: partners know this node by the key in that \
         file. Restore it from a backup, or create a new key with 'culvert identity init', after \
         which each partner must confirm it with 'culvert profile edit NAME --key KEY'"
    )]
    LostKey {
        /// The key file.
        path: PathBuf,
    },
    /// The private key could be read by others.
    #[error(
        "{path} can be read by others (mode {mode:o}): run 'chmod 600 {path}', and create a new key \
         if somebody may have read it"
    )]
    ExposedKey {
        /// The key file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
}

/// What to do about an error of the operating system.
fn remedy(path: &Path, error: &io::Error) -> String {
    let errno = os_error::errno_of(error);
    let own = || match errno.map_or(RefusalCode::Failed, os_error::code) {
        RefusalCode::NoSpace => "make room there, or name another directory with --state".to_owned(),
        RefusalCode::NotPermitted if let Some(remedy) = accounts::remedy(path, root_of(path)) => remedy,
        _ => "check its owner and permissions, or name another directory with --state".to_owned(),
    };
    errno.and_then(os_error::remedy).unwrap_or_else(own)
}

/// The state directory that a path is of, or is.
fn root_of(path: &Path) -> &Path {
    let parent = path.parent().unwrap_or(path);
    let is_one_of = |path: &Path, names: &[&str]| path.file_name().is_some_and(|name| names.iter().any(|n| name == *n));
    match parent.parent() {
        Some(root) if is_one_of(parent, &DIRECTORIES) => root,
        _ if is_one_of(path, &DIRECTORIES) || path.extension().is_some_and(|end| ENDINGS.iter().any(|e| end == *e)) => {
            parent
        }
        _ => path,
    }
}

impl StateError {
    /// Whether the account of this process lacks the right.
    #[must_use]
    pub fn is_not_permitted(&self) -> bool {
        let errno = if let Self::Os { error, .. } = self { os_error::errno_of(error) } else { None };
        matches!(errno, Some(Errno::ACCESS | Errno::PERM))
    }

    /// Whether only descriptors or memory lacked: nothing is wrong with what is there.
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(self, Self::Os { error, .. } if os_error::errno_of(error).is_some_and(os_error::is_shortage))
    }

    /// The kind that a transfer ends with because of it. The directory is this node's own: that
    /// something of it is not there, or may not be used, is nothing that a partner's path is to
    /// blame for.
    #[must_use]
    pub fn code(&self) -> RefusalCode {
        match self {
            Self::Os { error, .. } => match os_error::code_of(error) {
                RefusalCode::NotFound | RefusalCode::NotPermitted => RefusalCode::Failed,
                code => code,
            },
            _ => RefusalCode::Failed,
        }
    }
}

/// What versioned files have at their top level.
#[derive(Deserialize)]
struct Versioned {
    version: u64,
}

/// The directories in it that every command makes.
const DIRECTORIES: [&str; 4] = ["profiles", "transfers", "receipts", "journals"];
/// How the names of files end that are in it, and in no directory of it.
const ENDINGS: [&str; 4] = ["pk8", "json", "sock", "lock"];
/// No file of the state but a journal is longer. The longest are records whose request names many
/// sources.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// What files are called until they are whole; the number of the process that writes them follows.
const WRITING_PREFIX: &str = ".culvert-writing-";

/// A state directory.
#[derive(Clone, Debug)]
pub struct StateDirectory {
    root: PathBuf,
}

impl StateDirectory {
    /// Uses `root`, and makes it with its subdirectories if it is not there. Only its owner may
    /// look into it.
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

    /// Makes a directory within it, unless it is there.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Unusable`] for what has its name and is none.
    pub fn make_directory(&self, name: &str) -> Result<(), StateError> {
        // Joining an empty name adds a slash, with which a file of this name is no file.
        let path = if name.is_empty() { self.root.clone() } else { self.path(name) };
        match regular_file::make_directory(&path) {
            Err(ReadError::Os(error)) => Err(StateError::Os { what: "make the directory", path, error }),
            made => made.map_err(|error| StateError::Unusable { path, reason: error.to_string() }),
        }
    }

    /// Opens a file whose lock stands for something, and makes it if it is not there.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Unusable`] for what is no file, which is not waited for.
    pub fn open_lock(&self, name: &str) -> Result<fs::File, StateError> {
        let path = self.path(name);
        let mut options = fs::File::options();
        let opened = regular_file::open_to_write(&path, options.create(true).truncate(false).write(true).mode(0o600));
        opened.map_err(|error| match error {
            ReadError::Os(error) => StateError::Os { what: "open", path, error },
            error => StateError::Unusable { path, reason: error.to_string() },
        })
    }

    /// Sets aside what stands in a socket's place and is none; one that a process has left is
    /// removed.
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

    /// A state directory that need not be there, and in which nothing is to be made.
    #[must_use]
    pub const fn at(root: PathBuf) -> Self {
        Self { root }
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path within it.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// The node's key; makes one where there are neither key nor profiles.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::LostKey`] if there are profiles: to their partners a new key
    /// is another node's.
    pub fn identity(&self) -> Result<Identity, StateError> {
        match self.identity_unless_lost()? {
            Some(identity) => Ok(identity),
            None => self.make_identity(),
        }
    }

    /// The node's key; `None` where there are neither key nor profiles.
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
        // Another process may have made the key and a profile since.
        let lost = || StateError::LostKey { path: self.path("identity.pk8") };
        self.existing_identity()?.ok_or_else(lost).map(Some)
    }

    fn has_profiles(&self) -> Result<bool, StateError> {
        let path = self.path("profiles");
        match fs::read_dir(&path) {
            // One that cannot be read is a partner's too.
            Ok(mut entries) => Ok(entries.any(|entry| {
                entry.is_ok_and(|entry| Path::new(&entry.file_name()).extension().is_some_and(|end| end == "toml"))
            })),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(StateError::Os { what: "look into", path, error }),
        }
    }

    /// The node's key; makes one if there is none, whoever knew this node by another.
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
        // The file is there whole or not at all, also after a crash; it is made with mode 0600.
        let mut file = begin_writing(&self.root).map_err(os)?;
        file.write_all(identity.to_pkcs8()).map_err(os)?;
        give_to_owner_of(&self.root, file.as_file()).and_then(|()| file.as_file().sync_all()).map_err(os)?;
        match file.persist_noclobber(&path) {
            Ok(_) => {
                sync_directory(&self.root).map_err(os)?;
                Ok(identity)
            }
            // Another process was faster: its key is the node's.
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

    /// Writes a file so that it is there either whole or not at all. What root writes belongs to
    /// the directory's owner: the node, which runs under that account, must be able to read it.
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
            // A directory is the only thing that a file does not replace.
            if !path.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                return Err(os("replace")(error.error));
            }
            self.set_aside(&path, "it is a directory and not a file")?;
            error.file.persist(&path).map_err(|error| os("replace")(error.error))?;
        }
        sync_directory(directory).map_err(os("write"))
    }

    /// Removes what processes that died left half written.
    pub fn sweep(&self) {
        for directory in ["", "profiles", "transfers", "receipts"] {
            for entry in fs::read_dir(self.path(directory)).into_iter().flatten().flatten() {
                let name = entry.file_name();
                let Some(writer) = name.to_str().and_then(|name| name.strip_prefix(WRITING_PREFIX)) else { continue };
                // The number may be one of another namespace, so that its process is not seen here:
                // it has a lock.
                if !writer_may_live(writer) && !is_locked(&entry.path()) {
                    // If another process is faster, that is as good.
                    let _ = fs::remove_file(entry.path());
                }
            }
        }
    }

    /// Reads a file; `None` if it is not there.
    ///
    /// # Errors
    /// [`StateError::Os`]; [`StateError::Unusable`] for what is no file, which is not waited for.
    pub fn read(&self, name: impl AsRef<Path>) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.path(name);
        match regular_file::read(&path, FILE_BYTES_MAX, Links::Refused) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(unreadable(path, error)),
        }
    }

    /// Reads a JSON file of version `known` or older; `None` if it is not there.
    ///
    /// # Errors
    /// [`StateError`]; [`StateError::Newer`] and [`StateError::Damaged`] if it must not be written
    /// over as it is.
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

    /// Like [`StateDirectory::read_json`], for a file that will be written again: one that is
    /// damaged, or is not a file, is set aside as `….damaged` and counts as absent.
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

    /// Renames a useless file, and reports it.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn set_aside(&self, path: &Path, reason: &str) -> Result<(), StateError> {
        let os = |error| StateError::Os { what: "set aside", path: path.to_owned(), error };
        // What was set aside before is replaced, unless it is a directory, or a directory is to
        // replace it.
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

    /// The names of the files in a subdirectory with a suffix, without it, sorted.
    ///
    /// # Errors
    /// [`StateError::Os`].
    pub fn list(&self, directory: &str, suffix: &str) -> Result<Vec<String>, StateError> {
        let path = self.path(directory);
        let os = |error| StateError::Os { what: "list", path: path.clone(), error };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(os)? {
            let name = entry.map_err(os)?.file_name();
            if let Some(name) = name.to_str().and_then(|name| name.strip_suffix(suffix)) {
                names.push(name.to_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// Removes a file; false if it was not there.
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

/// A file that has no other name than that it is being written, of mode 0600.
fn begin_writing(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    let prefix = format!("{WRITING_PREFIX}{}-", std::process::id());
    let file = tempfile::Builder::new().prefix(&prefix).tempfile_in(directory)?;
    // A cleanup sees that it is written. Without locks, the number has to do.
    let _ = flock(file.as_file(), FlockOperation::NonBlockingLockExclusive);
    Ok(file)
}

/// Whether the process of a half written file's name is there, by what follows [`WRITING_PREFIX`].
/// What is no number is no process's: taken for a path below `/proc`, '..' would always be there.
fn writer_may_live(name: &str) -> bool {
    let number = name.split('-').next().and_then(|number| number.parse::<u32>().ok());
    number.is_some_and(|number| Path::new("/proc").join(number.to_string()).exists())
}

/// Whether a process holds the lock of a file. Where that cannot be told, it does.
#[must_use]
pub fn is_locked(path: &Path) -> bool {
    match regular_file::open(path, Links::Refused) {
        Ok(file) => file_lock::is_held(&file).unwrap_or(true),
        // Nothing holds the lock of a non-file, or of a name that cannot be a file's.
        Err(ReadError::Os(error)) => !can_be_no_file(&error),
        Err(ReadError::NotAFile(_) | ReadError::NotADirectory(_) | ReadError::TooLarge { .. }) => false,
    }
}

/// Whether an error of opening a path says that no file can be there.
fn can_be_no_file(error: &io::Error) -> bool {
    match error.raw_os_error().map(os_error::errno_of_number) {
        Some(errno) => matches!(errno, Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP | Errno::INVAL),
        // A NUL byte, which is not even asked for.
        None => error.kind() == io::ErrorKind::InvalidInput,
    }
}

fn unreadable(path: PathBuf, error: ReadError) -> StateError {
    match error {
        ReadError::Os(error) => StateError::Os { what: "read", path, error },
        error => StateError::Unusable { path, reason: error.to_string() },
    }
}

/// Gives a file that root has made to the owner of its directory.
pub(crate) fn give_to_owner_of(directory: &Path, file: &fs::File) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(directory)?;
    std::os::unix::fs::fchown(file, Some(owner.uid()), Some(owner.gid()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateDirectory) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    #[test]
    fn the_key_is_made_once_and_only_its_owner_may_read_it() {
        let (_directory, state) = state();
        assert!(state.existing_identity().unwrap().is_none());
        let key = state.identity().unwrap().public_key();
        assert_eq!(state.identity().unwrap().public_key(), key);
        let path = state.path("identity.pk8");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        let error = state.identity().unwrap_err().to_string();
        assert!(error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_damaged_key_is_named() {
        let (_directory, state) = state();
        state.identity().unwrap();
        fs::write(state.path("identity.pk8"), b"garbage").unwrap();
        let error = state.identity().unwrap_err().to_string();
        assert!(error.contains("identity.pk8") && error.contains("damaged"), "{error}");
    }

    #[test]
    fn files_are_replaced_whole() {
        let (_directory, state) = state();
        assert_eq!(state.read("transfers/a.json").unwrap(), None);
        state.write("transfers/a.json", b"one").unwrap();
        state.write("transfers/a.json", b"two").unwrap();
        assert_eq!(state.read("transfers/a.json").unwrap().unwrap(), b"two");
        assert_eq!(state.list("transfers", ".json").unwrap(), ["a"]);
        assert!(state.remove("transfers/a.json").unwrap());
        // Whatever has the name, and nothing through it.
        let path = state.path("transfers/a.json");
        let other = state.path("other");
        fs::write(&other, "other").unwrap();
        std::os::unix::fs::symlink(&other, &path).unwrap();
        state.write("transfers/a.json", b"three").unwrap();
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("full")).unwrap();
        state.write("transfers/a.json", b"three").unwrap();
        assert_eq!(state.read("transfers/a.json").unwrap().unwrap(), b"three");
        assert!(state.path("transfers/a.json.damaged/full").is_dir() && fs::read(&other).unwrap() == b"other");
        assert!(state.remove("transfers/a.json").unwrap());
        assert!(!state.remove("transfers/a.json").unwrap());
    }

    #[test]
    fn what_a_dead_process_left_half_written_is_removed() {
        let (_directory, state) = state();
        // No process has this number, which is above the kernel's limit, and none has what is no
        // number.
        let gone = ["4194305", "", ".", "..", "self"].map(|writer| format!("{WRITING_PREFIX}{writer}-x"));
        let living = format!("{WRITING_PREFIX}{}-x", std::process::id());
        let path = |name: &String| state.path("transfers").join(name);
        for name in gone.iter().chain([&living]) {
            fs::write(path(name), "half").unwrap();
        }
        state.sweep();
        for name in &gone {
            assert!(!path(name).exists(), "{name}");
        }
        assert!(path(&living).exists());
    }
}
