//! What an attempt leaves under temporary names, and what has taken the place of something it left:
//! removed, continued or sent again, and never anything of somebody else's.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use culvert_tests::journals::{is_chunk, journals, wait_for_records};
use culvert_tests::node::{Pair, kill, signal_process, wait_for};
use culvert_tests::program::{Ran, command, is_installed, is_root};
use culvert_tests::random::Random;
use culvert_tests::state_disk::{StateDisk, missing};
use culvert_tests::tree::temporary_files_of;
use rustix::fs::{FileType, Mode};
use rustix::process::Signal;

/// Everything below one directory is already there, and the sources no longer have the other.
#[test]
fn what_an_attempt_left_in_directories_that_are_left_out_is_removed_and_nothing_else() {
    for has_more in [true, false] {
        let pair = Pair::new();
        let node = pair.start();
        let source = pair.path("source");
        let mut random = Random::new(14);
        for name in ["1-there/large", "2-gone/deep/er/large", "2-gone/large"] {
            fs::create_dir_all(source.join(name).parent().unwrap()).unwrap();
            fs::write(source.join(name), random.bytes(8 << 20)).unwrap();
        }
        fs::create_dir_all(source.join("2-gone/deep/filled")).unwrap();
        for number in 0..100 {
            fs::write(source.join(format!("2-gone/deep/filled/{number}")), random.bytes(150_000)).unwrap();
        }
        let there = pair.shared.join("in");
        let mut sending = command(&pair.here, ["send", "--retries", "0", "--rate", "60M", "--flows", "12"]);
        sending.arg(source.join("")).arg(format!("second:{}", there.display()));
        let child = sending.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let directories = ["1-there", "2-gone", "2-gone/deep", "2-gone/deep/er"];
        wait_for("something temporary in each directory", || {
            let temporary = if there.exists() { temporary_files_of(&there) } else { Vec::new() };
            let is_in = |directory: &&str| temporary.iter().any(|path| path.parent() == Some(&there.join(directory)));
            directories.iter().all(is_in).then_some(())
        });
        node.kill();
        kill(child.id());
        child.wait_with_output().unwrap();
        let temporary = temporary_files_of(&there);
        assert!(temporary.len() >= directories.len(), "the node died too late: {temporary:?}");
        // Everything in the first has arrived by other means.
        let (from, to) = (source.join("1-there/large"), there.join("1-there/large"));
        fs::copy(&from, &to).unwrap();
        let time = fs::metadata(&from).unwrap().modified().unwrap();
        fs::File::options().write(true).open(&to).unwrap().set_modified(time).unwrap();
        fs::remove_dir_all(source.join("2-gone")).unwrap();
        if has_more {
            fs::write(source.join("3-new"), "new").unwrap();
        }
        // Somebody else's: files, and what another partner's transfer has under way.
        let of_others: Vec<PathBuf> = directories
            .iter()
            .flat_map(|directory| {
                let directory = there.join(directory);
                ["a file", ".culvert-partial-0123456789abcdef01234567", ".culvert-partial-short"]
                    .map(|name| directory.join(name))
            })
            .collect();
        for path in &of_others {
            fs::write(path, "somebody's").unwrap();
        }
        let _node = pair.start();
        let ran = pair.send(&source.join(""), "in", &["--retries", "5"]);
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(ran.json()["files"]["stored"], u32::from(has_more), "{ran:?}");
        for path in &of_others {
            assert_eq!(fs::read(path).unwrap(), b"somebody's");
            fs::remove_file(path).unwrap();
        }
        assert_eq!(temporary_files_of(&there), [] as [PathBuf; 0], "{has_more}");
        assert_eq!(journals(&pair.there), [], "{has_more}");
    }
}

/// Sends `source` slowly to `copy`, and dies once some of its chunks are in the journal. Returns
/// the partial file.
fn interrupt_in_the_middle(pair: &Pair, source: &Path) -> PathBuf {
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let mut sending = command(&pair.here, ["send", "--retries", "0", "--rate", "40M"]);
    sending.arg(source).arg(destination).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = sending.spawn().unwrap();
    wait_for_records(&pair.there, "chunks in the journal", |records| records.iter().any(is_chunk));
    kill(child.id());
    child.wait().unwrap();
    let temporary = temporary_files_of(&pair.shared);
    let [partial] = temporary.as_slice() else { panic!("not exactly one partial file: {temporary:?}") };
    partial.clone()
}

