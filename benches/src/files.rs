//! A file in the page cache to a file on disk. The engine hashes and syncs it, and gives it its
//! name when it is complete. The peers do less: none syncs, and none verifies what it stored.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::contest::{Contender, hold};
use crate::engine::Engine;
use crate::field::{CubicAllowed, Field, gigabits, write_random};
use crate::memory::again;
use crate::peers::{GridFtp, Security, Ssh, Xrootd};
use crate::table::{Bound, print};

/// Prints the table.
pub fn run(gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let _cubic = CubicAllowed::new();
    let field = Field::new(9_000, &disk()?)?;
    let engine = Engine::start(&field);
    let bytes = gigabytes * 1_000_000_000;
    let file = LargeFile::new(&field, bytes)?;
    let LargeFile { source, target, copy, .. } = &file;
    engine.permit(target);
    let fresh = || file.forget_copy();
    let (ssh, xrootd) = (Ssh::start(&field), Xrootd::start(&field, target));
    let (encrypted, plain) = (GridFtp::start(&field, Security::EncryptedData), GridFtp::start(&field, Security::Plain));
    let from = source.display().to_string();
    let to = copy.display().to_string();
    let contenders = vec![
        Contender { name: "engine".to_owned(), run: Box::new(|| file.send(&engine)) },
        Contender {
            name: "the disk: direct sequential write, synced".to_owned(),
            run: Box::new(|| {
                fresh();
                let size = format!("{gigabytes}G");
                let (out, _) = field.run(
                    &culvert_tests::program::culvert().display().to_string(),
                    &["bench", "disk", &target.display().to_string(), "--size", &size, "--json"],
                )?;
                let result: serde_json::Value = serde_json::from_str(&out)?;
                Ok(result["write_bits_per_second"].as_f64().unwrap_or(0.0) / 1e9)
            }),
        },
        Contender {
            name: "scp, aes128-gcm".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, ssh.as_ref().map_err(again)?.scp(&from, &to)?))
            }),
        },
        Contender {
            name: "rsync -W over ssh, aes128-gcm".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, ssh.as_ref().map_err(again)?.rsync(&["-W", "--ignore-times", &from], &to)?))
            }),
        },
        Contender {
            name: "xrdcp, TLS".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, xrootd.as_ref().map_err(again)?.put(source, copy)?))
            }),
        },
        Contender {
            name: "GridFTP encrypted, 4 streams".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, encrypted.as_ref().map_err(again)?.put(source, &to)?))
            }),
        },
        Contender {
            name: "GridFTP plain, 4 streams".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, plain.as_ref().map_err(again)?.put(source, &to)?))
            }),
        },
    ];
    let scores = hold(contenders, rounds);
    let bounds = [
        Bound { against: "the disk: direct sequential write, synced", at_least: 0.85 },
        Bound { against: "scp, aes128-gcm", at_least: 4.0 },
        Bound { against: "rsync -W over ssh, aes128-gcm", at_least: 3.5 },
        Bound { against: "xrdcp, TLS", at_least: 2.0 },
        Bound { against: "GridFTP encrypted, 4 streams", at_least: 2.0 },
        Bound { against: "GridFTP plain, 4 streams", at_least: 1.2 },
    ];
    print(&format!("A file of {gigabytes} GB in the page cache to disk"), "Gb/s", &scores, &bounds);
    Ok(())
}

/// A directory on disk: that of this program, in the target folder.
///
/// # Errors
/// If this program does not know its file.
pub fn disk() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    Ok(this.parent().context("a program lies in a directory")?.to_owned())
}

/// A file in the page cache, and the path of its copy.
#[derive(Debug)]
pub struct LargeFile {
    source: PathBuf,
    target: PathBuf,
    copy: PathBuf,
    root_blake3: String,
}

impl LargeFile {
    /// Makes the file in a field.
    pub fn new(field: &Field, bytes: u64) -> anyhow::Result<Self> {
        let [source, target] = ["source", "target"].map(|name| field.path(name));
        write_random(&source, bytes)?;
        // Reads it into the page cache. Nothing may be left to write back during measurements.
        rustix::fs::fsync(std::fs::File::open(&source)?)?;
        std::io::copy(&mut std::fs::File::open(&source)?, &mut std::io::sink())?;
        std::fs::create_dir(&target)?;
        std::fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let root_blake3 = blake3_of(&source)?;
        Ok(Self { copy: target.join("copy"), source, target, root_blake3 })
    }

    /// The directory of the copy.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Removes the copy, and waits until the disk is idle.
    fn forget_copy(&self) {
        let _ = std::fs::remove_file(&self.copy);
        rustix::fs::sync();
    }

    /// Sends the file with the engine and verifies the copy; Gb/s.
    pub fn send(&self, engine: &Engine<'_>) -> anyhow::Result<f64> {
        self.forget_copy();
        let (result, _) = engine.send(&self.source, &self.copy)?;
        ensure!(result["root_blake3"] == self.root_blake3.as_str(), "the engine's hash is not the source's");
        ensure!(blake3_of(&self.copy)? == self.root_blake3, "the copy differs");
        Ok(result["goodput_bps"].as_f64().context("no goodput")? / 1e9)
    }
}

fn blake3_of(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
