//! `culvert portal`: this process becomes `culvert-portal`, a program of its own, so that whoever
//! only moves files has no web service in the program.

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_model::exit_code::ExitCode;
use rustix::fs::{Access, access};

use crate::exit::CommandError;

/// The word of the command line after which everything is the other program's.
pub const WORD: &str = "portal";
const PROGRAM: &str = "culvert-portal";

/// Becomes the portal's program. Returns only if that fails.
#[must_use]
pub fn become_portal(arguments: &[OsString]) -> CommandError {
    let own = env::current_exe().ok();
    let Some(program) = found(own.as_deref().and_then(Path::parent), env::var_os("PATH").as_ref()) else {
        let beside = own
            .as_deref()
            .and_then(Path::parent)
            .map_or("not ".to_owned(), |directory| format!("neither in {} nor ", directory.display()));
        let text = format!(
            "{PROGRAM} is not installed: it is {beside}in a directory of PATH; install it there, from a source tree \
             with 'cargo build --release --package {PROGRAM}'"
        );
        return CommandError::new(ExitCode::BadHost, text);
    };
    let error = Command::new(&program).arg0(PROGRAM).args(arguments).exec();
    CommandError::new(ExitCode::BadHost, format!("cannot start {}: {error}", program.display()))
}

/// The program beside this one, or else in the first directory of `PATH` that has it.
fn found(beside: Option<&Path>, path: Option<&OsString>) -> Option<PathBuf> {
    let directories = path.map(|path| env::split_paths(path).collect::<Vec<_>>()).unwrap_or_default();
    // An empty entry would be the working directory, where anybody may have put it.
    let directories = directories.into_iter().filter(|directory| directory.is_absolute());
    let mut candidates = beside.map(Path::to_owned).into_iter().chain(directories).map(|one| one.join(PROGRAM));
    candidates.find(|candidate| candidate.is_file() && access(candidate, Access::EXEC_OK).is_ok())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn it_is_looked_for_beside_this_program_and_then_in_path() {
        let room = tempfile::tempdir().unwrap();
        let [beside, first, second] = ["beside", "first", "second"].map(|name| room.path().join(name));
        for directory in [&beside, &first, &second] {
            std::fs::create_dir(directory).unwrap();
        }
        let path = env::join_paths([Path::new(""), Path::new("."), &first, &second]).unwrap();
        let find = || found(Some(&beside), Some(&path));
        let put = |directory: &Path, mode: u32| {
            std::fs::write(directory.join(PROGRAM), "").unwrap();
            std::fs::set_permissions(directory.join(PROGRAM), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        assert_eq!(find(), None);
        put(&first, 0o644);
        assert_eq!(find(), None, "it cannot be run");
        put(&second, 0o755);
        assert_eq!(find(), Some(second.join(PROGRAM)));
        put(&beside, 0o755);
        assert_eq!(find(), Some(beside.join(PROGRAM)));
        assert_eq!(found(None, None), None);
    }
}
