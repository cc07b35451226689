//! A store of objects in memory: the smallest thing that a transfer can read from and write to, and
//! as unlike a directory as a bucket is. It has no descriptors, inodes or modes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use culvert_objects::sink::{ObjectSink, PartWriter};
use culvert_objects::source::{
    ListingTerms, ObjectSource, OpenedSource, RangeReader, SourceContent, SourceListing, SourceTree, Sources, Version,
};
use culvert_protocol::control::{FileError, Options, Overwrite, Refusal, RefusalCode, encode_entry};
use culvert_protocol::dry_run::Fate;
use culvert_protocol::manifest::{Entry, EntryKind, FileTime, Manifest};
use culvert_protocol::tree_hash::ChunkHash;

/// An object's bytes, and its version.
#[derive(Clone, Debug, Default)]
struct Object {
    bytes: Arc<Vec<u8>>,
    version: u64,
}

#[derive(Debug, Default)]
struct Objects {
    by_name: BTreeMap<Vec<u8>, Object>,
    /// Objects that can neither be read to their end nor stored.
    broken: BTreeSet<Vec<u8>>,
    /// Objects that change when their first range is read.
    restless: BTreeSet<Vec<u8>>,
    /// Objects whose parts were given up.
    abandoned: Vec<Vec<u8>>,
}

/// The store.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore(Arc<Mutex<Objects>>);

impl MemoryStore {
    fn lock(&self) -> MutexGuard<'_, Objects> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object in.
    pub fn insert(&self, name: &str, bytes: Vec<u8>) {
        self.lock().insert(name.as_bytes(), bytes);
    }

    /// From now on the object can neither be read to its end nor stored.
    pub fn break_object(&self, name: &str) {
        self.lock().broken.insert(name.as_bytes().to_vec());
    }

    /// The object changes as soon as it is read.
    pub fn change_when_read(&self, name: &str) {
        self.lock().restless.insert(name.as_bytes().to_vec());
    }

    /// Everything in it.
    #[must_use]
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let name = |name: &[u8]| String::from_utf8_lossy(name).into_owned();
        self.lock().by_name.iter().map(|(key, object)| (name(key), object.bytes.to_vec())).collect()
    }

    /// Objects whose parts were given up.
    #[must_use]
    pub fn abandoned(&self) -> Vec<String> {
        self.lock().abandoned.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect()
    }
}

impl Objects {
    fn insert(&mut self, name: &[u8], bytes: Vec<u8>) {
        let version = self.by_name.get(name).map_or(1, |object| object.version + 1);
        self.by_name.insert(name.to_vec(), Object { bytes: Arc::new(bytes), version });
    }
}

fn file_error(manifest: &Manifest, file: u32, code: &str) -> FileError {
    let name = String::from_utf8_lossy(manifest.entry(file).name).into_owned();
    FileError { file, code: code.to_owned(), text: format!("'{name}' is {code} in the store") }
}

impl Sources for MemoryStore {
    fn list(self: Box<Self>, terms: ListingTerms<'_>) -> Result<SourceTree, Refusal> {
        let mut listing = SourceListing::default();
        let (mut part, mut directories) = (Vec::new(), BTreeSet::new());
        for (name, object) in &self.lock().by_name {
            // A receiver with directories creates them from entries.
            let slashes = name.iter().enumerate().filter(|&(_, &byte)| byte == b'/');
            let new = slashes.map(|(at, _)| &name[..at]).filter(|above| directories.insert(above.to_vec()));
            let above = new.map(|name| (name.to_vec(), EntryKind::Directory, 0o755)).collect::<Vec<_>>();
            let bytes = object.bytes.len() as u64;
            let all = above.into_iter().chain([(name.clone(), EntryKind::File { bytes, is_sparse: false }, 0o644)]);
            for (name, kind, mode) in all {
                let modified = FileTime { seconds: 1_000_000_000, nanoseconds: 0 };
                let entry = Entry { name: &name, kind, target: b"", mode, modified };
                if !(terms.may_take)(name.len()) {
                    return Err(Refusal::new(RefusalCode::Temporary, "the store lists more than there is memory for"));
                }
                let pushed = listing.manifest.push(&entry);
                pushed.map_err(|error| Refusal::new(RefusalCode::Failed, error.to_string()))?;
                encode_entry(&entry, &mut part);
            }
            listing.allocated_bytes += bytes;
        }
        if !part.is_empty() && !(terms.on_part)(part) {
            return Err(Refusal::new(RefusalCode::Temporary, "the listing is not wanted any more"));
        }
        Ok(SourceTree { listing, content: self, held: None })
    }
}

#[derive(Debug)]
struct MemoryReader {
    store: MemoryStore,
    name: Vec<u8>,
    bytes: Arc<Vec<u8>>,
}

