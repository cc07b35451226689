//! 100,000 files of 4 KiB, from one memory file system to another.

use anyhow::ensure;

use crate::contest::{Contender, hold};
use crate::engine::Engine;
use crate::field::{CubicAllowed, Field};
use crate::memory::again;
use crate::peers::Ssh;
use crate::table::{Bound, print};

const FILES: u64 = 100_000;
const FILE_BYTES: usize = 4 << 10;
/// Files of a directory.
const DIRECTORY_FILES: u64 = 1_000;

/// The table.
pub fn run(rounds: usize) -> anyhow::Result<()> {
    let _cubic = CubicAllowed::new();
    let field = Field::new(9_000, std::path::Path::new("/dev/shm"))?;
    let engine = Engine::start(&field);
    let (source, target) = (field.path("source"), field.path("target"));
    make_tree(&source)?;
    std::fs::create_dir(&target)?;
    engine.permit(&target);
    let ssh = Ssh::start(&field);
    let fresh = || -> anyhow::Result<()> {
        std::fs::remove_dir_all(&target)?;
        std::fs::create_dir(&target)?;
        Ok(())
    };
    let all_there = || -> anyhow::Result<()> {
        let mut count = 0;
        for directory in std::fs::read_dir(&target)?.flatten() {
            count += std::fs::read_dir(directory.path())?.count() as u64;
        }
        ensure!(count == FILES, "{count} files came");
        Ok(())
    };
    let (from, to) = (format!("{}/", source.display()), target.display().to_string());
    let contenders = vec![
        Contender {
            name: "engine".to_owned(),
            run: Box::new(|| {
                fresh()?;
                let (_, took) = engine.run(&["send", &from, &engine.destination(&target)])?;
                all_there()?;
                Ok(FILES as f64 / took.as_secs_f64())
            }),
        },
        Contender {
            name: "rsync -a over ssh, aes128-gcm".to_owned(),
            run: Box::new(|| {
                fresh()?;
                let took = ssh.as_ref().map_err(again)?.rsync(&["-a", &from], &to)?;
                all_there()?;
                Ok(FILES as f64 / took.as_secs_f64())
            }),
        },
        Contender {
            name: "tar | ssh | tar, aes128-gcm".to_owned(),
            run: Box::new(|| {
                fresh()?;
                let took = ssh.as_ref().map_err(again)?.tar(&source, &target)?;
                all_there()?;
                Ok(FILES as f64 / took.as_secs_f64())
            }),
        },
    ];
    let scores = hold(contenders, rounds);
    let bounds = [
        Bound { against: "rsync -a over ssh, aes128-gcm", at_least: 3.0 },
        Bound { against: "tar | ssh | tar, aes128-gcm", at_least: 1.5 },
    ];
    print("100,000 files of 4 KiB, memory to memory, the whole command", "files/s", &scores, &bounds);
    Ok(())
}

fn make_tree(root: &std::path::Path) -> anyhow::Result<()> {
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
