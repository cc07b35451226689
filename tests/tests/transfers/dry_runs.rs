//! Dry runs: what would become of every file, according to both ends, and that nothing is done.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use culvert_protocol::control::{DRY_RUNS_ARE_TOLD_SINCE, Message, Overwrite, RefusalCode, RequestedAction};
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_tests::hostile_sender::{new_id, say_manifest};
use culvert_tests::node::{Pair, wait_for};
use culvert_tests::program::{Ran, is_root, run};
use culvert_tests::schema::assert_valid;
use culvert_tests::ssh_stand_in::FarEnd;
use culvert_tests::stranger::{Stranger, request};
use serde_json::Value;

/// What would become of each entry: its path, the action, and the reason.
fn fates(result: &Value) -> Vec<(&str, &str, &str)> {
    let files = result["would"]["files"].as_array().unwrap();
    files
        .iter()
        .map(|file| {
            (file["path"].as_str().unwrap(), file["action"].as_str().unwrap(), file["reason"].as_str().unwrap())
        })
        .collect()
}

fn same(from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let time = fs::metadata(from).unwrap().modified().unwrap();
    fs::File::options().write(true).open(to).unwrap().set_modified(time).unwrap();
}

/// A source and a destination with every possible case.
fn mixed(source: &Path, destination: &Path) {
    fs::create_dir_all(source.join("d")).unwrap();
    fs::create_dir_all(destination).unwrap();
    for name in ["new", "size", "time", "same", "d/inner"] {
        fs::write(source.join(name), "content").unwrap();
    }
    symlink("/etc/passwd", source.join("leads-out")).unwrap();
    fs::write(destination.join("size"), "longer than that").unwrap();
    fs::write(destination.join("time"), "content").unwrap();
    let long_ago = fs::File::options().write(true).open(destination.join("time")).unwrap();
    long_ago.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1)).unwrap();
    same(&source.join("same"), &destination.join("same"));
}

/// Regression: it said "succeeded" with files stored, and gave neither names nor reasons.
#[test]
fn every_file_is_told_with_what_would_become_of_it_and_why() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    mixed(&source, &pair.shared.join("in"));
    let expected = [
        ("d/", "new", "absent"),
        ("d/inner", "new", "absent"),
        ("new", "new", "absent"),
        ("same", "skipped", "same"),
        ("size", "replaced", "differs_in_size"),
        ("time", "replaced", "differs_in_time"),
        ("leads-out", "left_out", "symlink_leaves"),
    ];
    let check = |ran: Ran, direction: &str| {
        let result = ran.exits(6).json();
        assert_valid(&result, "transfer-result");
        let mut told = fates(&result);
        told.sort_by_key(|&(path, ..)| expected.iter().position(|&(known, ..)| known == path));
        assert_eq!(told, expected, "{direction}");
        assert_eq!(
            (&result["dry_run"], &result["files"]["stored"], &result["bytes"]),
            (&true.into(), &0.into(), &0.into())
        );
        let would = &result["would"];
        assert_eq!((&would["direction"], &would["bytes"]), (&direction.into(), &28.into()));
        let counts = &would["counts"];
        let count = |name: &str| counts[name].as_u64().unwrap();
        assert_eq!([count("new"), count("replaced"), count("skipped"), count("left_out")], [2, 2, 1, 1]);
        assert!(would["free_bytes"].as_u64().unwrap() > 0 && would["refused"].is_null(), "{would}");
    };
    let options = ["--dry-run", "--overwrite", "changed"];
    check(pair.send(&source.join(""), "in", &options), "send");
    // The other way round: what is there is sent, and what is here stays.
    let (theirs, ours) = (pair.shared.join("out"), pair.path("back"));
    mixed(&theirs, &ours);
    check(pair.get("out/", &ours, &options), "receive");
    assert!(!pair.shared.join("in/new").exists() && !ours.join("new").exists(), "something was done");
}

