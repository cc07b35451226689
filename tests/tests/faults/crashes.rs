//! Crash consistency: any of the four processes is killed at any moment, again and again, until the
//! transfer is done.
//!
//! Each round has a seed, which it prints, and which decides the tree, the direction, the options,
//! which process dies and when. `CULVERT_SEED=n` repeats one round. The default run has 20 rounds,
//! in two tests that run side by side; the long run has 200:
//!
//! ```text
//! cargo xtask test crashes -- --ignored --nocapture
//! ```
//!
//! While a round runs, a watcher looks at the destination all the time: what has its final name
//! must be complete and have its final mode. After the round, bytes, modes and times are equal, no
//! temporary file and no journal remains, and the journal's whole history shows that nothing that
//! was acknowledged as stored was stored again.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_engine::journal::{Record as JournalRecord, records};
use culvert_tests::history::{History, Stored};
use culvert_tests::node::{Pair, RunningNode, data_plane_of, kill};
use culvert_tests::program::{Ran, command};
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{assert_same, assert_same_attributes, contents, is_temporary, make_flat, temporary_files};

/// A round that needs more attempts than this never ends.
const ATTEMPTS_MAX: u32 = 60;

/// What the seed decides for a whole round.
#[derive(Debug)]
struct Round {
    /// Whether the side that is asked sends.
    is_get: bool,
    /// Whether other files have the names and may be replaced.
    replaces: bool,
    /// Deaths before the round is left to finish.
    deaths: u32,
    /// Slow enough for a death in the middle, or fast enough for one at the end.
    rate: &'static str,
    /// The latest time for a death, counted from the beginning of an attempt.
    moment_max_ms: u64,
}

impl Round {
    fn new(random: &mut Random) -> Self {
        let is_slow = random.below(3) > 0;
        Self {
            is_get: random.below(2) == 0,
            replaces: random.below(4) == 0,
            deaths: 1 + random.below(4) as u32,
            rate: if is_slow { "500M" } else { "4G" },
            moment_max_ms: if is_slow { 1_000 } else { 500 },
        }
    }
}

/// A tree with everything: small files, some with chunks of their own, one with many, holes, links,
/// names, modes and times.
fn make_tree(root: &Path, random: &mut Random) {
    fs::create_dir(root).unwrap();
    make_flat(&root.join("flat"), 200, 20_000, random);
    make_flat(&root.join("larger than a pack"), 60, 200_000, random);
    make_flat(&root.join("deep/er/and/deeper"), 8, 3 << 20, random);
    fs::create_dir(root.join("empty directory")).unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::write(root.join("new\nline"), "x").unwrap();
    std::os::unix::fs::symlink("deep/er", root.join("link")).unwrap();
    let sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.set_len(12 << 20).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"an island", 5 << 20).unwrap();
    for (name, mode) in [("flat", 0o750), ("flat/file-000003", 0o600), ("deep/er/and/deeper/file-000001", 0o555)] {
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let bytes = (10 << 20) + random.below(4 << 20) as usize;
    fs::write(root.join("large"), random.bytes(bytes)).unwrap();
}

/// Looks at the destination all the time.
struct Watcher {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<(u64, History)>>,
}

