//! Destinations whose file system takes different names to be the same: by case, by how a letter is
//! composed, by what it folds to.
//!
//! Two files of a transfer never silently become one: either nothing is sent, or the second fails
//! by name.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_tests::folding_disk::{self, FoldingDisk};
use culvert_tests::node::Pair;
use culvert_tests::program::is_root;
use culvert_tests::random::Random;
use culvert_tests::tree::{Item, contents, temporary_files};

/// A file system that folds, for as long as this lives.
enum Folding {
    Fuse(#[expect(dead_code, reason = "held until the end of the test")] FoldingDisk),
    Ext4(PathBuf),
}

impl Drop for Folding {
    fn drop(&mut self) {
        if let Self::Ext4(mounted) = self {
            let _ = Command::new("umount").arg(mounted).status();
        }
    }
}

/// ext4 with a directory that folds, if the kernel supports it.
fn ext4(room: &Path, mounted: &Path) -> Result<Folding, String> {
    if !is_root() {
        return Err("mounting a file system needs root".to_owned());
    }
    let image = room.join("folding.image");
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).map_err(|error| error.to_string())?;
    fs::create_dir_all(mounted).map_err(|error| error.to_string())?;
    let tool = |name: &str, arguments: &[&std::ffi::OsStr]| -> Result<(), String> {
        let ran = Command::new(name).args(arguments).output().map_err(|error| format!("{name}: {error}"))?;
        let said = String::from_utf8_lossy(&ran.stderr);
        if ran.status.success() { Ok(()) } else { Err(format!("{name}: {}", said.trim())) }
    };
    let words = |text: &'static str| text.split(' ').map(std::ffi::OsStr::new);
    let made: Vec<_> = words("-q -F -O casefold -E encoding=utf8").chain([image.as_os_str()]).collect();
    tool("mkfs.ext4", &made)?;
    tool("mount", &words("-o loop").chain([image.as_os_str(), mounted.as_os_str()]).collect::<Vec<_>>())?;
    let folding = Folding::Ext4(mounted.to_owned());
    fs::create_dir(mounted.join("shared")).map_err(|error| error.to_string())?;
    tool("chattr", &words("+F").chain([mounted.join("shared").as_os_str()]).collect::<Vec<_>>())?;
    Ok(folding)
}

/// Runs a test with each destination that is available here.
fn on_each(test: impl Fn(&Pair)) {
    let room = || tempfile::Builder::new().prefix("culvert-test-").tempdir().unwrap();
    match folding_disk::missing() {
        Some(why) => eprintln!("skipped: {why}"),
        None => {
            let room = room();
            // Declared before what is mounted in its room, so it is removed after that.
            let pair;
            let (there, shared) = (room.path().join("there"), room.path().join("shared"));
            let _folding = Folding::Fuse(FoldingDisk::new(&shared));
            fs::write(shared.join("Probe"), "x").unwrap();
            assert_eq!(fs::read_to_string(shared.join("pROBE")).unwrap(), "x", "the file system does not fold");
            fs::remove_file(shared.join("probe")).unwrap();
            pair = Pair::with(room, there, shared);
            test(&pair);
        }
    }
    let room = room();
    let pair;
    let mounted = room.path().join("ext4");
    match ext4(room.path(), &mounted) {
        Ok(_folding) => {
            let there = room.path().join("there");
            pair = Pair::with(room, there, mounted.join("shared"));
            test(&pair);
        }
        Err(why) => eprintln!("skipped: ext4 that folds: {why}"),
    }
}

/// Names that fold to the same, and a pair that does not.
const PAIRS: [(&str, &str, bool); 6] = [
    ("File", "file", true),
    ("caf\u{e9}", "cafe\u{301}", true),
    ("stra\u{df}e", "STRASSE", true),
    // Dotted capital I folds to a small i with a dot above it, dotless small i to nothing else.
    ("D\u{130}Z", "di\u{307}z", true),
    ("d\u{131}z", "diz", false),
    ("LARGE", "large", true),
];

