//! Lists everything below the sources.
//!
//! Directories of the same name are merged and get the mode and time of the first. Anything else of
//! the same name is a collision, unless it is the same file: a file that was named twice is sent
//! once.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use culvert_protocol::control::{LIST_BYTES, Refusal, encode_entry};
use culvert_protocol::manifest::{Entry, EntryError, EntryKind, FileTime};
use culvert_protocol::names::{check_relative, printable, symlink_stays_inside};
use culvert_system::os_error::is_shortage;
use rustix::fs::{Access, AtFlags, Dir, FileType, OFlags, Stat, accessat, fstat, readlinkat, statat};
use rustix::io::Errno;

use crate::fs::sources::bases::open_beneath;
use crate::fs::sources::{
    Content, Origin, Source, SourceError, SourceName, UNSIZED_REMEDY, hash_of, kind_of, reading_words,
};
use crate::source::{ListingTerms, Problem, Readable, SourceListing, SourceTree, Sources};

/// Problems that are listed by name; the rest are only counted.
const PROBLEMS_MAX: usize = 10_000;

/// Sources in directories of this host.
#[derive(Debug)]
pub struct NamedSources(pub Vec<Source>);

impl Sources for NamedSources {
    fn list(self: Box<Self>, terms: ListingTerms<'_>) -> Result<SourceTree, Refusal> {
        let ListingTerms { on_part, may_take, readable } = terms;
        let listed = list_while(self.0, on_part, may_take, readable);
        listed.map_err(|error| Refusal::new(error.code(), error.to_string()))
    }
}

/// Lists everything below `sources`. `on_part` gets encoded entries as they are found.
///
/// # Errors
/// [`SourceError`] if a source cannot be sent at all. Files below it that cannot be sent are
/// [`SourceListing::problems`] instead.
pub fn list(sources: Vec<Source>, mut on_part: impl FnMut(Vec<u8>)) -> Result<SourceTree, SourceError> {
    let on_part = |part| {
        on_part(part);
        true
    };
    list_while(sources, on_part, &mut |_| true, Readable::FoundOut)
}

/// As [`list`], until `on_part` returns false. `may_take` is asked for memory for each entry, given
/// the bytes of its name.
///
/// # Errors
/// As [`list`].
pub fn list_while(
    sources: Vec<Source>,
    mut on_part: impl FnMut(Vec<u8>) -> bool,
    may_take: &mut dyn FnMut(usize) -> bool,
    readable: Readable,
) -> Result<SourceTree, SourceError> {
    let (is_several, is_one_by_name) = match sources.as_slice() {
        [one] => (false, one.name.is_some()),
        _ => (true, false),
    };
    let contents_mode = match sources.as_slice() {
        [one] if one.name.is_none() => mode_of(one),
        _ => None,
    };
    let mut listing = Listing {
        found: SourceListing::default(),
        content: Content::default(),
        listed: HashMap::new(),
        part: Vec::new(),
        on_part: &mut on_part,
        may_take,
        written: PathBuf::new(),
        sources: Vec::new(),
        is_several,
        readable,
    };
    for source in sources {
        listing.source(source)?;
    }
    let Listing { mut found, content, part, .. } = listing;
    if !part.is_empty() && !on_part(part) {
        return Err(SourceError::NotWanted);
    }
    // A directory's contents are stored in a directory, even if they are one file.
    found.is_single_file = is_one_by_name
        && found.manifest.len() == 1
        && matches!(found.manifest.entry(0).kind, EntryKind::File { .. })
        && !found.manifest.entry(0).name.contains(&b'/');
    found.contents_mode = contents_mode;
    Ok(SourceTree { listing: found, content: Box::new(content), held: None })
}

/// The mode of a directory whose contents are sent; `None` if it cannot be determined.
fn mode_of(source: &Source) -> Option<u16> {
    let stat = source.base.open().and_then(|directory| fstat(&directory)).ok()?;
    u16::try_from(stat.st_mode & 0o777).ok()
}

