//! Configuration files that Culvert owns: recognized by their first line, replaced atomically, and
//! removed with the folder that Culvert created for them.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::{HostError, RealHost, file_error};
use crate::access::OWNED_FILE_FIRST_LINE;
use crate::setting::{Setting, Value};

impl RealHost {
    pub(super) fn read_owned(&self, setting: &Setting, path: &str) -> Result<Value, HostError> {
        match self.files.read(path) {
            Ok(text) if text.starts_with(OWNED_FILE_FIRST_LINE) => Ok(Value::new(text)),
            Ok(_) => Err(HostError::NotOurs { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Value(None)),
            Err(error) => Err(file_error(setting, None, &error)),
        }
    }

    pub(super) fn write_owned(&self, setting: &Setting, path: &str, value: &Value) -> Result<(), HostError> {
        // Another program may have put its own file there since.
        self.read_owned(setting, path)?;
        let result = match &value.0 {
            Some(text) => self.replace_file(path, text),
            None => self.remove_file(path),
        };
        result.map_err(|error| file_error(setting, Some(value), &error))
    }

    /// Replaces the file atomically and durably. Like the distribution's own files, it is writable
    /// by its owner and readable by everybody, regardless of the umask.
    fn replace_file(&self, path: &str, text: &str) -> io::Result<()> {
        let place = self.files.place(path);
        let folder = place.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        make_folders(folder)?;
        let new = place.with_extension("culvert-new");
        // A crash may have left a replacement behind.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.set_permissions(fs::Permissions::from_mode(0o644))?;
        file.sync_all()?;
        fs::rename(&new, &place)?;
        fs::File::open(folder)?.sync_all()
    }

    fn remove_file(&self, path: &str) -> io::Result<()> {
        let place = self.files.place(path);
        // A crash may have left a replacement behind.
        let _ = fs::remove_file(place.with_extension("culvert-new"));
        match fs::remove_file(&place) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // The drop-in folder is removed too if it is empty.
        if let Some(folder) = place.parent().filter(|folder| folder.ends_with("multi-user.target.d")) {
            let _ = fs::remove_dir(folder);
        }
        match place.parent().map(fs::File::open) {
            Some(Ok(folder)) => folder.sync_all(),
            _ => Ok(()),
        }
    }
}

/// Creates the folders that are missing.
fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    if let Some(above) = folder.parent() {
        make_folders(above)?;
    }
    match fs::DirBuilder::new().mode(0o700).create(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o755))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::Host;
    use std::os::unix::fs::MetadataExt as _;

    /// With a umask of 077 only root could read them, and with one of 0 everybody could write to
    /// them.
    #[test]
    fn files_are_roots_to_write_and_everybodys_to_read_whatever_the_umask_is() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = RealHost::below(folder.path());
        let setting = Setting::OwnedFile { path: "/etc/systemd/system/multi-user.target.d/culvert.conf".to_owned() };
        let place = folder.path().join("etc/systemd/system/multi-user.target.d/culvert.conf");
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        let mut modes = Vec::new();
        for umask in [0o077, 0o000] {
            // The umask is per process. Files of other tests still belong to their owner meanwhile,
            // who is the same.
            let before = rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask));
            let written = host.write(&setting, &Value::new(format!("{OWNED_FILE_FIRST_LINE}{umask}\n")));
            rustix::process::umask(before);
            written.unwrap();
            modes.push((mode(&place), mode(place.parent().unwrap())));
            host.write(&setting, &Value(None)).unwrap();
        }
        assert_eq!(modes, [(0o644, 0o755); 2]);
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let mut host = RealHost::below(folder.path());
        let setting = Setting::OwnedFile { path: "/etc/sysctl.d/90-culvert.conf".to_owned() };
        assert_eq!(host.read(&setting), Ok(Value(None)));
        let ours = Value::new(format!("{OWNED_FILE_FIRST_LINE}net.core.rmem_max = 1\n"));
        host.write(&setting, &ours).unwrap();
        assert_eq!(host.read(&setting), Ok(ours));
        host.write(&setting, &Value(None)).unwrap();
        assert_eq!(host.read(&setting), Ok(Value(None)));

        let place = folder.path().join("etc/sysctl.d/90-culvert.conf");
        fs::write(&place, "net.core.rmem_max = 2\n").unwrap();
        assert!(matches!(host.read(&setting), Err(HostError::NotOurs { .. })));
        assert!(matches!(host.write(&setting, &Value(None)), Err(HostError::NotOurs { .. })));
        assert_eq!(fs::read_to_string(&place).unwrap(), "net.core.rmem_max = 2\n");
    }
}
