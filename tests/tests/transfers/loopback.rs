//! Transfers between real processes on loopback: what goes in comes out.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::program::{command, run};
use culvert_tests::random::{Random, seeds};
use culvert_tests::tree::{assert_same, assert_same_attributes, contents, make_flat, make_nasty, temporary_files};

/// Regression: `-v` reported only phases.
#[test]
fn verbose_tells_each_file_once_and_its_name_moves_no_cursor() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("large"), vec![1; 9 << 20]).unwrap();
    fs::write(source.join("evil\n\x1b[2Jname"), "x").unwrap();
    fs::write(source.join("empty"), "").unwrap();
    for number in 0..40 {
        fs::write(source.join(format!("small-{number}")), "small").unwrap();
    }
    let there = format!("second:{}", pair.shared.join("in").display());
    let (from, back) = (source.join("").display().to_string(), pair.path("back").display().to_string());
    let again = format!("{there}/");
    for (words, verb) in [(["send", &from, &there], "sent"), (["get", &again, &back], "stored")] {
        let told = |options: &[&str]| {
            let ran = run(&pair.here, [&words[..], options].concat()).exits(0);
            let begins = format!("culvert: {verb} ");
            let lines = ran.err.lines().filter_map(|line| line.strip_prefix(&begins)).map(str::to_owned);
            let mut lines: Vec<String> = lines.collect();
            lines.sort_unstable();
            lines
        };
        let lines = told(&["-v"]);
        assert_eq!(lines.len(), 43, "{verb}: {lines:?}");
        assert!(
            lines.contains(&"empty (0 B)".to_owned()) && lines.contains(&"large (9.00 MiB)".to_owned()),
            "{lines:?}"
        );
        assert!(lines.contains(&"evil\\n\\u{1b}[2Jname (1 B)".to_owned()), "{lines:?}");
        // What is there already is not reported.
        assert_eq!(told(&["-v"]), [] as [String; 0]);
        let other = ["--overwrite", "always"];
        assert_eq!(told(&other), [] as [String; 0], "without -v");
        assert_eq!(told(&[&other[..], &["-v"]].concat()).len(), 43);
    }
}

#[test]
fn a_nasty_tree_arrives_as_it_was() {
    for seed in seeds(1) {
        eprintln!("seed {seed}");
        let pair = Pair::new();
        let node = pair.start();
        let source = pair.path("source");
        fs::create_dir(&source).unwrap();
        make_nasty(&source, &mut Random::new(seed));
        let result = pair.send(&source.join(""), "in", &["--preserve"]).exits(0).json();
        assert_same(&source, &pair.shared.join("in"));
        assert_same_attributes(&source, &pair.shared.join("in"));
        assert_eq!(result["state"], "succeeded");
        assert_eq!(result["files"]["stored"], result["files"]["total"]);
        let sparse = fs::metadata(pair.shared.join("in/sparse")).unwrap();
        assert!(sparse.blocks() * 512 < 20 << 20, "the sparse file takes {} blocks", sparse.blocks());
        assert!(temporary_files(&pair.shared).is_empty());
        assert_eq!(fs::read_dir(pair.there.join("journals")).unwrap().count(), 0, "a journal remains");
        assert_eq!(node.metric("culvert_files_total{result=\"stored\"}"), result["files"]["total"].as_f64().unwrap());

        // The way back.
        let back = pair.path("back");
        pair.get("in/", &back, &["--preserve"]).exits(0);
        assert_same(&source, &back);
        assert_same_attributes(&source, &back);
    }
}

#[test]
fn the_same_again_has_nothing_to_do_and_a_changed_file_is_refused_or_replaced() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 20, 100_000, &mut Random::new(1));
    pair.send(&source.join(""), "in", &[]).exits(0);
    let again = pair.send(&source.join(""), "in", &[]).exits(0).json();
    assert_eq!((&again["files"]["skipped"], &again["verdict"]["limited_by"]), (&20.into(), &serde_json::Value::Null));
    // Scripts that must know have an exit code for it.
    pair.send(&source.join(""), "in", &["--error-on-no-transfer"]).exits(9);
    fs::write(source.join("file-000003"), "changed").unwrap();
    pair.send(&source.join(""), "in", &[]).exits(1).says("file-000003");
    assert_ne!(fs::read(pair.shared.join("in/file-000003")).unwrap(), b"changed");
    let changed = pair.send(&source.join(""), "in", &["--overwrite", "changed"]).exits(0).json();
    assert_eq!((changed["files"]["stored"].as_u64(), changed["files"]["skipped"].as_u64()), (Some(1), Some(19)));
    assert_same(&source, &pair.shared.join("in"));
    let always = pair.send(&source.join(""), "in", &["--overwrite", "always"]).exits(0).json();
    assert_eq!(always["files"]["stored"], 20);
}

