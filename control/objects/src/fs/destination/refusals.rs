//! Refusals because of a path that cannot be used.

use std::path::Path;

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_system::accounts::may_not;
use culvert_system::os_error::{self, words};
use rustix::io::Errno;

/// The refusal because of a path that cannot be used; `wanted` is the right that the account lacks,
/// in words.
pub(in crate::fs) fn refusal(path: &Path, follows_symlinks: bool, wanted: &str, error: Errno) -> Refusal {
    let shown = path.display();
    let (code, reason) = match error {
        Errno::NOENT => (RefusalCode::NotFound, "it does not exist".to_owned()),
        Errno::LOOP if !follows_symlinks => (
            RefusalCode::NotPermitted,
            "a symlink is in the path, and paths from partners do not follow symlinks".to_owned(),
        ),
        Errno::XDEV if follows_symlinks => (RefusalCode::NotFound, "it leads out of the file system".to_owned()),
        Errno::XDEV => (RefusalCode::NotPermitted, "it leads outside of the permitted directory".to_owned()),
        Errno::NOTDIR => (RefusalCode::NotFound, no_directory(path)),
        Errno::ACCESS | Errno::PERM => (RefusalCode::NotPermitted, may_not(wanted)),
        error => (os_error::code(error), words(error)),
    };
    Refusal::new(code, format!("cannot use {shown}: {reason}"))
}

/// The right that is needed to create a path, in words.
pub(in crate::fs) fn writing_above(path: &Path) -> String {
    let above = path.ancestors().find(|part| part.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
    format!("write to {}", above.display())
}

/// Names the part of a path that should be a directory and is not.
fn no_directory(path: &Path) -> String {
    let found = path.ancestors().find_map(|part| Some((part, part.metadata().ok()?)));
    let Some((part, found)) = found.filter(|(_, found)| !found.is_dir()) else {
        return "a part of it is not a directory".to_owned();
    };
    let name = match path.file_name() {
        Some(name) if part == path => Path::new(name),
        _ => part,
    };
    let kind = if found.is_file() { "a file, not a directory" } else { "not a directory" };
    format!("'{}' is {kind}", name.display())
}