struct Listing<'a> {
    found: SourceListing,
    content: Content,
    /// Listed entries by the hash of their names; only kept if several sources could share a name.
    listed: HashMap<u128, Listed>,
    sources: Vec<PathBuf>,
    part: Vec<u8>,
    on_part: &'a mut dyn FnMut(Vec<u8>) -> bool,
    may_take: &'a mut dyn FnMut(usize) -> bool,
    written: PathBuf,
    is_several: bool,
    readable: Readable,
}

/// A listed entry.
#[derive(Clone, Copy, Debug)]
struct Listed {
    /// The first source that has it.
    source: u32,
    is_directory: bool,
    /// Device and inode.
    identity: (u64, u64),
}

/// Whether a found name has been listed before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// It is new.
    New,
    /// Another source has a directory of this name: the two are merged.
    Merged,
    /// The same file or directory has been listed.
    Listed,
}

/// The source being listed.
struct SourcePlace<'a> {
    base: BorrowedFd<'a>,
    origin: Origin,
}

impl Listing<'_> {
    fn source(&mut self, source: Source) -> Result<(), SourceError> {
        let Source { base, name, written } = source;
        self.written = written;
        self.sources.push(self.written.clone());
        let alias = name.clone().filter(|name| name.stored != name.found);
        let origin = Origin { base: base.clone(), alias };
        self.content.add(origin.clone(), self.found.manifest.len() as u32);
        let unreadable = |path: &Path, error| SourceError::Unreadable { path: path.to_owned(), error };
        let opened = base.open().map_err(|error| unreadable(&self.written, error))?;
        let place = SourcePlace { base: opened.as_fd(), origin };
        let mut directories = match name {
            None => vec![Vec::new()],
            Some(SourceName { stored, found }) => {
                let stat = statat(place.base, Path::new(OsStr::from_bytes(&found)), AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(|error| unreadable(&self.written, error))?;
                if let Err(reason) = check_relative(&stored) {
                    let error = EntryError::Name { name: printable(&stored), reason };
                    return Err(SourceError::Entry { path: self.written.clone(), error });
                }
                // If the only source is unusable, nothing would be sent; of several, the others
                // are.
                if !self.is_several {
                    self.require_usable(place.base, &found, &stat)?;
                }
                // Usable symlinks have been followed already; this one leads to nothing.
                if kind_of(&stat) == FileType::Symlink {
                    self.symlink_to_nothing(place.base, &stored, &found);
                    Vec::new()
                } else if self.entry(&place, &stored, &stat)? {
                    vec![stored]
                } else {
                    Vec::new()
                }
            }
        };
        // Depth first, sorted by name: the same tree always gives the same manifest.
        while let Some(directory) = directories.pop() {
            let mut below = self.directory(&place, &directory)?;
            below.reverse();
            directories.append(&mut below);
        }
        Ok(())
    }

    /// Checks that the only source can be sent.
    fn require_usable(&self, base: BorrowedFd<'_>, found: &[u8], stat: &Stat) -> Result<(), SourceError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        match kind_of(stat) {
            FileType::RegularFile | FileType::Directory => {
                open_beneath(base, Path::new(OsStr::from_bytes(found)), flags)
                    .map(drop)
                    .map_err(|error| SourceError::Unreadable { path: self.written.clone(), error })
            }
            // It is dangling, or was replaced after it was followed.
            FileType::Symlink => Err(SourceError::NotFound(self.written.clone())),
            _ => Err(SourceError::Special(self.written.clone())),
        }
    }

    /// Reports a symlink that a pattern matched and that cannot be followed.
    fn symlink_to_nothing(&mut self, base: BorrowedFd<'_>, stored: &[u8], found: &[u8]) {
        let target = readlinkat(base, Path::new(OsStr::from_bytes(found)), Vec::new()).unwrap_or_default();
        let target = printable(target.as_bytes());
        let text = format!("the symlink leads to nothing that can be sent (to '{target}')");
        self.problem(stored, "symlink_unusable", text);
    }

    /// Whether the object with this name is new.
    fn look_up(&self, name: &[u8], stat: &Stat) -> Result<Seen, SourceError> {
        let Some(listed) = self.listed.get(&hash_of(name)).filter(|_| self.is_several) else { return Ok(Seen::New) };
        if listed.identity == (stat.st_dev, stat.st_ino) {
            return Ok(Seen::Listed);
        }
        if listed.is_directory && kind_of(stat) == FileType::Directory {
            return Ok(Seen::Merged);
        }
        let first = self.sources[listed.source as usize].clone();
        Err(SourceError::Collision { name: printable(name), first, second: self.written.clone() })
    }

    /// Lists one directory; returns the directories in it.
    fn directory(&mut self, place: &SourcePlace<'_>, directory: &[u8]) -> Result<Vec<Vec<u8>>, SourceError> {
        let path = if directory.is_empty() { Cow::Borrowed(b".".as_slice()) } else { place.origin.path(directory) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = open_beneath(place.base, Path::new(OsStr::from_bytes(&path)), flags)
            .and_then(|fd| Ok((Dir::read_from(&fd)?, fd)));
        let (mut reader, fd) = match opened {
            Ok(opened) => opened,
            Err(error) if directory.is_empty() => {
                return Err(SourceError::Unreadable { path: self.written.clone(), error });
            }
            Err(error) => {
                self.trouble(directory, "unreadable", "the directory cannot be read", error)?;
                return Ok(Vec::new());
            }
        };
        let mut names = Vec::new();
        while let Some(entry) = reader.read() {
            match entry {
                Ok(entry) => match entry.file_name().to_bytes() {
                    b"." | b".." => {}
                    name => names.push(name.to_vec()),
                },
                Err(error) => {
                    self.trouble(directory, "unreadable", "the directory cannot be read to its end", error)?;
                    break;
                }
            }
        }
        names.sort_unstable();
        let mut directories = Vec::new();
        for name in names {
            let full = if directory.is_empty() { name.clone() } else { [directory, b"/", &name].concat() };
            match statat(&fd, Path::new(OsStr::from_bytes(&name)), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => {
                    if self.entry(place, &full, &stat)? {
                        directories.push(full);
                    }
                }
                Err(error) => self.trouble(&full, "vanished", "it cannot be accessed", error)?,
            }
        }
        Ok(directories)
    }

    /// Adds an entry to the manifest; true if it is a directory to be listed.
    fn entry(&mut self, place: &SourcePlace<'_>, name: &[u8], stat: &Stat) -> Result<bool, SourceError> {
        if let Err(reason) = check_relative(name) {
            self.problem(name, "name", format!("its name cannot be sent: {reason}"));
            return Ok(false);
        }
        match self.look_up(name, stat)? {
            Seen::New => {}
            Seen::Merged => return Ok(true),
            Seen::Listed => return Ok(false),
        }
        let path = place.origin.path(name);
        let mut target = Vec::new();
        let kind = match kind_of(stat) {
            FileType::RegularFile => {
                if stat.st_size == 0 && !self.is_empty(place.base, &path, name)? {
                    return Ok(false);
                }
                if self.readable == Readable::Asked && !self.may_read(place.base, &path, name)? {
                    return Ok(false);
                }
                let bytes = stat.st_size as u64;
                let allocated = stat.st_blocks as u64 * 512;
                self.found.allocated_bytes += allocated.min(bytes);
                EntryKind::File { bytes, is_sparse: allocated < bytes }
            }
            FileType::Directory => EntryKind::Directory,
            FileType::Symlink => {
                target = match readlinkat(place.base, Path::new(OsStr::from_bytes(&path)), Vec::new()) {
                    Ok(target) => target.into_bytes(),
                    Err(error) => {
                        self.trouble(name, "vanished", "the symlink cannot be read", error)?;
                        return Ok(false);
                    }
                };
                //= W-36
                //# A symlink's target stays inside the sent tree.
                if !symlink_stays_inside(name, &target) {
                    let text = format!("the symlink leads outside what is sent (to '{}')", printable(&target));
                    self.problem(name, "symlink_leaves", text);
                    return Ok(false);
                }
                EntryKind::Symlink
            }
            _ => {
                self.problem(name, "special", "it is a device, a pipe or a socket".to_owned());
                return Ok(false);
            }
        };
        let entry = Entry {
            name,
            kind,
            target: &target,
            mode: (stat.st_mode & 0o777) as u16,
            modified: FileTime { seconds: stat.st_mtime, nanoseconds: stat.st_mtime_nsec as u32 },
        };
        if self.is_several {
            let (source, identity) = (self.sources.len() as u32 - 1, (stat.st_dev, stat.st_ino));
            let is_directory = kind == EntryKind::Directory;
            self.listed.insert(hash_of(name), Listed { source, is_directory, identity });
        }
        if !(self.may_take)(name.len() + target.len()) {
            return Err(SourceError::TooMuchListed);
        }
        let pushed = self.found.manifest.push(&entry);
        pushed.map_err(|error| SourceError::Entry { path: self.written.clone(), error })?;
        encode_entry(&entry, &mut self.part);
        if self.part.len() >= LIST_BYTES && !(self.on_part)(std::mem::take(&mut self.part)) {
            return Err(SourceError::NotWanted);
        }
        Ok(entry.kind == EntryKind::Directory)
    }

    /// Whether this account may read a file.
    fn may_read(&mut self, base: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> Result<bool, SourceError> {
        let asked = accessat(
            base,
            Path::new(OsStr::from_bytes(path)),
            Access::READ_OK,
            AtFlags::EACCESS | AtFlags::SYMLINK_NOFOLLOW,
        );
        match asked {
            Err(error @ (Errno::ACCESS | Errno::PERM)) => {
                self.trouble(name, "unreadable", "it cannot be read", error)?;
                Ok(false)
            }
            _ => Ok(true),
        }
    }

    /// Whether a file of size zero really has no content. Files that the kernel generates on read
    /// report no size, nor do the files of some file systems: sending nothing of them must not go
    /// unreported.
    fn is_empty(&mut self, base: BorrowedFd<'_>, path: &[u8], name: &[u8]) -> Result<bool, SourceError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let opened = open_beneath(base, Path::new(OsStr::from_bytes(path)), flags);
        match opened.and_then(|file| rustix::io::read(&file, &mut [0; 1])) {
            Ok(0) => return Ok(true),
            Ok(_) => self.problem(name, "unsized", format!("it has content, but no size: {UNSIZED_REMEDY}")),
            Err(error) => self.trouble(name, "unreadable", "it cannot be read", error)?,
        }
        Ok(false)
    }

    /// Notes an entry that cannot be listed. If this process merely lacks descriptors or memory,
    /// the listing fails instead: the entry must not be left out.
    fn trouble(&mut self, name: &[u8], code: &'static str, what: &str, error: Errno) -> Result<(), SourceError> {
        if is_shortage(error) {
            return Err(SourceError::Unreadable { path: self.written.join(OsStr::from_bytes(name)), error });
        }
        self.problem(name, code, format!("{what}: {}", reading_words(error)));
        Ok(())
    }

    fn problem(&mut self, name: &[u8], code: &'static str, text: String) {
        self.found.problem_count += 1;
        if self.found.problems.len() < PROBLEMS_MAX {
            self.found.problems.push(Problem { name: printable(name), code, text });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::fd::OwnedFd;
    use std::os::unix::fs::symlink;

    use culvert_protocol::control::FileError;

    use super::*;
    use crate::fs::sources::named::SourceOpener;
    use crate::source::SourceContent;

    fn tree_of(sources: &[&Path]) -> Result<SourceTree, SourceError> {
        let mut opener = SourceOpener::default();
        let sources = sources.iter().map(|path| opener.local(path)).collect::<Result<Vec<_>, _>>()?;
        list(sources, drop)
    }

    fn opened(tree: &SourceTree, file: u32) -> Result<OwnedFd, FileError> {
        match tree.open(file, None)?.content {
            SourceContent::Descriptors { buffered, .. } => Ok(buffered),
            SourceContent::Ranges(_) => panic!("a file has a descriptor"),
        }
    }

    fn names(tree: &SourceTree) -> Vec<String> {
        tree.listing.manifest.entries().map(|(_, entry)| printable(entry.name)).collect()
    }

    #[test]
    fn a_slash_means_the_contents() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("b/c")).unwrap();
        fs::write(top.join("a"), "1").unwrap();
        fs::write(top.join("b/c/d"), "22").unwrap();
        assert_eq!(names(&tree_of(&[&top]).unwrap()), ["top", "top/a", "top/b", "top/b/c", "top/b/c/d"]);
        let contents = tree_of(&[&top.join("")]).unwrap();
        assert_eq!(names(&contents), ["a", "b", "b/c", "b/c/d"]);
        assert_eq!(contents.listing.manifest.total_bytes(), 3);
        assert!(opened(&contents, 3).is_ok());
        let file = tree_of(&[&top.join("a")]).unwrap();
        assert!(file.listing.is_single_file);
        assert_eq!(names(&file), ["a"]);
        let only = tree_of(&[&top.join("b/c/")]).unwrap();
        assert!(!only.listing.is_single_file, "the contents of a directory, of which there is one");
        assert_eq!(names(&only), ["d"]);
    }

    #[test]
    fn strange_things_are_told_by_name_and_the_rest_is_listed() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path().join("top");
        fs::create_dir(&top).unwrap();
        symlink("inside", top.join("good")).unwrap();
        symlink("/etc/passwd", top.join("bad")).unwrap();
        fs::write(top.join(OsStr::from_bytes(b"not utf-8 \xff")), "x").unwrap();
        fs::write(top.join(".culvert-partial-1"), "x").unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(top.join("socket")).unwrap();
        let tree = tree_of(&[&top.join("")]).unwrap();
        assert_eq!(names(&tree), ["good", "not utf-8 \\xff"]);
        let problems: Vec<_> =
            tree.listing.problems.iter().map(|problem| (problem.name.as_str(), problem.code)).collect();
        //= W-36
        //# A symlink's target stays inside the sent tree.
        assert_eq!(problems, [(".culvert-partial-1", "name"), ("bad", "symlink_leaves"), ("socket", "special")]);
    }

    /// Such files arrived empty and were called verified.
    #[test]
    fn a_file_with_content_and_no_size_is_a_problem_and_an_empty_one_is_none() {
        let tree = tree_of(&[Path::new("/proc/version")]).unwrap();
        assert_eq!((tree.listing.manifest.len(), tree.listing.problem_count), (0, 1));
        assert_eq!(tree.listing.problems[0].code, "unsized");
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("empty"), "").unwrap();
        let tree = tree_of(&[&directory.path().join("")]).unwrap();
        assert_eq!((tree.listing.manifest.len(), tree.listing.problem_count), (1, 0));
    }

    #[test]
    fn a_file_that_becomes_a_symlink_is_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        fs::create_dir(top.join("d")).unwrap();
        fs::write(top.join("d/a"), "1").unwrap();
        let tree = tree_of(&[&top.join("d")]).unwrap();
        fs::remove_file(top.join("d/a")).unwrap();
        symlink("/etc/passwd", top.join("d/a")).unwrap();
        assert_eq!(opened(&tree, 1).unwrap_err().code, "changed");
        fs::rename(top.join("d"), top.join("e")).unwrap();
        symlink("/etc", top.join("d")).unwrap();
        assert!(opened(&tree, 1).is_err());
    }

    #[test]
    fn a_symlink_is_listed_under_its_own_name_and_what_it_led_to_is_opened() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        for (run, content) in [("run-1", "first"), ("run-2", "other")] {
            fs::create_dir_all(top.join(run).join("d")).unwrap();
            fs::write(top.join(run).join("d/f"), content).unwrap();
        }
        symlink("run-1", top.join("latest")).unwrap();
        symlink("latest/d/f", top.join("f")).unwrap();
        let tree = tree_of(&[&top.join("latest"), &top.join("f"), &top.join("run-1")]).unwrap();
        assert_eq!(names(&tree), ["latest", "latest/d", "latest/d/f", "f", "run-1", "run-1/d", "run-1/d/f"]);
        fs::remove_file(top.join("latest")).unwrap();
        symlink("run-2", top.join("latest")).unwrap();
        for file in [2, 3, 6] {
            let mut content = [0; 5];
            assert_eq!(rustix::io::read(opened(&tree, file).unwrap(), &mut content), Ok(5));
            assert_eq!(&content, b"first");
        }
        assert!(tree_of(&[&top.join("f")]).unwrap().listing.is_single_file);
    }

    /// In an order that receivers of all versions accept.
    #[test]
    fn directories_of_one_name_are_one_entry() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        for (source, file) in [("r1", "a"), ("r2", "b")] {
            fs::create_dir_all(top.join(source).join("d/e")).unwrap();
            fs::create_dir_all(top.join(source).join("d").join(source)).unwrap();
            fs::write(top.join(source).join("d/e").join(file), file).unwrap();
        }
        let paths = ["r1/", "r2/"].map(|name| top.join(name));
        let sources = [paths[0].as_path(), &paths[1]];
        let tree = tree_of(&sources).unwrap();
        assert_eq!(names(&tree), ["d", "d/e", "d/r1", "d/e/a", "d/r2", "d/e/b"]);
        let mut check = crate::fs::destination::name_check::NameCheck::default();
        assert!(tree.listing.manifest.entries().all(|(_, entry)| check.add(&entry).is_ok()));
        let mut content = [0; 1];
        assert_eq!(rustix::io::read(opened(&tree, 5).unwrap(), &mut content), Ok(1));
        assert_eq!((&content, tree.listing.manifest.total_bytes()), (b"b", 2));
        fs::remove_dir(top.join("r2/d/r2")).unwrap();
        fs::write(top.join("r2/d/r1"), "").unwrap();
        let error = tree_of(&sources).unwrap_err();
        assert!(matches!(error, SourceError::Collision { name, .. } if name == "d/r1"));
    }

    #[test]
    fn what_is_named_twice_is_listed_once() {
        let directory = tempfile::tempdir().unwrap();
        let top = directory.path();
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/f"), "f").unwrap();
        fs::create_dir(top.join("other")).unwrap();
        symlink("../a", top.join("other/a")).unwrap();
        let tree = tree_of(&[&top.join("a"), &top.join("a/../a"), &top.join("a"), &top.join("other/a")]).unwrap();
        assert_eq!(
            (names(&tree), tree.listing.manifest.total_bytes()),
            (vec!["a".into(), "a/b".into(), "a/b/f".into()], 1)
        );
        assert!(!tree.listing.is_single_file);
    }

    #[test]
    fn two_sources_of_one_name_collide() {
        let directory = tempfile::tempdir().unwrap();
        for parent in ["x", "y"] {
            fs::create_dir(directory.path().join(parent)).unwrap();
            fs::write(directory.path().join(parent).join("same"), "").unwrap();
        }
        let error = tree_of(&[&directory.path().join("x/same"), &directory.path().join("y/same")]).unwrap_err();
        assert!(matches!(error, SourceError::Collision { name, first, second } if name == "same" && first != second));
    }

    #[test]
    fn what_is_not_there_or_no_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let missing = directory.path().join("missing");
        assert!(matches!(tree_of(&[&missing]), Err(SourceError::NotFound(path)) if path == missing));
        assert!(matches!(tree_of(&[Path::new("/dev/null")]), Err(SourceError::Special(_))));
    }
}
