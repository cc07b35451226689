//! Opens sources as the user named them.
//!
//! A source without a trailing slash is stored under the name that was written; one with a trailing
//! slash (and `.`, `..` and `/`, which are not names) means its contents. A named symlink is
//! followed to its current target, and that target is sent, whatever happens to the symlink later.

use std::ffi::OsStr;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use culvert_system::os_error;
use rustix::fs::{AtFlags, FileType, OFlags, readlinkat, statat};
use rustix::io::Errno;

use crate::fs::sources::bases::{Base, Bases, PermittedRoot, open_beneath};
use crate::fs::sources::{Source, SourceError, SourceName, kind_of};

/// The longest chain of symlinks that is followed for a partner's source.
const SYMLINKS_MAX: usize = 8;

/// Whether a path asks for the contents of a directory.
#[must_use]
pub fn wants_contents(written: &Path) -> bool {
    let bytes = written.as_os_str().as_bytes();
    bytes.ends_with(b"/") || bytes.ends_with(b"/.") || written.file_name().is_none()
}

/// Opens a source named by a user of this host: any path; symlinks in it are followed.
///
/// # Errors
/// [`SourceError`].
pub fn local_source(written: &Path) -> Result<Source, SourceError> {
    SourceOpener::default().local(written)
}

/// Opens the sources of a transfer; sources in the same directory share its descriptor.
#[derive(Debug, Default)]
pub struct SourceOpener {
    /// The directories.
    pub bases: Bases,
}

impl SourceOpener {
    /// As [`local_source`].
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn local(&mut self, written: &Path) -> Result<Source, SourceError> {
        let unreadable = |error: Errno| match error {
            Errno::NOENT | Errno::NOTDIR => SourceError::NotFound(written.to_owned()),
            error => SourceError::Unreadable { path: written.to_owned(), error },
        };
        if wants_contents(written) {
            let base = self.bases.anywhere(written).map_err(unreadable)?;
            return Ok(Source { base, name: None, written: written.to_owned() });
        }
        let stat = rustix::fs::lstat(written).map_err(unreadable)?;
        // The listing reports anything that is neither a file nor a directory.
        let found = if kind_of(&stat) == FileType::Symlink {
            std::fs::canonicalize(written).map_err(|error| unreadable(os_error::errno_or_io(&error)))?
        } else {
            written.to_owned()
        };
        let (parent, found) = parent_and_last(&found);
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let base = self.bases.anywhere(parent).map_err(unreadable)?;
        let name = SourceName { stored: last_of(written), found };
        Ok(Source { base, name: Some(name), written: written.to_owned() })
    }

    /// Opens the source at `below`, beneath a permitted directory. Symlinks in the path are not
    /// followed, except as its last component if they lead to something beneath that directory.
    ///
    /// # Errors
    /// Those of the operating system; `XDEV` for a symlink that leads elsewhere.
    pub fn beneath(
        &mut self,
        root: &PermittedRoot,
        below: &Path,
        contents: bool,
        shown: PathBuf,
    ) -> Result<Source, Errno> {
        let followed = follow(root, below)?;
        if contents {
            // Opened here, so that an unreadable directory is refused before anything is listed.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let path = if followed.as_os_str().is_empty() { Path::new(".") } else { followed.as_path() };
            open_beneath(root.opened.as_fd(), path, flags)?;
            return Ok(Source { base: self.bases.beneath(root, &followed)?, name: None, written: shown });
        }
        let (parent, found) = parent_and_last(&followed);
        let base = self.bases.beneath(root, parent)?;
        require(&base, &found)?;
        let name = SourceName { stored: last_of(below), found };
        Ok(Source { base, name: Some(name), written: shown })
    }
}

impl Source {
    /// Checks that the source is a file or a directory: as the only source, anything else would
    /// send nothing.
    ///
    /// # Errors
    /// [`SourceError::Special`].
    pub fn require_kind(&self) -> Result<(), SourceError> {
        let Some(name) = &self.name else { return Ok(()) };
        let found = Path::new(OsStr::from_bytes(&name.found));
        let stat = self.base.open().and_then(|base| statat(base.as_fd(), found, AtFlags::SYMLINK_NOFOLLOW));
        match stat.map(|stat| kind_of(&stat)) {
            // The listing reports errors.
            Err(_) | Ok(FileType::RegularFile | FileType::Directory) => Ok(()),
            Ok(_) => Err(SourceError::Special(self.written.clone())),
        }
    }
}

/// Checks that a name exists.
fn require(base: &Base, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    open_beneath(base.open()?.as_fd(), Path::new(OsStr::from_bytes(name)), flags).map(drop)
}

fn last_of(path: &Path) -> Vec<u8> {
    path.file_name().unwrap_or_default().as_bytes().to_vec()
}

/// The parent and the last component of a path; the root is `.` in itself.
fn parent_and_last(path: &Path) -> (&Path, Vec<u8>) {
    match (path.parent(), path.file_name()) {
        (Some(parent), Some(last)) => (parent, last.as_bytes().to_vec()),
        _ => (path, b".".to_vec()),
    }
}

/// Where the symlinks lead that begin at a path beneath a permitted directory.
fn follow(root: &PermittedRoot, below: &Path) -> Result<PathBuf, Errno> {
    let mut below = below.to_owned();
    for _ in 0..=SYMLINKS_MAX {
        let (Some(parent), Some(last)) = (below.parent(), below.file_name()) else { return Ok(below) };
        let directory = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open_beneath(root.opened.as_fd(), directory, flags)?;
        let target = match readlinkat(&directory, last, Vec::new()) {
            // Not a symlink.
            Err(Errno::INVAL) => return Ok(below),
            target => target?,
        };
        below = target_beneath(parent, Path::new(OsStr::from_bytes(target.as_bytes()))).ok_or(Errno::XDEV)?;
    }
    Err(Errno::LOOP)
}

/// The target of a symlink in `parent`, relative to the root; `None` if it leads outside. The path
/// to `parent` contains no symlink, so a leading `..` simply removes its last component. After a
/// name, which may be a symlink, `..` cannot be resolved here.
fn target_beneath(parent: &Path, target: &Path) -> Option<PathBuf> {
    let mut path = parent.to_owned();
    let mut has_name = false;
    for component in target.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if !has_name && path.pop() => {}
            Component::Normal(name) => {
                has_name = true;
                path.push(name);
            }
            _ => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_name_means_the_contents() {
        for contents in [".", "..", "/", "a/", "a/.", "./", "../..", "a/.."] {
            assert!(wants_contents(Path::new(contents)), "{contents}");
        }
        for name in ["a", "./a", "../a", "/a", "a.", ".a"] {
            assert!(!wants_contents(Path::new(name)), "{name}");
        }
    }

    #[test]
    fn a_target_beneath_stays_there() {
        let to = |parent: &str, target: &str| target_beneath(Path::new(parent), Path::new(target));
        assert_eq!(to("a/b", "c"), Some("a/b/c".into()));
        assert_eq!(to("a/b", "../../c/./d"), Some("c/d".into()));
        assert_eq!(to("a", ".."), Some("".into()));
        for (parent, target) in [("a", "../.."), ("", ".."), ("a", "/etc"), ("a", "b/../c")] {
            assert_eq!(to(parent, target), None, "{parent} {target}");
        }
    }
}
