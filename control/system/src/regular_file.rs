//! Reads whole files without blocking and without unbounded memory.
//!
//! A name may refer to something other than a file. Opening a pipe without a writer blocks forever,
//! a device may never end, and a symlink may lead to somebody else's file. Culvert's own files are
//! read with [`Links::Refused`]: Culvert creates no symlinks there, so an existing one was planted.
//! Files that an admin names are read with [`Links::Followed`].

use std::fs::{DirBuilder, File, FileType, Metadata, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;

/// How to treat a symlink as the last component of a path. Earlier components are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Follow it.
    Followed,
    /// Treat it as something that is not a file.
    Refused,
}

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system's error.
    #[error(transparent)]
    Os(#[from] io::Error),
    /// The name refers to something else.
    #[error("it is {0} and not a file")]
    NotAFile(&'static str),
    /// The directory's name refers to something else.
    #[error("it is {0} and not a directory")]
    NotADirectory(&'static str),
    /// It is longer than any file of its kind may be.
    #[error("it has more than {most} bytes, which is too large for a file of its kind")]
    TooLarge {
        /// The limit, in bytes.
        most: u64,
    },
}

impl ReadError {
    /// Whether nothing has the name. A dangling symlink does not count as nothing.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Os(error) if error.kind() == io::ErrorKind::NotFound)
    }
}

impl From<ReadError> for io::Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Os(error) => error,
            other => Self::new(io::ErrorKind::InvalidInput, other.to_string()),
        }
    }
}

/// Flags for opening a file such that only a regular file can block the caller.
#[must_use]
pub fn open_flags(links: Links) -> i32 {
    let links = if links == Links::Refused { OFlags::NOFOLLOW } else { OFlags::empty() };
    (OFlags::NONBLOCK | links).bits().cast_signed()
}

/// Opens a file for reading; fails for anything but a file.
///
/// # Errors
/// [`ReadError`].
pub fn open(path: &Path, links: Links) -> Result<File, ReadError> {
    let looked_at = match links {
        Links::Followed => path.metadata(),
        Links::Refused => path.symlink_metadata(),
    };
    // Checked before opening, which alone makes some devices act, and after, because the name may
    // refer to something else by then.
    check(&looked_at?)?;
    let file = File::options().read(true).custom_flags(open_flags(links)).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Opens one of Culvert's own files with `options`, which may create it; fails for anything but a
/// file.
///
/// # Errors
/// [`ReadError`].
pub fn open_to_write(path: &Path, options: &mut OpenOptions) -> Result<File, ReadError> {
    match path.symlink_metadata() {
        Ok(found) => check(&found)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    let file = options.custom_flags(open_flags(Links::Refused)).open(path)?;
    check(&file.metadata()?)?;
    Ok(file)
}

/// Makes one of Culvert's own directories, with its parents, unless it exists.
///
/// # Errors
/// [`ReadError`]; [`ReadError::NotADirectory`] if something else has its name.
pub fn make_directory(path: &Path) -> Result<(), ReadError> {
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
        let found = path.symlink_metadata().map(|found| found.file_type());
        match found {
            Ok(kind) if error.kind() == io::ErrorKind::AlreadyExists => ReadError::NotADirectory(word(kind)),
            _ => error.into(),
        }
    })
}

