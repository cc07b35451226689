//! A file in the page cache to a file on disk: hashed, synced, and named only when it is whole. The peers do less: they sync
//! nothing, and none but the engine verifies what it stored.

use std::path::Path;

use anyhow::ensure;

use crate::contest::{Contender, hold};
use crate::engine::Engine;
use crate::field::{CubicAllowed, Field, gigabits, write_random};
use crate::memory::again;
use crate::peers::{GridFtp, Security, Ssh, Xrootd};
use crate::table::{Bound, print};

/// The table.
pub fn run(gigabytes: u64, rounds: usize) -> anyhow::Result<()> {
    let _cubic = CubicAllowed::new();
    // The directory of the target folder is on disk wherever the sources are.
    let disk = culvert_tests::program::culvert().parent().unwrap_or(Path::new(".")).to_owned();
    let field = Field::new(9_000, &disk)?;
    let engine = Engine::start(&field);
    let bytes = gigabytes * 1_000_000_000;
    let source = field.path("source");
    write_random(&source, bytes)?;
    // In the page cache, and nothing left to be written back while others are measured.
    rustix::fs::fsync(std::fs::File::open(&source)?)?;
    std::io::copy(&mut std::fs::File::open(&source)?, &mut std::io::sink())?;
    let target = field.path("target");
    std::fs::create_dir(&target)?;
    std::fs::set_permissions(&target, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
    engine.permit(&target);
    let copy = target.join("copy");
    let expected = blake3_of(&source)?;
    let fresh = || {
        let _ = std::fs::remove_file(&copy);
        rustix::fs::sync();
    };
    let (ssh, xrootd) = (Ssh::start(&field), Xrootd::start(&field, &target));
    let (encrypted, plain) = (GridFtp::start(&field, Security::EncryptedData), GridFtp::start(&field, Security::Plain));
    let from = source.display().to_string();
    let to = copy.display().to_string();
    let contenders = vec![
        Contender {
            name: "engine".to_owned(),
            run: Box::new(|| {
                fresh();
                let (result, _) = engine.run(&["send", &from, &engine.destination(&copy)])?;
                ensure!(result["root_blake3"] == expected.as_str(), "the engine's hash is not the source's");
                ensure!(blake3_of(&copy)? == expected, "the copy differs");
                Ok(result["goodput_bps"].as_f64().unwrap_or(0.0) / 1e9)
            }),
        },
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
                Ok(gigabits(bytes, xrootd.as_ref().map_err(again)?.put(&source, &copy)?))
            }),
        },
        Contender {
            name: "GridFTP encrypted, 4 streams".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, encrypted.as_ref().map_err(again)?.put(&source, &to)?))
            }),
        },
        Contender {
            name: "GridFTP plain, 4 streams".to_owned(),
            run: Box::new(|| {
                fresh();
                Ok(gigabits(bytes, plain.as_ref().map_err(again)?.put(&source, &to)?))
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

fn blake3_of(path: &Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(std::fs::File::open(path)?)?;
    Ok(hasher.finalize().to_hex().to_string())
}
