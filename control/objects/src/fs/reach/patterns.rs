//! Sources that a requester names with a pattern: `/data/*.fits`.
//!
//! No shell expands the pattern. Each directory in its path is opened like a source, beneath the
//! same roots and under the same rules about symlinks, and its names are matched here. Each match
//! is then opened as if it had been named. If a source has exactly the written name, it is that
//! source: names with `*` need no escaping.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use culvert_protocol::control::{Refusal, RefusalCode};
use culvert_protocol::counted::grouped;
use culvert_protocol::names::printable;
use culvert_system::os_error::is_shortage;
use rustix::fs::{AtFlags, Dir, FileType, Stat, statat};
use rustix::io::Errno;

use crate::fs::destination::MissingDestination;
use crate::fs::name_pattern::NamePattern;
use crate::fs::reach::opener::Opener;
use crate::fs::reach::{Reach, open_root, owner_path, permitted_path};
use crate::fs::sources::named::SourceOpener;
use crate::fs::sources::{SOURCES_PER_REQUEST, Source, SourceName, kind_of};

/// Names that are examined for one pattern.
const NAMES_MAX: usize = 1_000_000;
/// Paths that match the first components of a pattern, before its other components are matched.
const PATHS_MAX: usize = 65_536;

impl Reach {
    /// Opens the sources of a request. Each path is one source, or all matches if no source has
    /// that name and it is a pattern. `host` is this host's name. `may_open` is asked before a
    /// pattern opens more than one source, with the number of further ones.
    ///
    /// # Errors
    /// [`Refusal`]: not permitted, not found, no match, or too many.
    pub fn open_sources(
        &self,
        typed: &[Vec<u8>],
        host: &str,
        may_open: &mut dyn FnMut(usize) -> Result<(), Refusal>,
    ) -> Result<Vec<Source>, Refusal> {
        let mut opener = SourceOpener::default();
        let mut sources = Vec::with_capacity(typed.len());
        for typed in typed {
            open(self, typed, host, &mut opener, may_open, &mut sources)?;
        }
        Ok(sources)
    }
}

/// Opens one path of a request: one source, or all matches of a pattern.
fn open(
    reach: &Reach,
    typed: &[u8],
    host: &str,
    opener: &mut SourceOpener,
    may_open: &mut dyn FnMut(usize) -> Result<(), Refusal>,
    sources: &mut Vec<Source>,
) -> Result<(), Refusal> {
    let refusal = match reach.open_source(typed, opener) {
        Ok(source) => {
            sources.push(source);
            return Ok(());
        }
        Err(refusal) => refusal,
    };
    let is_pattern = typed.split(|&byte| byte == b'/').any(|component| NamePattern::new(component).is_some());
    if refusal.code != RefusalCode::NotFound || !is_pattern {
        return Err(refusal);
    }
    Search::begin(reach, typed, host)?.open_all(opener, may_open, sources)
}

/// The search for a pattern's matches.
struct Search<'a> {
    reach: &'a Reach,
    typed: &'a [u8],
    host: &'a str,
    opener: Opener,
    root: PathBuf,
    below: PathBuf,
    names_left: usize,
    /// The refusal for the first directory or match that could not be read.
    unreadable: Option<Refusal>,
}

impl<'a> Search<'a> {
    fn begin(reach: &'a Reach, typed: &'a [u8], host: &'a str) -> Result<Self, Refusal> {
        let path = Path::new(OsStr::from_bytes(typed));
        let (root, below) = match reach {
            Reach::Owner { directory } => (PathBuf::from("/"), owner_path(directory, path)?),
            Reach::Permitted(roots) => permitted_path(roots, path, false)?,
        };
        let is_owner = matches!(reach, Reach::Owner { .. });
        let shown = root.join(&below);
        let opener =
            Opener { root: open_root(&root)?, shown, follows_symlinks: is_owner, making: MissingDestination::Nothing };
        Ok(Self { reach, typed, host, opener, root, below, names_left: NAMES_MAX, unreadable: None })
    }

