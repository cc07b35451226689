//! Small kernel files below a root. Tests use a folder in place of `/`.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use culvert_system::regular_file::{Links, open_flags};

/// The largest file that is read: `/proc/cpuinfo` of a host with a thousand CPUs has two megabytes.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// How many folders a search for a PCI device climbs.
const CLIMB_MAX: usize = 12;

/// Files below a root. Paths are absolute, as on the host.
#[derive(Clone, Debug)]
pub struct FileTree {
    root: PathBuf,
}

impl FileTree {
    /// The files of this host (`/`), or a copy of them in a folder.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Whether this is the host's own tree.
    #[must_use]
    pub fn is_host(&self) -> bool {
        self.root == Path::new("/")
    }

    /// The place of a host's path in this tree.
    #[must_use]
    pub fn place(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The whole content.
    ///
    /// # Errors
    /// The file system's; content that is not UTF-8 is replaced, not refused.
    pub fn read(&self, path: &str) -> io::Result<String> {
        Ok(String::from_utf8_lossy(&self.read_bytes(path)?).into_owned())
    }

    /// The whole content as bytes.
    ///
    /// # Errors
    /// The file system's.
    pub fn read_bytes(&self, path: &str) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        // Not blocking: a pipe in place of the file then reads as empty.
        let mut options = fs::OpenOptions::new();
        options.read(true).custom_flags(open_flags(Links::Followed));
        options.open(self.place(path))?.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The content without the blanks around it; `None` if it cannot be read or is empty.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let text = self.read(path).ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// A file that is one number.
    #[must_use]
    pub fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Reads a file that lists words and marks the active one: `none [mq-deadline] kyber`. Returns
    /// the active one, and all.
    #[must_use]
    pub fn choice(&self, path: &str) -> Option<(Option<String>, Vec<String>)> {
        let text = self.text(path)?;
        let chosen = text.split_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
        let all = text.split_whitespace().map(|word| word.trim_matches(['[', ']']).to_owned()).collect();
        Some((chosen.map(str::to_owned), all))
    }

    /// Writes an existing kernel file in one call, as sysfs requires.
    ///
    /// # Errors
    /// The kernel's.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).truncate(true).open(self.place(path))?;
        let written = file.write(text.as_bytes())?;
        if written < text.len() {
            return Err(io::Error::other(format!("the kernel took {written} of {} bytes", text.len())));
        }
        Ok(())
    }

    /// Whether this path exists.
    #[must_use]
    pub fn exists(&self, path: &str) -> bool {
        self.place(path).exists()
    }

    /// The names in a folder, numbers in them sorted by value; empty if the folder does not exist.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.place(path)) else { return Vec::new() };
        let mut names: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort_by_cached_key(|name| natural_key(name));
        names
    }

    /// The last part of what a symbolic link points to.
    #[must_use]
    pub fn link_name(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.place(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The path with all symbolic links resolved, as a path of the host.
    #[must_use]
    pub fn resolve(&self, path: &str) -> Option<String> {
        let real = fs::canonicalize(self.place(path)).ok()?;
        let root = fs::canonicalize(&self.root).ok()?;
        Some(format!("/{}", real.strip_prefix(root).ok()?.to_str()?))
    }

    /// The directory of the PCI device that something in sysfs belongs to: the nearest one above
    /// with a PCI class.
    #[must_use]
    pub fn pci_device(&self, path: &str) -> Option<String> {
        let mut folder = self.resolve(path)?;
        for _ in 0..CLIMB_MAX {
            if self.link_name(&format!("{folder}/subsystem")).as_deref() == Some("pci") {
                return Some(folder);
            }
            folder = folder.rsplit_once('/')?.0.to_owned();
            if folder.is_empty() {
                return None;
            }
        }
        None
    }
}

/// Splits a name into texts and numbers, so that `rx-10` sorts after `rx-9`.
fn natural_key(name: &str) -> Vec<(String, u64)> {
    let mut key = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits_at = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, tail) = rest.split_at(digits_at);
        let digits_end = tail.find(|c: char| !c.is_ascii_digit()).unwrap_or(tail.len());
        let (digits, tail) = tail.split_at(digits_end);
        key.push((text.to_owned(), digits.parse().unwrap_or(0)));
        rest = tail;
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, FileTree) {
        let folder = tempfile::tempdir().unwrap();
        let tree = FileTree::new(folder.path());
        (folder, tree)
    }

    #[test]
    fn names_come_in_the_order_of_their_numbers() {
        let (folder, tree) = tree();
        for name in ["rx-10", "rx-9", "tx-1", "rx-0"] {
            fs::create_dir_all(folder.path().join("queues").join(name)).unwrap();
        }
        assert_eq!(tree.names("/queues"), ["rx-0", "rx-9", "rx-10", "tx-1"]);
        assert!(tree.names("/nothing").is_empty());
    }

    #[test]
    fn the_chosen_word_is_found() {
        let (folder, tree) = tree();
        fs::write(folder.path().join("scheduler"), "none [mq-deadline] kyber\n").unwrap();
        let (chosen, all) = tree.choice("/scheduler").unwrap();
        assert_eq!(chosen.as_deref(), Some("mq-deadline"));
        assert_eq!(all, ["none", "mq-deadline", "kyber"]);
    }

    #[test]
    fn writing_never_creates_a_file() {
        let (_folder, tree) = tree();
        assert_eq!(tree.write("/no", "1").unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