/// Puts something else in place of a partial file.
type Change = fn(partial: &Path, victim: &Path);

const CHANGES: [(&str, Change); 8] = [
    ("a directory", |partial, _| {
        fs::remove_file(partial).unwrap();
        fs::create_dir(partial).unwrap();
    }),
    ("a pipe", |partial, _| {
        fs::remove_file(partial).unwrap();
        make_pipe(partial);
    }),
    ("a symlink to another file", |partial, victim| {
        fs::remove_file(partial).unwrap();
        symlink(victim, partial).unwrap();
    }),
    ("another name of another file", |partial, victim| {
        fs::remove_file(partial).unwrap();
        fs::hard_link(victim, partial).unwrap();
    }),
    ("a copy", |partial, _| {
        let copy = partial.with_extension("copy");
        fs::copy(partial, &copy).unwrap();
        fs::rename(copy, partial).unwrap();
    }),
    ("nothing", |partial, _| fs::remove_file(partial).unwrap()),
    ("the same file, cut", |partial, _| {
        fs::File::options().write(true).open(partial).unwrap().set_len(100_000).unwrap();
    }),
    ("the same file, empty", |partial, _| {
        fs::File::options().write(true).open(partial).unwrap().set_len(0).unwrap();
    }),
];

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(rustix::fs::CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
}

#[test]
fn a_partial_file_that_cannot_be_gone_on_with_is_sent_anew() {
    for (what, change) in CHANGES {
        let pair = Pair::new();
        let _node = pair.start();
        let (source, victim) = (pair.path("large"), pair.path("victim"));
        fs::write(&source, Random::new(15).bytes(24 << 20)).unwrap();
        fs::write(&victim, "safe").unwrap();
        let partial = interrupt_in_the_middle(&pair, &source);
        change(&partial, &victim);
        let result = pair.send(&source, "copy", &["--retries", "5"]).exits(0).json();
        assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap(), "{what}");
        assert_eq!(fs::read(&victim).unwrap(), b"safe", "{what}");
        assert_eq!(fs::metadata(&victim).unwrap().nlink(), 1, "{what}: the stored file is the other one");
        assert_eq!(temporary_files_of(&pair.shared), [] as [PathBuf; 0], "{what}");
        if !what.starts_with("the same file") {
            assert_eq!(result["resumed_bytes"], 0, "{what}");
        }
    }
}

/// It cannot even be removed: it stays, under a name that no result shows as stored.
#[test]
fn a_partial_file_that_nobody_may_change_is_sent_anew_beside_it() {
    if !is_root() || !is_installed("chattr") {
        eprintln!("skipped: it takes root and chattr");
        return;
    }
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("large");
    fs::write(&source, Random::new(16).bytes(24 << 20)).unwrap();
    let partial = interrupt_in_the_middle(&pair, &source);
    let set = |flag: &str| Command::new("chattr").arg(flag).arg(&partial).status().is_ok_and(|ran| ran.success());
    if !set("+i") {
        eprintln!("skipped: this file system has no immutable files");
        return;
    }
    let ran = pair.send(&source, "copy", &["--retries", "5"]);
    assert!(set("-i"));
    ran.exits(0);
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap());
    assert_eq!(temporary_files_of(&pair.shared), [partial]);
}