impl RangeReader for MemoryReader {
    fn read(&self, offset: u64, place: &mut [u8]) -> Result<(), String> {
        let mut objects = self.store.lock();
        let begin = usize::try_from(offset).map_err(|_| "no such range".to_owned())?;
        if objects.broken.contains(&self.name) && begin > 0 {
            return Err("the store has lost the rest of it".to_owned());
        }
        if objects.restless.remove(&self.name) {
            let changed = self.bytes.iter().map(|byte| !byte).collect();
            objects.insert(&self.name.clone(), changed);
        }
        let range = self.bytes.get(begin..begin + place.len()).ok_or("the object has ended")?;
        place.copy_from_slice(range);
        Ok(())
    }
}

impl ObjectSource for MemoryStore {
    fn open(&self, manifest: &Manifest, file: u32, earlier: Option<&Version>) -> Result<OpenedSource, FileError> {
        let name = manifest.entry(file).name.to_vec();
        let object = self.lock().by_name.get(&name).cloned();
        let object = object.ok_or_else(|| file_error(manifest, file, "vanished"))?;
        if earlier.and_then(Version::mark).is_some_and(|earlier: &u64| *earlier != object.version) {
            return Err(file_error(manifest, file, "changed"));
        }
        let reader = MemoryReader { store: self.clone(), name, bytes: object.bytes };
        Ok(OpenedSource { content: SourceContent::Ranges(Arc::new(reader)), version: Version::new(object.version) })
    }

    fn check(
        &self,
        manifest: &Manifest,
        file: u32,
        opened: Option<&OpenedSource>,
        _hash: Option<ChunkHash>,
    ) -> Result<(), FileError> {
        let now = self.lock().by_name.get(manifest.entry(file).name).map(|object| object.version);
        let then = opened.and_then(|opened| opened.version.mark::<u64>()).copied();
        if now.is_some() && then.is_none_or(|then| now == Some(then)) {
            return Ok(());
        }
        Err(file_error(manifest, file, "changed"))
    }

    fn read_whole(&self, manifest: &Manifest, file: u32, place: &mut [u8]) -> Result<(), FileError> {
        let objects = self.lock();
        let name = manifest.entry(file).name;
        let object = objects.by_name.get(name).ok_or_else(|| file_error(manifest, file, "vanished"))?;
        if objects.broken.contains(name) || object.bytes.len() != place.len() {
            return Err(file_error(manifest, file, "unreadable"));
        }
        place.copy_from_slice(&object.bytes);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryParts {
    store: MemoryStore,
    name: Vec<u8>,
    bytes: Mutex<Vec<u8>>,
}

impl PartWriter for MemoryParts {
    fn write(&self, offset: u64, bytes: &[u8]) -> Result<(), String> {
        if self.store.lock().broken.contains(&self.name) {
            return Err("the store is out of room".to_owned());
        }
        let mut held = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let begin = usize::try_from(offset).map_err(|_| "no such range".to_owned())?;
        let place = held.get_mut(begin..begin + bytes.len()).ok_or("a part lies beyond the object's end")?;
        place.copy_from_slice(bytes);
        Ok(())
    }

    fn commit(&self, hash: Option<ChunkHash>) -> Result<(), String> {
        let bytes = std::mem::take(&mut *self.bytes.lock().unwrap_or_else(PoisonError::into_inner));
        if hash.is_some_and(|hash| hash != *blake3::hash(&bytes).as_bytes()) {
            return Err("its hash is not that of its parts".to_owned());
        }
        self.store.lock().insert(&self.name, bytes);
        Ok(())
    }

    fn abandon(&self) {
        self.store.lock().abandoned.push(self.name.clone());
    }
}

impl ObjectSink for MemoryStore {
    fn plan(&self, manifest: &Manifest, options: &Options) -> Result<Vec<Fate>, Refusal> {
        let objects = self.lock();
        let fate = |entry: Entry<'_>| match (entry.kind, objects.by_name.contains_key(entry.name), options.overwrite) {
            // It has no directories.
            (EntryKind::Directory, ..) => Fate::Same,
            (_, false, _) => Fate::New,
            (_, true, Overwrite::Never) => Fate::CollidesInTime,
            (_, true, _) => Fate::ReplacedAlways,
        };
        Ok(manifest.entries().map(|(_, entry)| fate(entry)).collect())
    }

    fn begin(&self, manifest: &Manifest, file: u32) -> Result<Arc<dyn PartWriter>, FileError> {
        let bytes = usize::try_from(manifest.file_bytes(file).unwrap_or(0)).unwrap_or(0);
        let name = manifest.entry(file).name.to_vec();
        Ok(Arc::new(MemoryParts { store: self.clone(), name, bytes: Mutex::new(vec![0; bytes]) }))
    }

    fn put(&self, manifest: &Manifest, file: u32, bytes: &[u8]) -> Result<(), FileError> {
        let mut objects = self.lock();
        let name = manifest.entry(file).name;
        if objects.broken.contains(name) {
            return Err(file_error(manifest, file, "unwritable"));
        }
        objects.insert(name, bytes.to_vec());
        Ok(())
    }
}
