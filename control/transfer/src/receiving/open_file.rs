//! What a file with chunks of its own is written to: opened, given its name when it is whole, or
//! removed.

use std::sync::Arc;

use culvert_journal::{DIRECTORY_BYTES_MAX, Record};
use culvert_link::commands::FileSlot;
use culvert_objects::fs::destination::Destination;
use culvert_objects::fs::destination::attributes::Attributes;
use culvert_objects::fs::destination::file_errors::unwritable;
use culvert_objects::fs::destination::files::{LeftFile, PartialFile};
use culvert_objects::fs::destination::names::split_name;
use culvert_objects::fs::destination::small_files::staged::StoredFile;
use culvert_objects::fs::sources::hash_of;
use culvert_objects::sink::PartWriter;
use culvert_plane::{DataPlane, InstalledFile};
use culvert_protocol::control::FileError;
use culvert_protocol::manifest::EntryKind;
use culvert_protocol::names::printable;
use culvert_protocol::tree_hash::ChunkHash;
use culvert_system::os_error::{SHORTAGE, errno_or_io};
use rustix::fs::fstat;
use rustix::io::Errno;

use crate::blocking;
use crate::receiving::intake::Intake;
use crate::receiving::stored_records::records_of;
use crate::shares::Piece;

/// A partial file that is open here and in the data plane.
#[derive(Clone, Debug)]
pub struct OpenPartial {
    installed: Arc<InstalledFile>,
    pub(super) partial: Arc<PartialFile>,
    /// Its number in the journal.
    pub(super) number: u32,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
}

impl OpenPartial {
    /// Where the data plane has it.
    #[must_use]
    pub fn slot(&self) -> FileSlot {
        self.installed.slot()
    }

    /// The file.
    #[must_use]
    pub fn partial(&self) -> Arc<PartialFile> {
        self.partial.clone()
    }

    /// How it is found again when it is closed.
    #[must_use]
    pub fn left(&self) -> LeftFile {
        self.partial.left
    }

    /// Gives its places to others at once; what is returned is to be dropped where a disk may be
    /// waited for.
    pub(super) fn give_way(self) -> Arc<PartialFile> {
        self.partial
    }

    /// Closes and removes it. May wait for the disk.
    pub fn discard(self, destination: &Destination) {
        self.partial.discard(destination);
    }
}

/// An object of a store without descriptors, whose parts this process writes.
#[derive(Clone, Debug)]
pub struct OpenParts {
    writer: Arc<dyn PartWriter>,
    /// Its place among the partner's open files.
    _place: Arc<Piece>,
}

/// What is open to be written to.
#[derive(Clone, Debug)]
pub enum OpenFile {
    /// A partial file of a directory.
    Partial(OpenPartial),
    /// An object of a store.
    Parts(OpenParts),
}

impl OpenFile {
    /// Who writes a chunk of it.
    pub(super) fn writing(&self) -> Writing {
        match self {
            Self::Partial(partial) => Writing::Lane(partial.slot()),
            Self::Parts(parts) => Writing::Here(parts.writer.clone()),
        }
    }

    /// The partial file, if it is one.
    pub(super) const fn partial(&self) -> Option<&OpenPartial> {
        match self {
            Self::Partial(partial) => Some(partial),
            Self::Parts(_) => None,
        }
    }
}

/// Who writes the chunks of an open file.
#[derive(Clone, Debug)]
pub enum Writing {
    /// The lane that a chunk comes by, into this file.
    Lane(FileSlot),
    /// This process.
    Here(Arc<dyn PartWriter>),
}

/// What a partial file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialContent {
    /// Nothing.
    Empty,
    /// What an earlier attempt left.
    Left(LeftFile),
    /// What this attempt closed, with its number in the journal.
    Closed(LeftFile, u32),
}

impl InitialContent {
    /// Whether there are bytes in it that the next attempt can use.
    const fn is_of_use(self) -> bool {
        matches!(self, Self::Left(_) | Self::Closed(..))
    }
}

/// Opens what a file is written to.
///
/// # Errors
/// What to say of the file.
pub async fn open(
    plane: &Arc<DataPlane>,
    intake: Arc<Intake>,
    file: u32,
    beginning: InitialContent,
    place: Piece,
) -> Result<OpenFile, FileError> {
    if let Some(sink) = intake.sink.clone() {
        let writer = blocking(move || sink.begin(&intake.manifest, file)).await?;
        return Ok(OpenFile::Parts(OpenParts { writer, _place: Arc::new(place) }));
    }
    open_in_directory(plane, intake, file, beginning, place).await.map(OpenFile::Partial)
}

/// Makes a partial file, or opens the one that an earlier attempt left, and notes it in the
/// journal.
///
/// # Errors
/// What to say of the file.
pub async fn open_in_directory(
    plane: &Arc<DataPlane>,
    intake: Arc<Intake>,
    file: u32,
    beginning: InitialContent,
    place: Piece,
) -> Result<OpenPartial, FileError> {
    let opening = intake.clone();
    let (partial, number) = blocking(move || open_partial(&opening, file, beginning)).await?;
    let installed = match plane.install_file(&partial.buffered, partial.direct.as_ref()).await {
        Ok(installed) => installed,
        Err(error) => {
            // What was left before may be of use to the next attempt; what was made just now is
            // not.
            if !beginning.is_of_use() {
                blocking(move || intake.destination.iter().for_each(|destination| partial.discard(destination))).await;
            }
            return Err(FileError { file, code: SHORTAGE.to_owned(), text: error.to_string() });
        }
    };
    Ok(OpenPartial { installed: Arc::new(installed), partial: Arc::new(partial), number, _place: Arc::new(place) })
}