#[test]
fn people_read_a_line_for_each_file_and_a_sentence_that_says_which_way() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    mixed(&source, &pair.shared.join("in"));
    let destination = format!("second:{}", pair.shared.join("in").display());
    let source = source.join("").display().to_string();
    let options = ["--dry-run", "--overwrite", "changed"];
    let sent = run(&pair.here, [&["send", "-v", &source, &destination][..], &options].concat()).exits(6);
    for line in [
        "new       new",
        "replaced  size: differs in size",
        "replaced  time: differs in time",
        "skipped   same: the same is there",
        "left out  leads-out: ",
        "would send 4 files, 28 B",
        "free at the destination",
    ] {
        assert!(sent.out.contains(line), "{line}: {}", sent.out);
    }
    let back = pair.path("back").display().to_string();
    let from = format!("{destination}/");
    let fetched = run(&pair.here, ["get", "--dry-run", &from, &back]).exits(0);
    assert!(fetched.out.contains("would fetch 3 files") && !fetched.out.contains("\nnew "), "{}", fetched.out);
}

/// Regression: it said that all was well.
#[test]
fn a_destination_that_is_a_symlink_to_nothing_is_foretold() {
    let room = tempfile::Builder::new().prefix("culvert-dangling-").tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    let at = |name: &str| room.path().join(name);
    fs::create_dir(at("source")).unwrap();
    fs::write(at("source/file"), "content").unwrap();
    symlink("nowhere", at("link")).unwrap();
    let cases = [
        ("source/", "link"),
        ("source/", "link/below"),
        ("source", "link/"),
        ("source/file", "link"),
        ("source/file", "link/x"),
    ];
    for (source, to) in cases {
        let codes = [&["--dry-run"][..], &[]].map(|options| {
            let mut sending = far.command(&at("near"), "send", options);
            let from = format!("{}{}", at(source).display(), if source.ends_with('/') { "/" } else { "" });
            let place = format!("{}{}", FarEnd::place(&at(to)), if to.ends_with('/') { "/" } else { "" });
            let ran: Ran = sending.arg(from.replace("//", "/")).arg(place).output().unwrap().into();
            (ran.code, ran.err.contains("symlink"))
        });
        assert_eq!(codes[0].0, codes[1].0, "{source} {to}: {codes:?}");
        assert!(codes[0].0 != 0, "{source} {to}: {codes:?}");
    }
    assert!(!at("nowhere").exists());
}

/// Small files take whole blocks, and an inode each.
#[test]
fn small_files_need_blocks_and_inodes() {
    if !is_root() {
        eprintln!("skipped: this needs root, to mount a small file system");
        return;
    }
    let pair = Pair::new();
    let mount = |options: &str| {
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&pair.shared).status();
        assert!(mounted.unwrap().success());
    };
    let unmount = || assert!(Command::new("umount").arg("-l").arg(&pair.shared).status().unwrap().success());
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    for number in 0..400 {
        fs::write(source.join(number.to_string()), "x").unwrap();
    }
    for (options, what) in [("size=1m", "free"), ("size=16m,nr_inodes=200", "inodes")] {
        mount(options);
        let node = pair.start();
        let foretold = pair.send(&source.join(""), "in", &["--dry-run"]).exits(1).json();
        let would = &foretold["would"];
        assert_eq!(would["refused"]["code"], "no_space", "{options}: {would}");
        assert!(would["refused"]["text"].as_str().unwrap().contains(what), "{options}: {would}");
        assert_valid(&foretold, "transfer-result");
        assert_eq!(would["needed_inodes"], 400, "{would}");
        pair.send(&source.join(""), "in", &[]).exits(1).says(what);
        drop(node);
        unmount();
    }
}

/// Regression: they refused the dry run, as they do the transfer.
#[test]
fn collisions_are_told_one_by_one_and_exit_as_the_transfer_would() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    mixed(&source, &pair.shared.join("in"));
    let ran = pair.send(&source.join(""), "in", &["--dry-run"]).exits(1);
    let result = ran.json();
    assert_valid(&result, "transfer-result");
    let told = fates(&result);
    assert!(told.contains(&("size", "collision", "differs_in_size")), "{told:?}");
    assert!(told.contains(&("time", "collision", "differs_in_time")), "{told:?}");
    assert_eq!((&result["state"], &result["would"]["refused"]["code"]), (&"failed".into(), &"collision".into()));
    assert_eq!(result["would"]["counts"]["collisions"], 2);
    // And the transfer does the same.
    pair.send(&source.join(""), "in", &[]).exits(1).says("differs in size or time");
}

