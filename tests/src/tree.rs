//! Trees of files: nasty ones to transfer, and thorough comparisons.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use crate::random::Random;

/// What a tree has under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Item {
    /// A file with these bytes.
    File(Vec<u8>),
    /// A directory.
    Directory,
    /// A symlink with this target.
    Symlink(PathBuf),
}

/// Whether something does not have its final name yet: it is temporary, or in a temporary
/// directory.
#[must_use]
pub fn is_temporary(name: &Path) -> bool {
    name.iter().any(|component| component.as_bytes().starts_with(b".culvert-partial-"))
}

/// Everything below a directory, by name.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn contents(root: &Path) -> BTreeMap<PathBuf, Item> {
    let mut items = BTreeMap::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory)).expect("the directory can be read") {
            let entry = entry.expect("the directory can be read");
            let name = directory.join(entry.file_name());
            let kind = entry.file_type().expect("the entry has a type");
            let item = if kind.is_dir() {
                directories.push(name.clone());
                Item::Directory
            } else if kind.is_symlink() {
                Item::Symlink(fs::read_link(entry.path()).expect("the symlink can be read"))
            } else {
                Item::File(fs::read(entry.path()).expect("the file can be read"))
            };
            items.insert(name, item);
        }
    }
    items
}

/// Checks that two trees are the same, byte for byte.
///
/// # Panics
/// If they are not; the message has the names that differ.
#[track_caller]
pub fn assert_same(expected: &Path, found: &Path) {
    let (expected, found) = (contents(expected), contents(found));
    let names = |tree: &BTreeMap<PathBuf, Item>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&expected), names(&found), "the names differ");
    for (name, item) in &expected {
        assert!(found[name] == *item, "{} differs", name.display());
    }
}

/// Checks that modes and times are the same too. The top directories are not compared.
///
/// # Panics
/// If they are not; the message has the name that differs.
#[track_caller]
pub fn assert_same_attributes(expected: &Path, found: &Path) {
    for (name, item) in contents(expected) {
        if matches!(item, Item::Symlink(_)) {
            continue;
        }
        let of = |root: &Path| {
            let metadata = fs::metadata(root.join(&name)).expect("the file has metadata");
            (metadata.mode() & 0o777, metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(of(expected), of(found), "{}", name.display());
    }
}

/// Names of the files that Culvert makes for itself, below a directory: none may remain.
///
/// # Panics
/// If the directory cannot be read.
#[must_use]
pub fn temporary_files(root: &Path) -> Vec<PathBuf> {
    contents(root).into_keys().filter(|name| is_temporary(name)).collect()
}

/// As [`temporary_files`], without reading the contents of files.
///
/// # Panics
/// If the directory cannot be read.
#[must_use]
pub fn temporary_files_of(root: &Path) -> Vec<PathBuf> {
    let (mut found, mut directories) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("the directory can be read").flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                directories.push(entry.path());
            }
            if is_temporary(Path::new(&entry.file_name())) {
                found.push(entry.path());
            }
        }
    }
    found
}

/// A tree with everything that a file system can hold and a careless program gets wrong: empty
/// files and directories, deep and wide directories, names that are not UTF-8 or contain newlines,
/// symlinks, sparse files, and sizes around those of chunks and pieces.
///
/// # Panics
/// If it cannot be made.
pub fn make_nasty(root: &Path, random: &mut Random) {
    fs::create_dir_all(root.join("deep/er/and/deeper/still")).expect("directories can be made");
    fs::create_dir(root.join("empty directory")).expect("directories can be made");
    let mut put = |name: &[u8], bytes: usize| {
        let content = random.bytes(bytes);
        fs::write(root.join(OsStr::from_bytes(name)), content).expect("files can be written");
    };
    for bytes in [0, 1, 4095, 4096, 4097, 65_536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1] {
        put(format!("of {bytes} bytes").as_bytes(), bytes);
    }
    for bytes in [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, (9 << 20) + 12_345] {
        put(format!("deep/er/of {bytes} bytes").as_bytes(), bytes);
    }
    for number in 0..300 {
        put(format!("deep/er/and/small-{number:03}").as_bytes(), number * 7);
    }
    put(b"not utf-8 \xff\xfe", 10);
    put(b"new\nline and \ttab", 11);
    put(b"-rf", 3);
    put("über ☃".as_bytes(), 20);
    put(&[b'n'; 255], 9);
    put(b"deep/er/and/deeper/still/a", 8);
    symlink("deep/er", root.join("link to a directory")).expect("symlinks can be made");
    symlink("../../of 1 bytes", root.join("deep/er/link up")).expect("symlinks can be made");
    symlink("nowhere", root.join("dangling")).expect("symlinks can be made");
    let mut sparse = File::create(root.join("sparse")).expect("files can be made");
    sparse.set_len(40 << 20).expect("a file can be extended");
    sparse.seek(SeekFrom::Start(17 << 20)).expect("files can be seeked");
    sparse.write_all(b"an island").expect("files can be written");
    fs::set_permissions(root.join("of 4096 bytes"), fs::Permissions::from_mode(0o640)).expect("modes can be set");
    fs::set_permissions(root.join("deep/er"), fs::Permissions::from_mode(0o750)).expect("modes can be set");
    let past = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    let file = File::options().write(true).open(root.join("of 4097 bytes")).expect("files can be opened");
    file.set_modified(past).expect("times can be set");
}

/// A directory of `files` files of up to `bytes_max` bytes.
///
/// # Panics
/// If it cannot be made.
pub fn make_flat(root: &Path, files: usize, bytes_max: u64, random: &mut Random) {
    fs::create_dir_all(root).expect("directories can be made");
    for number in 0..files {
        let bytes = random.below(bytes_max + 1) as usize;
        fs::write(root.join(format!("file-{number:06}")), random.bytes(bytes)).expect("files can be written");
    }
}