/// Row 18: under `--overwrite never`, `--preserve` changed the mode of an existing directory from
/// 3770 to 0777.
#[test]
fn directories_that_were_there_keep_their_modes() {
    let mode_of = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    let set_mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let pair = Pair::new();
    let _node = pair.start();
    let (source, there) = (pair.path("source"), pair.shared.join("in"));
    for (name, mode) in [("kept", 0o777), ("new", 0o711), ("new/below", 0o700)] {
        fs::create_dir_all(source.join(name)).unwrap();
        fs::write(source.join(name).join("file"), name).unwrap();
        set_mode(&source.join(name), mode);
    }
    fs::create_dir_all(there.join("kept")).unwrap();
    set_mode(&there.join("kept"), 0o3770);
    pair.send(&source.join(""), "in", &["--preserve"]).exits(0);
    assert_same(&source, &there);
    let modes = |there: &Path| ["kept", "new", "new/below"].map(|name| mode_of(&there.join(name)));
    assert_eq!(modes(&there), [0o3770, 0o711, 0o700]);
    // The next transfer finds them all in place, and leaves them as they are.
    set_mode(&source.join("new"), 0o777);
    fs::write(source.join("new/another"), "another").unwrap();
    pair.send(&source.join(""), "in", &["--preserve"]).exits(0);
    assert_eq!(modes(&there), [0o3770, 0o711, 0o700]);
    // Where what is there may be replaced, so may its mode, except for what says whose new files
    // are.
    fs::write(source.join("new/third"), "third").unwrap();
    pair.send(&source.join(""), "in", &["--preserve", "--overwrite", "changed"]).exits(0);
    assert_eq!(modes(&there), [0o3777, 0o777, 0o700]);
}

#[test]
fn the_hash_is_what_b3sum_prints() {
    let pair = Pair::new();
    let _node = pair.start();
    let file = pair.path("file");
    fs::write(&file, Random::new(5).bytes(13 << 20)).unwrap();
    let result = pair.send(&file, "copy", &[]).exits(0).json();
    let expected = blake3::hash(&fs::read(&file).unwrap()).to_hex().to_string();
    assert_eq!(result["root_blake3"], expected);
    assert_eq!(fs::read(pair.shared.join("copy")).unwrap(), fs::read(&file).unwrap());
    // For several files: the hash of b3sum's listing.
    let directory = pair.path("directory");
    make_flat(&directory, 5, 3 << 20, &mut Random::new(6));
    let result = pair.send(&directory.join(""), "several", &[]).exits(0).json();
    let mut names: Vec<_> = contents(&directory).into_keys().collect();
    names.sort();
    let listing: String = names
        .iter()
        .map(|name| {
            format!("{}  {}\n", blake3::hash(&fs::read(directory.join(name)).unwrap()).to_hex(), name.display())
        })
        .collect();
    assert_eq!(result["root_blake3"], blake3::hash(listing.as_bytes()).to_hex().to_string());
}

#[test]
fn two_transfers_in_both_directions_at_once() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 10, 8 << 20, &mut Random::new(2));
    make_flat(&pair.shared.join("out"), 10, 8 << 20, &mut Random::new(3));
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending = command(&pair.here, ["send", "--quiet"]).arg(source.join("")).arg(&destination).spawn().unwrap();
    let back = pair.path("back");
    pair.get("out/", &back, &[]).exits(0);
    assert!(sending.wait().unwrap().success());
    assert_same(&source, &pair.shared.join("in"));
    assert_same(&pair.shared.join("out"), &back);
}

#[test]
fn one_large_file_over_several_lanes_and_flows() {
    let pair = Pair::new();
    let _node = pair.start_with(&["--cores", "0,0,0", "--memory", "256MiB"]);
    let file = pair.path("file");
    fs::write(&file, Random::new(7).bytes(150 << 20)).unwrap();
    let result = pair.send(&file, "copy", &["--flows", "5", "--cores", "0,0"]).exits(0).json();
    assert_eq!(result["flows"], 5);
    assert!(fs::read(pair.shared.join("copy")).unwrap() == fs::read(&file).unwrap(), "the file differs");
}