/// A dry run does not know what an interrupted transfer left unless it looks into the journal,
/// which it does not change.
#[test]
fn what_an_interrupted_transfer_stored_would_be_resumed() {
    let pair = Pair::new();
    let mut node = pair.start();
    let source = pair.path("large");
    fs::write(&source, culvert_tests::random::Random::new(3).bytes(24 << 20)).unwrap();
    let destination = format!("second:{}", pair.shared.join("copy").display());
    let mut sending = pair
        .command(&pair.here, ["send", "--rate", "40M", "--retries", "0", source.to_str().unwrap(), &destination])
        .spawn()
        .unwrap();
    let journals = pair.there.join("journals");
    let journal_bytes = || {
        let files = fs::read_dir(&journals).unwrap().flatten();
        files.filter_map(|file| file.metadata().ok()).map(|known| known.len()).sum::<u64>()
    };
    // The name and the first durable chunks.
    wait_for("a chunk in the journal", || (journal_bytes() > 250).then_some(()));
    sending.kill().unwrap();
    sending.wait().unwrap();
    assert!(node.is_alive());
    let before = wait_for("the journal to rest", || {
        let bytes = journal_bytes();
        std::thread::sleep(std::time::Duration::from_millis(300));
        (bytes == journal_bytes()).then_some(bytes)
    });
    let result = pair.send(&source, "copy", &["--dry-run"]).exits(0).json();
    assert_eq!(fates(&result), [("large", "resumed", "begun_before")], "{result:#}");
    assert!(result["would"]["bytes"].as_u64().unwrap() < 24 << 20, "{result:#}");
    assert_eq!(journal_bytes(), before, "the journal has changed");
}

/// A message that the partner's version does not have would end the conversation.
#[test]
fn a_partner_of_an_older_version_hears_numbers_and_refusals_as_before() {
    //= W-58
    //# With partners of older versions, a dry run has only the plan's numbers and is refused if the
    //# transfer would be.
    let pair = Pair::new();
    let node = pair.start();
    fs::create_dir(pair.shared.join("in")).unwrap();
    fs::write(pair.shared.join("in/there"), "other").unwrap();
    for version in [DRY_RUNS_ARE_TOLD_SINCE - 1, DRY_RUNS_ARE_TOLD_SINCE] {
        for overwrite in [Overwrite::Never, Overwrite::Changed] {
            let mut stranger = Stranger::introduced_as(&pair.here, node.port, version);
            let wish = RequestedAction::Push { destination: pair.shared.join("in").as_os_str().as_bytes().to_vec() };
            let Message::Request(mut asked) = request(wish) else { unreachable!() };
            asked.transfer = new_id();
            (asked.options.dry_run, asked.options.overwrite) = (true, overwrite);
            stranger.say(&Message::Request(asked));
            let kind = EntryKind::File { bytes: 1, is_sparse: false };
            let entry = |name| Entry { name, kind, target: b"", mode: 0o644, modified: Default::default() };
            say_manifest(&mut stranger, &[entry(b"new"), entry(b"there")]);
            let mut heard = 0;
            let refusal = loop {
                match stranger.hear().expect("the node answers") {
                    Message::PlanEnd { .. } => break None,
                    Message::Refused(refusal) => break Some(refusal.code),
                    Message::DryRun(_) => heard += 1,
                    _ => {}
                }
            };
            let is_old = version < DRY_RUNS_ARE_TOLD_SINCE;
            assert_eq!(heard, if is_old { 0 } else { 2 }, "version {version}, {overwrite:?}");
            let collides = is_old && overwrite == Overwrite::Never;
            assert_eq!(refusal, collides.then_some(RefusalCode::Collision), "version {version}, {overwrite:?}");
        }
    }
}
