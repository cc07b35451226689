//! The spool of documents waiting for the archive: files in a directory, delivered in the order of
//! their names, bounded in number and bytes. When the spool is full the oldest are dropped.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// A spool.
#[derive(Debug)]
pub struct Spool {
    directory: PathBuf,
    documents_max: usize,
    bytes_max: u64,
    dropped: AtomicU64,
}

impl Spool {
    /// A spool in `directory`, which is created if it is missing.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(directory: PathBuf, documents_max: usize, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
        Ok(Self { directory, documents_max: documents_max.max(1), bytes_max, dropped: AtomicU64::new(0) })
    }

    /// Names of the waiting documents, the oldest first, with their bytes.
    fn waiting(&self) -> io::Result<Vec<(String, u64)>> {
        let mut waiting = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            // This program puts only files there: anything else is ignored.
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if let Some(name) = entry.file_name().to_str().filter(|name| is_file && name.ends_with(".json")) {
                waiting.push((name.to_owned(), entry.metadata().map_or(0, |metadata| metadata.len())));
            }
        }
        waiting.sort();
        Ok(waiting)
    }

    /// The number of waiting documents, and their bytes.
    #[must_use]
    pub fn usage(&self) -> (usize, u64) {
        let waiting = self.waiting().unwrap_or_default();
        (waiting.len(), waiting.iter().map(|(_, bytes)| bytes).sum())
    }

    /// The number of waiting documents.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting().map_or(0, |waiting| waiting.len())
    }

    /// Whether no document waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The number of documents dropped since the spool was opened.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Adds a document, and drops the oldest if there is no room.
    ///
    /// # Errors
    /// The operating system's, or if the document alone exceeds the spool.
    pub fn add(&self, at_unix_ms: u64, id: &str, document: &[u8]) -> io::Result<()> {
        if document.len() as u64 > self.bytes_max {
            return Err(io::Error::other(format!(
                "a document of {} bytes exceeds the spool of {}",
                document.len(),
                self.bytes_max
            )));
        }
        let mut waiting = self.waiting()?;
        let mut bytes: u64 = waiting.iter().map(|(_, bytes)| bytes).sum();
        while !waiting.is_empty()
            && (waiting.len() >= self.documents_max || bytes + document.len() as u64 > self.bytes_max)
        {
            let (name, size) = waiting.remove(0);
            bytes -= size;
            self.drop_document(&name);
        }
        // Invariant I-archive-spool: A document is added to the spool only if the spool then holds
        // no more documents and bytes than it may.
        assert!(
            waiting.len() < self.documents_max && bytes + document.len() as u64 <= self.bytes_max,
            "a document is added to a full spool"
        );
        let path = self.directory.join(format!("{at_unix_ms:015}-{id}.json"));
        let temporary = path.with_extension("part");
        // A crash may have left one, or somebody may have placed a link there.
        let _ = fs::remove_file(&temporary);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(document).and_then(|()| file.sync_all())?;
        fs::rename(&temporary, &path)
    }

    /// The oldest document.
    ///
    /// # Errors
    /// The operating system's.
    pub fn oldest(&self) -> io::Result<Option<(String, Vec<u8>)>> {
        for (name, _) in self.waiting()? {
            match fs::read(self.directory.join(&name)) {
                Ok(document) => return Ok(Some((name, document))),
                // Another process delivered it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Removes a delivered document.
    pub fn remove(&self, name: &str) {
        let _ = fs::remove_file(self.directory.join(name));
    }

    /// Removes and counts a document that cannot be delivered.
    pub fn drop_document(&self, name: &str) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
        self.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_delivered_in_order_and_the_oldest_are_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path().join("spool"), 3, 1_000).unwrap();
        for (at, text) in [(2, "two"), (1, "one"), (10, "ten")] {
            spool.add(at, "id", text.as_bytes()).unwrap();
        }
        assert_eq!(spool.oldest().unwrap().unwrap().1, b"one");
        spool.add(11, "id", b"eleven").unwrap();
        assert_eq!((spool.oldest().unwrap().unwrap().1, spool.len(), spool.dropped()), (b"two".to_vec(), 3, 1));
        spool.add(12, "id", &[b'x'; 995]).unwrap();
        assert_eq!((spool.len(), spool.dropped()), (1, 4));
        assert!(spool.add(13, "id", &[b'x'; 1_001]).is_err());
        let (name, _) = spool.oldest().unwrap().unwrap();
        spool.remove(&name);
        assert!(spool.is_empty());
    }

    /// Regression: a socket that sorts before the documents was opened first, and blocked delivery.
    #[test]
    fn anything_but_files_among_the_documents_is_ignored() {
        let directory = tempfile::tempdir().unwrap();
        let spool = Spool::open(directory.path().to_owned(), 3, 1_000).unwrap();
        let names = ["000000000000001-socket.json", "000000000000002-id.part"];
        let _sockets = names.map(|name| std::os::unix::net::UnixListener::bind(directory.path().join(name)).unwrap());
        spool.add(2, "id", b"two").unwrap();
        assert_eq!((spool.oldest().unwrap().unwrap().1, spool.len()), (b"two".to_vec(), 1));
    }
}