/// Nobody waits for a pipe without a writer, and what a symlink leads to is not the journal's.
#[test]
fn what_is_no_file_where_the_journal_should_be_is_refused_with_a_sentence() {
    let kinds: [(&str, Change); 5] = [
        ("pipe", |journal, _| make_pipe(journal)),
        ("directory", |journal, _| fs::create_dir(journal).unwrap()),
        ("socket", |journal, _| drop(UnixListener::bind(journal).unwrap())),
        ("symlink", |journal, victim| symlink(victim, journal).unwrap()),
        ("dangling symlink", |journal, victim| symlink(victim.with_extension("not there"), journal).unwrap()),
    ];
    let pair = Pair::new();
    let mut node = pair.start();
    let (source, victim) = (pair.path("large"), pair.path("victim"));
    fs::write(&source, Random::new(17).bytes(24 << 20)).unwrap();
    fs::write(&victim, Random::new(18).bytes(1_000)).unwrap();
    interrupt_in_the_middle(&pair, &source);
    let [(journal, _)] = journals(&pair.there).try_into().unwrap();
    let kept = pair.path("kept");
    fs::rename(&journal, &kept).unwrap();
    // A journal of another transfer to the same place, whose names would be compared.
    let name = journal.file_name().unwrap().to_str().unwrap();
    let other = journal.with_file_name(name.replacen(&name[33..49], "0123456789abcdef", 1));
    for (what, put) in kinds {
        put(&journal, &victim);
        let began = Instant::now();
        let ran = pair.send(&source, "copy", &["--retries", "0"]);
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: it was waited for");
        assert!(ran.code == 1 && ran.err.contains("journal") && ran.err.contains("remove it"), "{what}: {ran:?}");
        assert!(fs::read(&victim).unwrap() == Random::new(18).bytes(1_000), "{what}");
        assert!(!victim.with_extension("not there").exists(), "{what}");
        assert!(!pair.shared.join("copy").exists(), "{what}");
        remove(&journal);
        put(&other, &victim);
        fs::rename(&kept, &journal).unwrap();
        let options = ["--retries", "5", "--overwrite", "always"];
        let ran = pair.send(&source, "copy", &options).exits(0);
        assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&source).unwrap(), "{what}: {ran:?}");
        assert!(fs::read(&victim).unwrap() == Random::new(18).bytes(1_000), "{what}");
        assert!(!victim.with_extension("not there").exists(), "{what}");
        remove(&other);
        fs::remove_file(pair.shared.join("copy")).unwrap();
        fs::write(&kept, "").unwrap();
        assert!(node.is_alive());
    }
    assert_eq!(temporary_files_of(&pair.shared), [] as [PathBuf; 0]);
}

fn remove(path: &Path) {
    if path.is_dir() && !path.is_symlink() {
        fs::remove_dir(path).unwrap();
    } else {
        fs::remove_file(path).unwrap();
    }
}

/// Regression: removals were left to threads that ended with the process.
#[test]
fn an_interrupted_command_ends_when_everything_is_removed_that_it_gave_up() {
    if let Some(why) = missing() {
        eprintln!("skipped: {why}");
        return;
    }
    const FILES: u64 = 12;
    // A flow may take two of them, one after the other.
    const BEGUN_MIN: usize = 8;
    let disk = StateDisk::new();
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.shared.join("source");
    fs::create_dir(&source).unwrap();
    for number in 0..FILES {
        fs::write(source.join(number.to_string()), Random::new(number).bytes(3 << 20)).unwrap();
    }
    let there = disk.mounted.join("in");
    // Each file is a single chunk, and most of them are on their way at once: one partner has 14 of
    // the 16 buffers.
    let mut fetching = command(&pair.here, ["get", "--retries", "0", "--rate", "25M", "--flows", "12"]);
    fetching.arg(format!("second:{}", source.join("").display())).arg(&there);
    let mut child = fetching.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut require_running = || {
        if let Some(status) = child.try_wait().unwrap() {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("the transfer is over with {status}: {said}");
        }
    };
    wait_for("partial files", || {
        require_running();
        (disk.partial_files().len() >= BEGUN_MIN).then_some(())
    });
    disk.set_removal_takes(Duration::from_secs(3));
    for number in 0..FILES {
        fs::write(source.join(number.to_string()), "another version").unwrap();
    }
    // One removal is being answered, and the others wait for the directory: the kernel lets only
    // one at a time change it.
    let process = child.id();
    let given_up = wait_for("the removal of every partial file", || {
        let left = disk.partial_files();
        let waiting = threads_that_remove(process);
        (!left.is_empty() && waiting > left.len() && disk.partial_files() == left).then_some(left)
    });
    signal_process(process, Signal::INT);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.code, 130, "{ran:?}");
    let left = disk.partial_files();
    assert!(given_up.is_disjoint(&left), "{left:?} of {given_up:?}");
    // A file begun while the others were given up may stay for the next attempt.
    assert_eq!(temporary_files_of(&there).len(), left.len());
}

/// How many threads of a process are inside `unlinkat`.
fn threads_that_remove(process: u32) -> usize {
    let prefix = format!("{} ", libc::SYS_unlinkat);
    fs::read_dir(format!("/proc/{process}/task"))
        .unwrap()
        .flatten()
        .filter(|task| fs::read_to_string(task.path().join("syscall")).is_ok_and(|call| call.starts_with(&prefix)))
        .count()
}
