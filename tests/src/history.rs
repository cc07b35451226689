//! The whole history of a destination's journals, to find out afterwards whether anything was
//! stored twice.
//!
//! A journal is appended to for as long as its transfer lives, and removed at the end. A second
//! link keeps its contents.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use culvert_engine::journal::{Record, records};

/// Keeps every journal of a state directory that it sees.
#[derive(Debug)]
pub struct History {
    journals: PathBuf,
    kept: PathBuf,
    seen: HashSet<u64>,
}

/// What journals report as stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// Files under their final names, by the hash of the name, with their sizes.
    pub files: HashMap<u128, u64>,
    /// Chunks in partial files: the hash of the file's name, and which chunk.
    pub chunks: HashSet<(u128, u64)>,
    /// The chunk size and the file size of each begun file.
    pub begun: HashMap<u128, (u32, u64)>,
    /// What each begun file's temporary name is made from.
    pub tokens: HashMap<u128, u128>,
}

impl Stored {
    /// The bytes of all of it.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let chunk = |&(name, part): &(u128, u64)| {
            let (chunk_bytes, bytes) = self.begun[&name];
            (bytes - part * u64::from(chunk_bytes)).min(chunk_bytes.into())
        };
        let in_parts = self.chunks.iter().filter(|(name, _)| !self.files.contains_key(name)).map(chunk);
        self.files.values().sum::<u64>() + in_parts.sum::<u64>()
    }
}

impl History {
    /// Watches the journals of `state`; keeps them in `kept`, which must lie on the same file
    /// system.
    ///
    /// # Panics
    /// If that directory cannot be made.
    #[must_use]
    pub fn new(state: &Path, kept: PathBuf) -> Self {
        fs::create_dir_all(&kept).expect("a directory can be made");
        Self { journals: state.join("journals"), kept, seen: HashSet::new() }
    }

    /// Looks for journals that it does not have yet.
    pub fn look(&mut self) {
        for entry in fs::read_dir(&self.journals).into_iter().flatten().flatten() {
            // It may already be gone.
            let Ok(metadata) = entry.metadata() else { continue };
            if self.seen.insert(metadata.ino()) {
                let number = self.seen.len();
                if fs::hard_link(entry.path(), self.kept.join(number.to_string())).is_err() {
                    self.seen.remove(&metadata.ino());
                }
            }
        }
    }

    /// What the existing journals report as stored.
    #[must_use]
    pub fn stored_now(&self) -> Stored {
        let mut stored = Stored::default();
        for entry in fs::read_dir(&self.journals).into_iter().flatten().flatten() {
            if let Ok(bytes) = fs::read(entry.path()) {
                read_into(&bytes, &mut stored).expect("no journal stores anything twice");
            }
        }
        stored
    }

    /// Makes sure that nothing was stored twice during the life of any journal.
    ///
    /// # Panics
    /// If something was; the message names it.
    pub fn assert_nothing_was_stored_twice(&mut self) {
        self.look();
        for entry in fs::read_dir(&self.kept).expect("the directory can be read").flatten() {
            let bytes = fs::read(entry.path()).expect("a journal can be read");
            if let Err(what) = read_into(&bytes, &mut Stored::default()) {
                panic!("{what}; the journal: {:#?}", records(&bytes).collect::<Vec<_>>());
            }
        }
    }
}

/// Reads a journal; an error if it shows that something already stored was stored again.
///
/// An attempt that continues a file begins it anew in the journal and repeats, at once, the chunks
/// that are known.
fn read_into(bytes: &[u8], stored: &mut Stored) -> Result<(), String> {
    let mut names = Vec::new();
    // What each beginning has to repeat.
    let mut to_repeat: Vec<HashSet<u64>> = Vec::new();
    for record in records(bytes) {
        match record {
            Record::Begun { name, bytes, chunk_bytes, token, .. } => {
                if stored.files.contains_key(&name) {
                    return Err(format!("a file of {bytes} bytes was begun again although it was stored"));
                }
                stored.begun.insert(name, (chunk_bytes, bytes));
                stored.tokens.insert(name, token);
                to_repeat.push(stored.chunks.iter().filter(|(of, _)| *of == name).map(|&(_, part)| part).collect());
                names.push(name);
            }
            Record::Chunk { file, part, .. } => {
                let name = names[file as usize];
                let is_repeated = to_repeat[file as usize].remove(&part);
                if !stored.chunks.insert((name, part)) && !is_repeated {
                    return Err(format!("chunk {part} of the file that was begun as number {file} was stored twice"));
                }
            }
            Record::Done { name, bytes, .. } => {
                let before = stored.files.insert(name, bytes);
                if before.is_some() {
                    return Err(format!("a file of {bytes} bytes was stored twice"));
                }
            }
            _ => {}
        }
    }
    match to_repeat.iter().position(|left| !left.is_empty()) {
        // A kill may have cut the repetition short; the next beginning repeats it.
        Some(number) if names[number + 1..].contains(&names[number]) => Ok(()),
        Some(number) if number + 1 < names.len() => {
            Err(format!("what was stored of the file that was begun as number {number} was forgotten"))
        }
        _ => Ok(()),
    }
}
