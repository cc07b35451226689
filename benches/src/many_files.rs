//! 100,000 files of 4 KiB, from one memory file system to another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;

use crate::contest::{Contender, hold};
use crate::engine::Engine;
use crate::field::{CubicAllowed, Field};
use crate::memory::again;
use crate::peers::{GridFtp, Security, Ssh, Xrootd};
use crate::table::{Bound, print};

const FILES: u64 = 100_000;
const FILE_BYTES: usize = 4 << 10;
/// Files of a directory.
const DIRECTORY_FILES: u64 = 1_000;

const RSYNC: &str = "rsync -a over ssh, aes128-gcm";
const TAR: &str = "tar | ssh | tar, aes128-gcm";
const RCLONE: &str = "rclone copy over SFTP, 8 at once";
const XRDCP: &str = "xrdcp -r, TLS, 4 at once";
const GRIDFTP: &str = "GridFTP encrypted, pipelined, 8 at once";
const GRIDFTP_PLAIN: &str = "GridFTP plain, pipelined, 8 at once";

/// Prints the table.
pub fn run(rounds: usize) -> anyhow::Result<()> {
    let _cubic = CubicAllowed::new();
    let field = Field::new(9_000, Path::new("/dev/shm"))?;
    let engine = Engine::start(&field);
    let tree = &Tree::new(&field)?;
    let Tree { source, target } = tree;
    engine.permit(target);
    let (ssh, xrootd) = (Ssh::start(&field), Xrootd::start(&field, target));
    let (encrypted, plain) = (GridFtp::start(&field, Security::EncryptedData), GridFtp::start(&field, Security::Plain));
    let (from, to) = (format!("{}/", source.display()), target.display().to_string());
    let contender = |name: &str, copy: Box<dyn Fn() -> anyhow::Result<Duration>>| Contender {
        name: name.to_owned(),
        run: Box::new(move || tree.copied(&*copy)),
    };
    let contenders = vec![
        contender("engine", Box::new(|| tree.send(&engine))),
        contender(RSYNC, Box::new(|| ssh.as_ref().map_err(again)?.rsync(&["-a", &from], &to))),
        contender(TAR, Box::new(|| ssh.as_ref().map_err(again)?.tar(source, target))),
        contender(RCLONE, Box::new(|| ssh.as_ref().map_err(again)?.rclone(source, target))),
        contender(XRDCP, Box::new(|| xrootd.as_ref().map_err(again)?.put_all(source, target))),
        contender(GRIDFTP, Box::new(|| encrypted.as_ref().map_err(again)?.put_all(source, target))),
        contender(GRIDFTP_PLAIN, Box::new(|| plain.as_ref().map_err(again)?.put_all(source, target))),
    ];
    let scores = hold(contenders, rounds);
    let bound = |against, at_least| Bound { against, at_least };
    let others = [RCLONE, XRDCP, GRIDFTP, GRIDFTP_PLAIN].map(|against| bound(against, 1.0));
    let bounds = [[bound(RSYNC, 4.0), bound(TAR, 2.0)].as_slice(), &others].concat();
    print("100,000 files of 4 KiB, memory to memory, the whole command", "files/s", &scores, &bounds);
    Ok(())
}

/// The files, and the directory of their copies.
#[derive(Debug)]
pub struct Tree {
    source: PathBuf,
    target: PathBuf,
}

impl Tree {
    /// Makes the files in a field.
    pub fn new(field: &Field) -> anyhow::Result<Self> {
        let tree = Self { source: field.path("source"), target: field.path("target") };
        make_tree(&tree.source)?;
        make_target(&tree.target)?;
        Ok(tree)
    }

    /// The directory of the copies.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Sends all files with the engine; how long the whole command took.
    pub fn send(&self, engine: &Engine<'_>) -> anyhow::Result<Duration> {
        Ok(engine.send(&self.source.join(""), &self.target)?.1)
    }

    /// Lets a contender copy all into an empty target; files per second.
    pub fn copied(&self, copy: &dyn Fn() -> anyhow::Result<Duration>) -> anyhow::Result<f64> {
        std::fs::remove_dir_all(&self.target)?;
        make_target(&self.target)?;
        let took = copy()?;
        let count = files_below(&self.target)?;
        ensure!(count == FILES, "{count} of {FILES} files arrived");
        Ok(FILES as f64 / took.as_secs_f64())
    }
}

/// An empty directory that every peer's server may write.
fn make_target(target: &Path) -> anyhow::Result<()> {
    std::fs::create_dir(target)?;
    Ok(std::fs::set_permissions(target, std::os::unix::fs::PermissionsExt::from_mode(0o777))?)
}

/// The number of files below a directory.
fn files_below(root: &Path) -> anyhow::Result<u64> {
    let (mut count, mut directories) = (0, vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() { directories.push(entry.path()) } else { count += 1 }
        }
    }
    Ok(count)
}

fn make_tree(root: &Path) -> anyhow::Result<()> {
    let mut content = blake3::Hasher::new().update(b"small files").finalize_xof();
    let mut bytes = vec![0; FILE_BYTES];
    for number in 0..FILES {
        let directory = root.join(format!("directory-{:03}", number / DIRECTORY_FILES));
        if number % DIRECTORY_FILES == 0 {
            std::fs::create_dir_all(&directory)?;
        }
        content.fill(&mut bytes);
        std::fs::write(directory.join(format!("file-{number:06}")), &bytes)?;
    }
    Ok(())
}