    fn open_all(
        mut self,
        opener: &mut SourceOpener,
        may_open: &mut dyn FnMut(usize) -> Result<(), Refusal>,
        sources: &mut Vec<Source>,
    ) -> Result<(), Refusal> {
        let mut there = Vec::new();
        for path in self.paths()? {
            if self.look(&path)?.is_some() {
                there.push(path);
            }
        }
        if matches!(self.reach, Reach::Permitted(_)) && there.len() > SOURCES_PER_REQUEST {
            return Err(self.too_many("files and directories", SOURCES_PER_REQUEST));
        }
        may_open(there.len().saturating_sub(1))?;
        let before = sources.len();
        let mut has_usable = false;
        for path in there {
            if let Some((source, is_usable)) = self.open(&path, opener)? {
                sources.push(source);
                has_usable |= is_usable;
            }
        }
        if has_usable {
            return Ok(());
        }
        sources.truncate(before);
        Err(self.unreadable.unwrap_or_else(|| {
            let text = format!("no file or directory on {} matches '{}'", self.host, printable(self.typed));
            Refusal::new(RefusalCode::NotFound, text)
        }))
    }

    /// The paths below the root that match. The last components of a path without a pattern are not
    /// checked yet.
    fn paths(&mut self) -> Result<Vec<PathBuf>, Refusal> {
        let mut paths = vec![PathBuf::new()];
        let below = self.below.clone();
        for component in below.components() {
            match component {
                Component::Normal(name) => match NamePattern::new(name.as_bytes()) {
                    Some(pattern) => paths = self.matches(&paths, &pattern)?,
                    None => paths.iter_mut().for_each(|path| path.push(name)),
                },
                Component::ParentDir => paths.iter_mut().for_each(|path| path.push("..")),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok(paths)
    }

    /// The matching names in `directories`, sorted by bytes.
    fn matches(&mut self, directories: &[PathBuf], pattern: &NamePattern) -> Result<Vec<PathBuf>, Refusal> {
        let mut matches = Vec::new();
        for directory in directories {
            let Some(opened) = self.open_directory(directory)? else { continue };
            let mut names = Vec::new();
            let reader = Dir::read_from(&opened).map_err(|error| self.opener.refusal(error))?;
            for entry in reader {
                let entry = entry.map_err(|error| self.opener.refusal(error))?;
                let name = entry.file_name().to_bytes();
                self.names_left = self.names_left.checked_sub(1).ok_or_else(|| self.too_many("names", NAMES_MAX))?;
                if !matches!(name, b"." | b"..") && pattern.matches(name) {
                    names.push(name.to_vec());
                }
            }
            names.sort_unstable();
            matches.extend(names.iter().map(|name| directory.join(OsStr::from_bytes(name))));
            if matches.len() > PATHS_MAX {
                return Err(self.too_many("paths", PATHS_MAX));
            }
        }
        Ok(matches)
    }

    /// Opens a directory in the path; `None` if there is no directory that may be reached this way.
    fn open_directory(&mut self, below: &Path) -> Result<Option<OwnedFd>, Refusal> {
        match self.opener.open_directory(below) {
            Ok(directory) => Ok(Some(directory)),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(error) => {
                let shown = self.root.join(below);
                let opener = Opener { root: open_root(&self.root)?, shown, ..self.opener };
                let refusal = opener.refusal(error);
                if is_shortage(error) {
                    return Err(refusal);
                }
                self.unreadable.get_or_insert(refusal);
                Ok(None)
            }
        }
    }

    /// The status of the object at a path, if it exists.
    fn look(&mut self, below: &Path) -> Result<Option<Stat>, Refusal> {
        let Some(parent) = self.open_directory(below.parent().unwrap_or(Path::new("")))? else { return Ok(None) };
        let name = Path::new(below.file_name().unwrap_or(OsStr::new(".")));
        Ok(statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW).ok())
    }

    /// Opens a match as a source, and returns whether it can be sent. A match that has disappeared
    /// meanwhile is left out. One that cannot be sent, such as a dangling symlink, is reported by
    /// the listing, as if found in a directory.
    fn open(&mut self, below: &Path, opener: &mut SourceOpener) -> Result<Option<(Source, bool)>, Refusal> {
        let written = self.root.join(below);
        let mut typed = written.as_os_str().as_bytes().to_vec();
        let wants_contents = self.typed.ends_with(b"/");
        if wants_contents {
            typed.push(b'/');
        }
        let refusal = match self.reach.open_source(&typed, opener) {
            Ok(source) => return Ok(Some((source, true))),
            Err(refusal) if refusal.code == RefusalCode::Temporary => return Err(refusal),
            Err(refusal) => refusal,
        };
        if !wants_contents && let Some(stat) = self.look(below)? {
            let parent = below.parent().unwrap_or(Path::new(""));
            let base = match self.reach {
                Reach::Owner { .. } => opener.bases.anywhere(&self.root.join(parent)),
                Reach::Permitted(_) => {
                    let root = opener.bases.root(&self.root, open_root)?;
                    opener.bases.beneath(&root, parent)
                }
            };
            if let Ok(base) = base {
                let name = below.file_name().unwrap_or_default().as_bytes().to_vec();
                let name = SourceName { stored: name.clone(), found: name };
                let is_usable = kind_of(&stat) != FileType::Symlink;
                if !is_usable {
                    self.unreadable.get_or_insert(refusal);
                }
                return Ok(Some((Source { base, name: Some(name), written }, is_usable)));
            }
        }
        if refusal.code != RefusalCode::NotFound {
            self.unreadable.get_or_insert(refusal);
        }
        Ok(None)
    }

    fn too_many(&self, what: &str, most: usize) -> Refusal {
        let text = format!(
            "'{}' has more than {} {what} on {} to look at: name the directory that they are in, or write a pattern \
             that matches fewer",
            printable(self.typed),
            grouped(most as u64),
            self.host
        );
        Refusal::new(RefusalCode::Failed, text)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use culvert_model::profile::{Permission, PermittedRoot};

    use super::*;

    fn room() -> tempfile::TempDir {
        let room = tempfile::tempdir().unwrap();
        for directory in ["run1/raw", "run2/raw", "run2/.cache", "other"] {
            fs::create_dir_all(room.path().join(directory)).unwrap();
        }
        for file in ["a.fits", "b.fits", "c.txt", ".d.fits", "run1/raw/x.fits", "run2/raw/x.txt", "run2/raw/y.fits"] {
            fs::write(room.path().join(file), "content").unwrap();
        }
        room
    }

    fn found(reach: &Reach, typed: &str) -> Result<Vec<String>, Refusal> {
        let sources = reach.open_sources(&[typed.as_bytes().to_vec()], "far", &mut |_| Ok(()))?;
        Ok(sources.iter().map(|source| source.written.display().to_string()).collect())
    }

    /// An unrestricted user and one with a permitted root find the same.
    fn assert_found(room: &Path, pattern: &str, names: &[&str]) {
        let permitted = PermittedRoot { path: room.to_owned(), permission: Permission::Read };
        for reach in [Reach::Owner { directory: room.to_owned() }, Reach::Permitted(vec![permitted])] {
            for typed in [pattern.to_owned(), format!("{}/{pattern}", room.display())] {
                let found: Vec<_> =
                    found(&reach, &typed).unwrap().iter().map(|path| path.trim_end_matches('/').to_owned()).collect();
                let expected: Vec<_> = names.iter().map(|name| room.join(name).display().to_string()).collect();
                assert_eq!(found, expected, "{typed}");
            }
        }
    }

    #[test]
    fn what_matches_is_found_in_every_component() {
        let room = room();
        assert_found(room.path(), "*.fits", &["a.fits", "b.fits"]);
        assert_found(room.path(), "run*", &["run1", "run2"]);
        assert_found(room.path(), "run?/raw/*.fits", &["run1/raw/x.fits", "run2/raw/y.fits"]);
        assert_found(room.path(), "*/raw/x.fits", &["run1/raw/x.fits"]);
        assert_found(room.path(), "run[12]/*/", &["run1/raw", "run2/raw"]);
        assert_found(room.path(), ".d*", &[".d.fits"]);
    }

    /// `*` may be a name.
    #[test]
    fn a_name_that_is_there_is_no_pattern() {
        let room = room();
        fs::write(room.path().join("*.fits"), "content").unwrap();
        assert_found(room.path(), "*.fits", &["*.fits"]);
        assert_found(room.path(), "[ab].fits", &["a.fits", "b.fits"]);
        assert_found(room.path(), "\\*.fits", &["*.fits"]);
    }

    #[test]
    fn nothing_that_matches_is_told_with_the_pattern_and_the_host() {
        let room = room();
        let reach = Reach::Owner { directory: room.path().to_owned() };
        for pattern in ["*.jpg", "none/*.fits", "*/none/x", "c.txt/*"] {
            let refusal = found(&reach, pattern).unwrap_err();
            assert_eq!(refusal.code, RefusalCode::NotFound, "{pattern}");
            assert!(refusal.text.contains(pattern) && refusal.text.contains("on far"), "{}", refusal.text);
        }
        let refusal = found(&reach, "~other/*").unwrap_err();
        assert!(refusal.text.contains("another user's home"), "{}", refusal.text);
    }

    /// Beneath what is permitted, through no symlink, whatever the pattern is.
    #[test]
    fn a_pattern_leads_nowhere_that_a_name_does_not() {
        let room = room();
        let secret = tempfile::tempdir().unwrap();
        fs::write(secret.path().join("key.fits"), "secret").unwrap();
        symlink(secret.path(), room.path().join("way")).unwrap();
        let permitted =
            |path: &Path| Reach::Permitted(vec![PermittedRoot { path: path.to_owned(), permission: Permission::Read }]);
        let reach = permitted(room.path());
        for pattern in ["way/*", "w*/key.fits", "*/key.*", "*/*.fits"] {
            let sources = found(&reach, pattern);
            assert!(sources.is_err(), "{pattern}: {sources:?}");
        }
        for pattern in ["../*", "*/../*", "/etc/*", "/*/passwd"] {
            assert_eq!(found(&reach, pattern).unwrap_err().code, RefusalCode::NotPermitted, "{pattern}");
        }
        // The owner's own symlinks are followed.
        let owner = Reach::Owner { directory: room.path().to_owned() };
        assert_eq!(found(&owner, "way/*").unwrap().len(), 1);
        let writes = PermittedRoot { path: room.path().to_owned(), permission: Permission::Write };
        assert_eq!(found(&Reach::Permitted(vec![writes]), "*.fits").unwrap_err().code, RefusalCode::NotPermitted);
    }

    /// One socket does not prevent the files next to it from being sent.
    #[test]
    fn a_match_that_cannot_be_sent_is_told_of_by_the_listing() {
        let room = room();
        let _socket = std::os::unix::net::UnixListener::bind(room.path().join("s.fits")).unwrap();
        symlink("nowhere", room.path().join("t.fits")).unwrap();
        let reach = Reach::Owner { directory: room.path().to_owned() };
        let sources = reach.open_sources(&[b"*.fits".to_vec()], "far", &mut |more| {
            assert_eq!(more, 3);
            Ok(())
        });
        let sources = sources.unwrap();
        assert_eq!(sources.len(), 4);
        let tree = crate::fs::sources::listing::list(sources, drop).unwrap();
        assert!(tree.listing.problems.iter().any(|problem| problem.code == "special"), "{:?}", tree.listing.problems);
    }

    #[test]
    fn more_matches_than_a_request_may_have_are_refused() {
        let room = tempfile::tempdir().unwrap();
        for file in 0..=SOURCES_PER_REQUEST {
            fs::write(room.path().join(format!("{file}.fits")), "").unwrap();
        }
        // The owner's own far end has as many as there are.
        let owner = Reach::Owner { directory: room.path().to_owned() };
        assert_eq!(found(&owner, "*.fits").unwrap().len(), SOURCES_PER_REQUEST + 1);
        let permitted = PermittedRoot { path: room.path().to_owned(), permission: Permission::Read };
        let refusal = found(&Reach::Permitted(vec![permitted]), "*.fits").unwrap_err();
        assert!(refusal.text.contains("more than 1,024"), "{}", refusal.text);
    }
}