impl Watcher {
    /// `before` is what was there before, under names that may be replaced.
    fn start(expected: PathBuf, destination: PathBuf, before: HashMap<PathBuf, Vec<u8>>, mut history: History) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut verified = HashMap::new();
            let mut looks = 0;
            while !stopping.load(Ordering::Relaxed) {
                history.look();
                look(&expected, &destination, &before, &mut verified);
                looks += 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            history.look();
            look(&expected, &destination, &before, &mut verified);
            (looks, history)
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let (looks, history) = match self.thread.take().unwrap().join() {
            Ok(ended) => ended,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        assert!(looks > 0, "the watcher never looked");
        history
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Every file with a final name is the whole source, or what was there before.
fn look(
    expected: &Path,
    destination: &Path,
    before: &HashMap<PathBuf, Vec<u8>>,
    verified: &mut HashMap<PathBuf, (u64, i64, i64)>,
) {
    let mut directories = vec![PathBuf::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(destination.join(&directory)).into_iter().flatten().flatten() {
            let name = directory.join(entry.file_name());
            let Ok(kind) = entry.file_type() else { continue };
            if is_temporary(&name) {
                continue;
            }
            if kind.is_dir() {
                directories.push(name);
            } else if kind.is_file() {
                // A single open file, so that everything belongs to one file, whatever the name
                // means a moment later.
                let Ok(file) = fs::File::open(entry.path()) else { continue };
                let metadata = file.metadata().unwrap();
                let state = (metadata.ino(), metadata.ctime(), metadata.ctime_nsec());
                if verified.get(&name) == Some(&state) {
                    continue;
                }
                let mut bytes = Vec::new();
                std::io::Read::read_to_end(&mut &file, &mut bytes).unwrap();
                let source = fs::metadata(expected.join(&name)).unwrap();
                let is_whole = bytes == fs::read(expected.join(&name)).unwrap()
                    && metadata.mode() == source.mode()
                    && (metadata.mtime(), metadata.mtime_nsec()) == (source.mtime(), source.mtime_nsec());
                let is_old = before.get(&name) == Some(&bytes);
                assert!(is_whole || is_old, "{} has its final name but is not complete", name.display());
                if is_whole {
                    verified.insert(name, state);
                }
            }
        }
    }
}

/// The two directions have much in common.
struct Stage {
    pair: Pair,
    round: Round,
    source: PathBuf,
    destination: PathBuf,
}

impl Stage {
    fn begin(&self, rate: &str) -> Child {
        let mut starting = command(
            &self.pair.here,
            [if self.round.is_get { "get" } else { "send" }, "--json", "--preserve", "--retries", "0", "--rate", rate],
        );
        if self.round.replaces {
            starting.args(["--overwrite", "changed"]);
        }
        let theirs = |path: &Path| format!("second:{}", path.join("").display());
        if self.round.is_get {
            starting.arg(theirs(&self.source)).arg(self.destination.join(""));
        } else {
            starting.arg(self.source.join("")).arg(theirs(&self.destination));
        }
        starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn receiver_state(&self) -> &Path {
        if self.round.is_get { &self.pair.here } else { &self.pair.there }
    }
}

/// Kills one of the four processes.
fn kill_one(random: &mut Random, child: &Child, node: &mut Option<RunningNode>, pair: &Pair) {
    let victim = random.below(4);
    eprintln!(
        "  {} dies",
        ["the asking control process", "its data plane", "the node", "its data plane"][victim as usize]
    );
    match victim {
        0 => kill(child.id()),
        1 => data_plane_of(child.id()).into_iter().for_each(kill),
        2 => {
            node.take().unwrap().kill();
            *node = Some(pair.start());
        }
        _ => kill(node.as_ref().unwrap().data_plane()),
    }
}

fn journals(stage: &Stage) -> Vec<PathBuf> {
    let journals = fs::read_dir(stage.receiver_state().join("journals")).unwrap();
    journals.map(|entry| entry.unwrap().path()).collect()
}

/// A receiver that died after its last message, before the sender's signature arrived, keeps a
/// journal that is complete. A node removes it after a day; the same command, typed again, removes
/// it at once.
fn tidy_up(stage: &Stage, seed: u64) {
    for journal in journals(stage) {
        let last = records(&fs::read(&journal).unwrap()).last();
        assert_eq!(last, Some(JournalRecord::Complete), "seed {seed}: a journal remains");
        let old = std::time::SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
        fs::File::options().write(true).open(journal).unwrap().set_modified(old).unwrap();
    }
    if stage.round.is_get {
        // The asking side has no node that is restarted: its next command tidies up.
        let _node = stage.pair.start();
        let ran: Ran = stage.begin("4G").wait_with_output().unwrap().into();
        assert!(ran.code == 9 || ran.code == 0, "seed {seed}: {ran:?}");
    }
}

fn run_round(seed: u64) {
    let mut random = Random::new(seed);
    let round = Round::new(&mut random);
    eprintln!("seed {seed}: {round:?}");
    let pair = Pair::new();
    let (source, destination) = if round.is_get {
        (pair.shared.join("source"), pair.path("copy"))
    } else {
        (pair.path("source"), pair.shared.join("copy"))
    };
    make_tree(&source, &mut random);
    let mut before = HashMap::new();
    if round.replaces {
        for name in ["flat/file-000007", "large", "deep/er/and/deeper/file-000002"] {
            fs::create_dir_all(destination.join(name).parent().unwrap()).unwrap();
            fs::write(destination.join(name), format!("the old {name}")).unwrap();
            before.insert(PathBuf::from(name), format!("the old {name}").into_bytes());
        }
    }
    let stage = Stage { pair, round, source, destination };
    let mut node = Some(stage.pair.start());
    let history = History::new(stage.receiver_state(), stage.pair.path("kept"));
    let watcher = Watcher::start(stage.source.clone(), stage.destination.clone(), before, history);
    let looking = History::new(stage.receiver_state(), stage.pair.path("unused"));

    let mut known = Stored::default();
    let (mut attempts, mut deaths) = (0, 0);
    let last = loop {
        attempts += 1;
        assert!(attempts < ATTEMPTS_MAX, "seed {seed}: no end after {attempts} attempts");
        let dies = deaths < stage.round.deaths;
        let stored = looking.stored_now();
        let child = stage.begin(if dies { stage.round.rate } else { "4G" });
        if dies {
            std::thread::sleep(Duration::from_millis(random.below(stage.round.moment_max_ms)));
            kill_one(&mut random, &child, &mut node, &stage.pair);
            deaths += 1;
        }
        let ran: Ran = child.wait_with_output().unwrap().into();
        // The next attempt does not lose what one has stored.
        if ran.code != 0 && ran.code != 9 {
            let now = looking.stored_now();
            let is_kept =
                stored.chunks.iter().all(|chunk| now.chunks.contains(chunk) || now.files.contains_key(&chunk.0))
                    && stored.files.keys().all(|file| now.files.contains_key(file));
            if !is_kept {
                // It died after both had signed: the journal is gone, and everything is there.
                assert_eq!(journals(&stage), [] as [PathBuf; 0], "seed {seed}: what was stored was forgotten");
                assert_same(&stage.source, &stage.destination);
                assert_same_attributes(&stage.source, &stage.destination);
                eprintln!("  what has died had finished");
            }
        }
        match ran.code {
            0 | 9 => {
                known = if dies { known } else { stored };
                break (ran, dies);
            }
            // Killed, or left by its partner: retried.
            -1 | 5 => {}
            code => panic!("seed {seed}: the attempt ended with {code}: {}", ran.err),
        }
    };
    eprintln!("  done after {attempts} attempts");

    drop(node);
    let mut history = watcher.end();
    tidy_up(&stage, seed);
    let node = stage.pair.start();
    assert_eq!(journals(&stage).len(), 0, "seed {seed}: a journal remains");
    drop(node);
    assert_same(&stage.source, &stage.destination);
    assert_same_attributes(&stage.source, &stage.destination);
    let temporary = temporary_files(&stage.destination);
    assert!(temporary.is_empty(), "seed {seed}: temporary files remain: {temporary:?}");
    let names = contents(stage.receiver_state());
    let writing: Vec<_> = names.keys().filter(|name| name.to_string_lossy().contains(".culvert-writing-")).collect();
    assert!(writing.is_empty(), "seed {seed}: half written state remains: {writing:?}");
    history.assert_nothing_was_stored_twice();
    let (last, died) = last;
    if last.code == 0 && !died {
        assert_little_was_sent(&last.json(), &known, seed);
    }
}

/// The last attempt sent only what was missing.
fn assert_little_was_sent(result: &serde_json::Value, known: &Stored, seed: u64) {
    let number = |name: &str| result[name].as_u64().unwrap();
    let (bytes, resumed) = (number("bytes"), number("resumed_bytes"));
    assert!(resumed >= known.bytes(), "seed {seed}: of {} stored bytes only {resumed} were reused", known.bytes());
    let segments = number("segments_sent") - number("segments_resent");
    // The last segment of each chunk may be short; there are at most this many chunks.
    let chunks = 100 + bytes / (4 << 20);
    let sent = segments.saturating_sub(chunks) * number("segment_bytes");
    assert!(sent <= bytes - resumed, "seed {seed}: {sent} bytes went although {resumed} of {bytes} were there");
}

#[test]
fn ten_rounds_of_deaths_lose_nothing_and_repeat_nothing() {
    seeds(10).into_iter().for_each(run_round);
}

#[test]
fn ten_more_rounds_of_deaths_lose_nothing_and_repeat_nothing() {
    if std::env::var_os("CULVERT_SEED").is_none() {
        seeds(10).into_iter().for_each(run_round);
    }
}

#[test]
#[ignore = "takes five minutes: cargo xtask test crashes -- --ignored --nocapture"]
fn two_hundred_rounds_of_deaths_lose_nothing_and_repeat_nothing() {
    seeds(200).into_iter().for_each(run_round);
}