fn make_pairs(source: &Path) {
    fs::create_dir(source).unwrap();
    for (number, (first, second, _)) in (0u64..).zip(PAIRS) {
        let bytes = if first == "LARGE" { 3 << 20 } else { 2_000 };
        fs::write(source.join(first), Random::new(2 * number).bytes(bytes)).unwrap();
        fs::write(source.join(second), Random::new(2 * number + 1).bytes(bytes)).unwrap();
    }
}

#[test]
fn of_two_names_that_a_file_system_folds_into_one_the_second_fails_by_name() {
    on_each(|pair| {
        let _node = pair.start();
        let source = pair.path("source");
        make_pairs(&source);
        let result = pair.send(&source.join(""), "in", &["--retries", "0"]).exits(6).json();
        let folded = PAIRS.iter().filter(|(_, _, folds)| *folds).count();
        assert_eq!(result["files"]["failed"], folded, "{result}");
        let failed: Vec<&str> =
            result["errors"].as_array().unwrap().iter().map(|error| error["path"].as_str().unwrap()).collect();
        assert!(result["errors"].as_array().unwrap().iter().all(|error| error["code"] == "collision"), "{result}");
        // None of those that failed has left its temporary name behind.
        assert_eq!(temporary_files(&pair.shared), Vec::<PathBuf>::new());
        // What is there is what was sent under the name that it has.
        let (sent, stored) = (contents(&source), contents(&pair.shared.join("in")));
        assert_eq!(stored.len(), 2 * PAIRS.len() - folded);
        for (name, item) in &stored {
            let text = name.to_str().unwrap();
            assert!(sent.get(name) == Some(item), "{text} is not what was sent");
            assert!(!failed.contains(&text), "{text} failed and is there");
        }
        for (first, second, folds) in PAIRS {
            let has = |name: &str| stored.contains_key(Path::new(name));
            assert_eq!(has(first) && has(second), !folds, "{first} and {second}");
        }
    });
}

/// Regression: the second replaced the first, and both were said to be stored.
#[test]
fn two_files_that_would_replace_the_same_are_refused_before_the_first_byte() {
    on_each(|pair| {
        let _node = pair.start();
        fs::create_dir(pair.shared.join("in")).unwrap();
        for (name, content) in [("FILE", "mine"), ("LaRgE", "mine too")] {
            fs::write(pair.shared.join("in").join(name), content).unwrap();
        }
        let before = contents(&pair.shared.join("in"));
        let source = pair.path("source");
        make_pairs(&source);
        for overwrite in ["always", "changed", "content"] {
            let ran = pair.send(&source.join(""), "in", &["--retries", "0", "--overwrite", overwrite]);
            ran.exits(1).says("folds names");
            assert_eq!(contents(&pair.shared.join("in")), before);
        }
        // One of each pair may replace what is there.
        for (_, second, folds) in PAIRS {
            if folds {
                fs::remove_file(source.join(second)).unwrap();
            }
        }
        pair.send(&source.join(""), "in", &["--retries", "0", "--overwrite", "always"]).exits(0);
        let stored = contents(&pair.shared.join("in"));
        let content = |of: &Path| {
            stored.iter().find(|(name, _)| name.as_os_str().as_bytes().eq_ignore_ascii_case(of.as_os_str().as_bytes()))
        };
        for (name, item) in contents(&source) {
            assert!(content(&name).is_some_and(|(_, stored)| *stored == item), "{}", name.display());
        }
    });
}

/// Regression: they became one, with the files of both.
#[test]
fn two_directories_that_a_file_system_folds_into_one_are_refused() {
    on_each(|pair| {
        let _node = pair.start();
        let source = pair.path("source");
        for name in ["Dir/a", "dir/b"] {
            let path = source.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        }
        let ran = pair.send(&source.join(""), "in", &["--retries", "0"]);
        ran.exits(1).says("another one of the transfer for the same");
        assert!(contents(&pair.shared).into_values().all(|item| item == Item::Directory));
        // Again, now that one of them is there.
        pair.send(&source.join(""), "in", &["--retries", "0"]).exits(1).says("folds names");
        fs::remove_dir_all(source.join("dir")).unwrap();
        pair.send(&source.join(""), "in", &["--retries", "0"]).exits(0);
        assert_eq!(fs::read_to_string(pair.shared.join("in/Dir/a")).unwrap(), "Dir/a");
    });
}