#[test]
fn a_file_beyond_a_tebibyte_arrives_sparse() {
    let pair = Pair::new();
    let _node = pair.start();
    let file = pair.path("huge");
    let huge = fs::File::create(&file).unwrap();
    let bytes = (1u64 << 40) + 4_097;
    if huge.set_len(bytes).is_err() {
        eprintln!("skipped: this file system has no files beyond a tebibyte");
        return;
    }
    use std::os::unix::fs::FileExt as _;
    huge.write_all_at(b"beginning", 0).unwrap();
    huge.write_all_at(b"middle", 700 << 30).unwrap();
    huge.write_all_at(b"end", bytes - 3).unwrap();
    // Hashing a tebibyte of zeros on both sides would take minutes; the cipher still authenticates
    // every segment.
    let result = pair.send(&file, "copy", &["--checksum", "none"]).exits(0).json();
    assert_eq!(result["bytes"], bytes);
    let copy = fs::File::open(pair.shared.join("copy")).unwrap();
    assert_eq!(copy.metadata().unwrap().len(), bytes);
    assert!(copy.metadata().unwrap().blocks() * 512 < 64 << 20);
    for (expected, offset) in [(b"beginning".as_slice(), 0), (b"middle", 700 << 30), (b"end", bytes - 3)] {
        let mut found = vec![0; expected.len()];
        copy.read_exact_at(&mut found, offset).unwrap();
        assert_eq!(found, expected);
    }
}

#[test]
fn every_option_of_sealing_and_hashing_works() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 30, 3 << 20, &mut Random::new(4));
    for (number, options) in [
        vec!["--cipher", "aes-128-gcm"],
        vec!["--checksum", "none"],
        vec!["--mode", "background"],
        vec!["--mode", "fixed", "--rate", "2G"],
        vec!["--rate", "500M"],
        vec!["--mtu", "1500"],
    ]
    .into_iter()
    .enumerate()
    {
        let name = format!("in-{number}");
        let result = pair.send(&source.join(""), &name, &options).exits(0).json();
        assert_same(&source, &pair.shared.join(&name));
        match options.as_slice() {
            ["--cipher", cipher] => assert_eq!(result["cipher"], *cipher),
            ["--checksum", _] => assert_eq!(result["root_blake3"], ""),
            ["--mtu", _] => assert!(result["segment_bytes"].as_u64().unwrap() < 1_472),
            ["--mode", "fixed", ..] | ["--rate", _] => assert!(result["goodput_bps"].as_u64().unwrap() < 2_200_000_000),
            _ => {}
        }
    }
}

#[test]
fn a_dry_run_tells_and_changes_nothing() {
    let pair = Pair::new();
    let _node = pair.start();
    let source = pair.path("source");
    make_flat(&source, 3, 1_000, &mut Random::new(8));
    let result = pair.send(&source.join(""), "not/there", &["--dry-run"]).exits(0).json();
    assert_eq!((&result["files"]["stored"], &result["would"]["counts"]["new"]), (&0.into(), &3.into()));
    assert!(!pair.shared.join("not").exists());
}

#[test]
fn a_receipt_is_signed_by_both_and_verifies_offline() {
    //= W-43
    //# `Finished` carries the receiver's signed statement of what it stored. The sender checks it
    //# against what it sent and answers with its own signature over the same text
    //# (`Countersigned`). Both keep the receipt.
    let pair = Pair::new();
    let node = pair.start();
    let file = pair.path("file");
    fs::write(&file, "content").unwrap();
    let id = pair.send(&file, "copy", &[]).exits(0).json()["transfer"].as_str().unwrap().to_owned();
    drop(node);
    let ours = run(&pair.here, ["transfer", "receipt", &id]).exits(0);
    assert!(ours.out.contains("valid: signed by both"), "{}", ours.out);
    let (path, theirs) =
        (pair.here.join(format!("receipts/{id}.receipt")), pair.there.join(format!("receipts/{id}.receipt")));
    assert_eq!(fs::read(&path).unwrap(), fs::read(&theirs).unwrap(), "both nodes keep the same receipt");
    let forged = pair.path("forged");
    fs::write(&forged, fs::read_to_string(&path).unwrap().replacen("\"bytes\":7", "\"bytes\":8", 1)).unwrap();
    run(&pair.here, ["transfer".as_ref(), "receipt".as_ref(), forged.as_os_str()]).exits(11).says("not valid");
    run(&pair.here, ["transfer", "receipt", &id, "--sender", &"0".repeat(64)]).exits(11);
}

#[test]
fn more_small_files_than_descriptors() {
    let pair = Pair::new();
    let node = command(&pair.there, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"]);
    let mut limited = std::process::Command::new("sh");
    limited.args(["-c", "ulimit -n 400; exec \"$@\"", "sh"]).arg(node.get_program()).args(node.get_args());
    let node = RunningNode::start(&pair.there, &mut limited);
    pair.meet(node.port);
    let source = pair.path("source");
    make_flat(&source, 6_000, 300, &mut Random::new(12));
    let result = pair.send(&source.join(""), "in", &[]).exits(0).json();
    assert_eq!(result["files"]["stored"], 6_000);
    assert_same(&source, &pair.shared.join("in"));
    assert!(temporary_files(&pair.shared).is_empty());
}