/// Whether one of Culvert's own directories exists.
///
/// # Errors
/// [`ReadError`]; [`ReadError::NotADirectory`] if something else has its name.
pub fn has_directory(path: &Path) -> Result<bool, ReadError> {
    match path.metadata() {
        Ok(found) if found.is_dir() => Ok(true),
        Ok(_) => Err(ReadError::NotADirectory(word(path.symlink_metadata()?.file_type()))),
        // A dangling symlink is not nothing.
        Err(error) if error.kind() == io::ErrorKind::NotFound => match path.symlink_metadata() {
            Ok(found) => Err(ReadError::NotADirectory(word(found.file_type()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// The noun for a kind of file, with its article.
#[must_use]
pub fn word(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_dir() => "a directory",
        kind if kind.is_symlink() => "a symlink",
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        kind if kind.is_file() => "a file",
        _ => "a device",
    }
}

/// The content of a file of at most `most` bytes.
///
/// # Errors
/// [`ReadError`].
pub fn read(path: &Path, most: u64, links: Links) -> Result<Vec<u8>, ReadError> {
    read_opened(&open(path, links)?, most)
}

/// As [`read`], as text.
///
/// # Errors
/// [`ReadError`]; text that is not UTF-8 gives [`ReadError::Os`] of kind `InvalidData`.
pub fn read_text(path: &Path, most: u64, links: Links) -> Result<String, ReadError> {
    let text = String::from_utf8(read(path, most, links)?);
    text.map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8").into())
}

/// The rest of an open file, of at most `most` bytes.
///
/// # Errors
/// [`ReadError`].
pub fn read_opened(file: &File, most: u64) -> Result<Vec<u8>, ReadError> {
    // A regular file that is too long is refused before anything is read.
    let known = file.metadata()?;
    if known.is_file() && known.len() > most {
        return Err(ReadError::TooLarge { most });
    }
    let mut bytes = Vec::new();
    file.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most { Err(ReadError::TooLarge { most }) } else { Ok(bytes) }
}

/// The text of a file named on the command line. The name may be a pipe's or a terminal's, as with
/// a shell's `<(…)`: the text is then read to its end, after `say` got a line about the wait.
///
/// # Errors
/// [`ReadError`].
pub fn read_named(path: &Path, most: u64, say: impl FnOnce(&str)) -> Result<String, ReadError> {
    let kind = path.metadata()?.file_type();
    if !kind.is_fifo() && !kind.is_char_device() {
        return read_text(path, most, Links::Followed);
    }
    say(&format!("waiting for the end of {}, which is {}", path.display(), word(kind)));
    let bytes = read_opened(&File::open(path)?, most)?;
    String::from_utf8(bytes).map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not valid UTF-8").into())
}

/// Makes the names in a directory durable.
///
/// # Errors
/// The operating system's.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

fn check(metadata: &Metadata) -> Result<(), ReadError> {
    if metadata.is_file() { Ok(()) } else { Err(ReadError::NotAFile(word(metadata.file_type()))) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use rustix::fs::{CWD, FileType as Kind, Mode, mknodat};

    use super::*;

    fn make_pipe(path: &Path) {
        mknodat(CWD, path, Kind::Fifo, Mode::RWXU, 0).unwrap();
    }

    #[test]
    fn nothing_but_a_file_is_read_and_nothing_is_waited_for() {
        let room = tempfile::tempdir().unwrap();
        let at = |name: &str| room.path().join(name);
        std::fs::write(at("file"), "four").unwrap();
        make_pipe(&at("pipe"));
        symlink(at("file"), at("link")).unwrap();
        symlink(at("nothing"), at("dangling")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        let read_as = |path: &Path, links| read(path, 4, links).map_err(|error| error.to_string());
        for links in [Links::Followed, Links::Refused] {
            assert_eq!(read_as(&at("file"), links).unwrap(), b"four");
            for (path, word) in [
                (at("pipe"), "a pipe"),
                (room.path().to_owned(), "a directory"),
                (at("socket"), "a socket"),
                ("/dev/zero".into(), "a device"),
            ] {
                let error = read_as(&path, links).unwrap_err();
                assert!(error.contains(word), "{}: {error}", path.display());
            }
        }
        assert_eq!(read_as(&at("link"), Links::Followed).unwrap(), b"four");
        assert!(read_as(&at("link"), Links::Refused).unwrap_err().contains("a symlink"));
        assert!(read_as(&at("dangling"), Links::Refused).unwrap_err().contains("a symlink"));
        assert!(read(&at("dangling"), 4, Links::Followed).unwrap_err().is_not_found());
        assert!(matches!(read(&at("file"), 3, Links::Refused), Err(ReadError::TooLarge { most: 3 })));
    }

    #[test]
    fn a_pipe_that_somebody_names_is_read_to_its_end_and_it_is_said() {
        let room = tempfile::tempdir().unwrap();
        let pipe = room.path().join("pipe");
        make_pipe(&pipe);
        let writer = std::thread::spawn({
            let pipe = pipe.clone();
            move || std::fs::write(pipe, "what a command prints")
        });
        let mut said = String::new();
        let text = read_named(&pipe, 100, |text| said = text.to_owned()).unwrap();
        writer.join().unwrap().unwrap();
        assert_eq!(text, "what a command prints");
        assert!(said.contains("a pipe"), "{said}");
        assert!(matches!(read_named(Path::new("/dev/zero"), 100, |_| ()), Err(ReadError::TooLarge { .. })));
    }
}