/// The remains of a file that was given up.
#[derive(Debug)]
pub enum Discarded {
    /// It is open.
    Open(OpenFile),
    /// It was closed.
    Left(LeftFile),
}

impl Discarded {
    /// Removes it. May wait for the disk.
    pub fn remove(self, intake: &Intake, file: u32) {
        let open = match self {
            Self::Open(OpenFile::Parts(parts)) => return parts.writer.abandon(),
            Self::Open(OpenFile::Partial(partial)) => Ok(partial),
            Self::Left(left) => Err(left),
        };
        let Some(destination) = intake.destination.as_ref() else { return };
        let left = match open {
            Ok(partial) => return partial.discard(destination),
            Err(left) => left,
        };
        let name = destination.name(&intake.manifest, file);
        let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
        // What is not the file that was left is not removed, and what cannot be removed stays under
        // its temporary name.
        if let Ok(partial) = PartialFile::reopen(destination, &name, left, bytes, true) {
            partial.discard(destination);
        }
    }
}

/// A file whose every chunk is written and verified.
#[derive(Clone, Debug)]
pub struct WholeFile {
    pub(super) open: OpenFile,
    /// Its hash, if the transfer has hashes.
    pub hash: Option<ChunkHash>,
}

/// Gives a whole file its name, and notes it in the journal.
///
/// # Errors
/// What to say of the file.
pub fn finish(intake: &Intake, file: u32, whole: &WholeFile, preserve: bool) -> Result<(), FileError> {
    let partial = match &whole.open {
        OpenFile::Parts(parts) => {
            return parts.writer.commit(whole.hash).map_err(|why| not_accepted(intake, file, &why));
        }
        OpenFile::Partial(open) => &open.partial,
    };
    let fail = |error| unwritable(&intake.name(file), file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
    let attributes = Attributes::of(&entry, preserve);
    let action = intake.actions[file as usize];
    let refused = partial.finish(destination, bytes, &attributes, action).map_err(fail)?;
    // By its descriptor: under its name there may be another transfer's by now.
    let stat = fstat(&partial.buffered).map_err(fail)?;
    let records = records_of(&entry, whole.hash.unwrap_or_default(), &StoredFile { file, stat, refused });
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if let Some(journal) = journal.as_mut() {
        let io_error = |error: std::io::Error| fail(errno_or_io(&error));
        journal.append(records).map_err(io_error)?;
    }
    intake.note_refused(file, refused);
    Ok(())
}

/// What is said of an object that a store does not take.
#[must_use]
pub fn not_accepted(intake: &Intake, file: u32, why: &str) -> FileError {
    let text = format!("'{}' cannot be stored: {why}", printable(&intake.name(file)));
    FileError { file, code: "unwritable".to_owned(), text }
}

fn open_partial(intake: &Intake, file: u32, beginning: InitialContent) -> Result<(PartialFile, u32), FileError> {
    let fail = |error| unwritable(&intake.name(file), file, error);
    let destination = intake.destination.as_ref().ok_or_else(|| fail(Errno::INVAL))?;
    let entry = intake.manifest.entry(file);
    let EntryKind::File { bytes, is_sparse } = entry.kind else { return Err(fail(Errno::INVAL)) };
    let name = destination.name(&intake.manifest, file);
    let partial = match beginning {
        InitialContent::Left(left) | InitialContent::Closed(left, _) => {
            PartialFile::reopen(destination, &name, left, bytes, is_sparse)
        }
        InitialContent::Empty => PartialFile::create(destination, &name, bytes, is_sparse),
    };
    let partial = partial.map_err(fail)?;
    let begun = fill_and_note(intake, file, &partial, beginning);
    // What was left before may be of use to the next attempt; what was made just now is not.
    let number = begun.inspect_err(|_| {
        if !beginning.is_of_use() {
            partial.discard(destination);
        }
    });
    Ok((partial, number.map_err(fail)?))
}

/// Fills a partial file with what it begins with, and notes it in the journal; its number there.
fn fill_and_note(intake: &Intake, file: u32, partial: &PartialFile, beginning: InitialContent) -> Result<u32, Errno> {
    if let InitialContent::Closed(_, number) = beginning {
        return Ok(number);
    }
    let entry = intake.manifest.entry(file);
    let bytes = intake.manifest.file_bytes(file).unwrap_or(0);
    let mut journal = intake.journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut number = 0;
    if let Some(journal) = journal.as_mut() {
        number = journal.next_begun();
        let LeftFile { token, inode } = partial.left;
        let (name, modified, chunk_bytes) = (hash_of(entry.name), entry.modified, intake.chunk_bytes);
        let (directory, _) = split_name(entry.name);
        let directory = if directory.len() <= DIRECTORY_BYTES_MAX { directory.to_vec() } else { Vec::new() };
        let begun = Record::Begun { name, bytes, modified, chunk_bytes, token, inode, directory };
        // What the journal says of chunks belongs to the beginning before them.
        let known = intake.begun.iter().find(|begun| begun.file == file && begun.left.token == token);
        let chunks = known.into_iter().flat_map(|begun| &begun.chunks);
        let chunks = chunks.map(|&(part, hash)| Record::Chunk { file: number, part, hash });
        journal.append(std::iter::once(begun).chain(chunks)).map_err(|error| errno_or_io(&error))?;
    }
    Ok(number)
}
