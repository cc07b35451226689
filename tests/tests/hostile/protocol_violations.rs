//! Partners that violate the protocol, by accident or on purpose.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use culvert_protocol::control::{Message, PROTOCOL_VERSION, RefusalCode, RequestedAction};
use culvert_protocol::manifest::{Entry, EntryKind, FileTime};
use culvert_tests::node::{Pair, RunningNode};
use culvert_tests::random::Random;
use culvert_tests::stranger::{Stranger, file, hello, push_manifest, request, symlink as link};
use culvert_tests::tree::{Item, contents, make_flat, temporary_files};

/// Asserts that the node is alive, uses little memory, and serves honest partners.
fn assert_goes_on(pair: &Pair, node: &mut RunningNode) {
    assert!(node.is_alive(), "the node is gone: {}", node.log());
    let source = pair.path("afterwards");
    fs::write(&source, "still here").unwrap();
    pair.send(&source, "afterwards", &["--overwrite", "always"]).exits(0);
    let status = fs::read_to_string(format!("/proc/{}/status", node.process_id())).unwrap();
    let resident_kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().trim_end_matches(" kB").trim().parse().ok())
        .unwrap();
    assert!(resident_kib < 200 << 10, "the control process grew to {resident_kib} KiB");
}

/// wire.md W-31: "a longer frame ends the connection before memory is allocated for it".
#[test]
fn a_control_message_of_four_gibibytes_ends_the_connection() {
    //= W-31
    //# A longer frame ends the connection before memory is allocated for it.
    let pair = Pair::new();
    let mut node = pair.start();
    for announced in [u32::MAX, 256 << 20, (256 << 10) + 1] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        stranger.say_bytes(&announced.to_be_bytes()).unwrap();
        let _ = stranger.say_bytes(&vec![0; 1 << 20]);
        stranger.hear_the_end();
    }
    assert_goes_on(&pair, &mut node);
}

/// wire.md W-33: "sends a refusal that names both versions".
#[test]
fn another_protocol_version_is_refused_with_both_versions() {
    //= W-33
    //# If there is no common version, the end with the newer version sends a refusal that names
    //# both versions, and closes.
    let pair = Pair::new();
    let mut node = pair.start();
    let mut stranger = Stranger::connect(&pair.here, node.port);
    stranger.say(&hello(PROTOCOL_VERSION + 8));
    let refusal = stranger.hear_refusal();
    assert_eq!(refusal.code, RefusalCode::Version);
    assert!(refusal.text.contains(&(PROTOCOL_VERSION + 8).to_string()) && refusal.text.contains("update"), "{refusal}");
    assert_goes_on(&pair, &mut node);
}

#[test]
fn messages_out_of_turn_are_refused() {
    let pair = Pair::new();
    let mut node = pair.start();
    for message in [
        Message::AllSent(culvert_protocol::control::SenderSummary::default()),
        Message::Pong(1),
        Message::Countersigned { signature: Vec::new() },
    ] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        stranger.say(&message);
        assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol);
    }
    // And in the middle of a transfer.
    for message in [
        Message::Proven(vec![0]),
        Message::ChunkHashes(vec![(7, [0; 32])]),
        Message::PackHashes { chunk: 9, hashes: vec![] },
    ] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        push_manifest(&mut stranger, &pair.shared.join("in"), &[file(b"file", 10)]);
        end_manifest(&mut stranger, &[file(b"file", 10)]);
        stranger.say(&message);
        assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol, "{message:?}");
    }
    assert!(contents(&pair.shared).is_empty() || !pair.shared.join("in/file").exists());
    assert_goes_on(&pair, &mut node);
}

/// W-59: nine bits, once.
#[test]
fn a_mode_of_what_is_sent_that_cannot_be_is_refused() {
    //= W-59
    //# Since version 7, a sender whose manifest is the contents of one directory sends that
    //# directory's mode (nine bits) with `ContentsOf`, before `ManifestEnd` and at most once.
    let pair = Pair::new();
    let mut node = pair.start();
    for modes in [vec![0o4755], vec![u16::MAX], vec![0o700, 0o700]] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        push_manifest(&mut stranger, &pair.shared.join("in"), &[file(b"file", 10)]);
        for &mode in &modes {
            stranger.say(&Message::ContentsOf { mode });
        }
        assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol, "{modes:?}");
    }
    assert!(!pair.shared.join("in").exists(), "something was created");
    assert_goes_on(&pair, &mut node);
}

fn end_manifest(stranger: &mut Stranger, entries: &[Entry<'_>]) {
    let mut manifest = culvert_protocol::manifest::Manifest::default();
    for entry in entries {
        manifest.push(entry).unwrap();
    }
    stranger.say(&Message::ManifestEnd {
        entries: entries.len() as u32,
        digest: manifest.digest(),
        allocated_bytes: 0,
        is_single_file: false,
    });
}

/// wire.md W-36: "a name is relative and at most 4,096 bytes long".
#[test]
fn names_that_leave_the_destination_are_refused() {
    //= W-36
    //# A name is relative and at most 4,096 bytes long. It has no empty, `.` or `..` components, no
    //# NUL, and no component longer than 255 bytes, and it is not one of Culvert's temporary names.
    let pair = Pair::new();
    let mut node = pair.start();
    let outside = pair.path("outside");
    fs::create_dir(&outside).unwrap();
    let long = vec![b'x'; 5_000];
    let deep = b"d/".repeat(3_000);
    let modified = FileTime { seconds: 0, nanoseconds: 0 };
    let entries: Vec<(&str, Entry<'_>)> = vec![
        ("..", file(b"..", 1)),
        ("../x", file(b"../outside/x", 1)),
        ("a/../../x", file(b"a/../../outside/x", 1)),
        ("absolute", file(b"/tmp/culvert-was-here", 1)),
        ("empty", file(b"", 1)),
        ("nul", file(b"a\0b", 1)),
        ("dot", file(b"./a", 1)),
        ("double slash", file(b"a//b", 1)),
        ("trailing slash", file(b"a/", 1)),
        ("too long", file(&long, 1)),
        ("too deep", file(&deep[..deep.len() - 1], 1)),
        ("our temporary names", file(b".culvert-partial-0123", 1)),
        ("symlink that leaves", link(b"link", b"../outside")),
        ("absolute symlink", link(b"link", b"/etc")),
        ("setuid", Entry { mode: 0o4755, ..file(b"setuid", 1) }),
        ("size beyond a file system's", file(b"huge", u64::MAX)),
        ("a directory with a target", Entry { kind: EntryKind::Directory, target: b"x", modified, ..file(b"d", 0) }),
    ];
    for (what, entry) in entries {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        push_manifest(&mut stranger, &pair.shared.join("in"), &[entry]);
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{what}: {refusal}");
        assert!(contents(&pair.shared).is_empty(), "{what} left something behind");
    }
    assert!(contents(&outside).is_empty());
    assert_goes_on(&pair, &mut node);
}

#[test]
fn a_file_below_its_own_symlink_does_not_follow_it() {
    let pair = Pair::new();
    let mut node = pair.start();
    let entries = [link(b"in", b"elsewhere"), file(b"in/file", 0)];
    let mut stranger = Stranger::introduced(&pair.here, node.port);
    push_manifest(&mut stranger, &pair.shared, &entries);
    let mut manifest = culvert_protocol::manifest::Manifest::default();
    if entries.iter().all(|entry| manifest.push(entry).is_ok()) {
        end_manifest(&mut stranger, &entries);
    }
    let refusal = stranger.hear_refusal();
    assert!(!refusal.text.is_empty());
    assert!(!pair.shared.join("elsewhere/file").exists());
    assert_goes_on(&pair, &mut node);
}

/// wire.md W-36: "a `ManifestEnd` with count and digest", and entries are checked "against the
/// earlier ones".
#[test]
fn manifests_that_lie_are_refused() {
    //= W-36
    //# The data's sender sends the manifest: `ManifestPart`s and a `ManifestEnd` with count and
    //# digest. The receiver checks every entry by itself and against the earlier ones.
    let pair = Pair::new();
    let mut node = pair.start();
    let entries = [file(b"a", 1), file(b"b", 2)];
    let true_digest = {
        let mut manifest = culvert_protocol::manifest::Manifest::default();
        for entry in &entries {
            manifest.push(entry).unwrap();
        }
        manifest.digest()
    };
    for (entries_said, digest) in [(3, true_digest), (u32::MAX, true_digest), (2, [7; 32]), (0, true_digest)] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        push_manifest(&mut stranger, &pair.shared.join("in"), &entries);
        let end = Message::ManifestEnd { entries: entries_said, digest, allocated_bytes: 0, is_single_file: false };
        stranger.say(&end);
        assert_eq!(stranger.hear_refusal().code, RefusalCode::Protocol);
    }
    // The same name twice.
    let mut stranger = Stranger::introduced(&pair.here, node.port);
    let twice = [file(b"a", 1), file(b"a", 2)];
    push_manifest(&mut stranger, &pair.shared.join("in"), &twice);
    end_manifest(&mut stranger, &twice);
    stranger.hear_refusal();
    // An exabyte, for which there is no room.
    let mut stranger = Stranger::introduced(&pair.here, node.port);
    let huge = [file(b"huge", 1 << 60)];
    push_manifest(&mut stranger, &pair.shared.join("in"), &huge);
    end_manifest(&mut stranger, &huge);
    let refusal = stranger.hear_refusal();
    assert!(!refusal.text.is_empty(), "{refusal}");
    assert!(temporary_files(&pair.shared).is_empty());
    assert_goes_on(&pair, &mut node);
}

#[test]
fn requests_that_no_honest_node_makes_are_refused() {
    let pair = Pair::new();
    let mut node = pair.start();
    let push = || RequestedAction::Push { destination: pair.shared.join("in").display().to_string().into_bytes() };
    let change = |change: &dyn Fn(&mut culvert_protocol::control::Request)| {
        let Message::Request(mut request) = request(push()) else { unreachable!("request() makes a request") };
        change(&mut request);
        Message::Request(request)
    };
    for message in [
        change(&|request| request.options.chunk_bytes = 0),
        change(&|request| request.options.chunk_bytes = u32::MAX),
        change(&|request| request.options.chunk_bytes = 3 << 20),
        change(&|request| request.lane_ports.clear()),
        change(&|request| request.lane_ports = vec![1; 5_000]),
        request(RequestedAction::Pull { sources: Vec::new() }),
        request(RequestedAction::Measure { bytes: 0 }),
        request(RequestedAction::Measure { bytes: u64::MAX }),
    ] {
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        stranger.say(&message);
        let refusal = stranger.hear_refusal();
        assert_eq!(refusal.code, RefusalCode::Protocol, "{message:?}: {refusal}");
    }
    assert_goes_on(&pair, &mut node);
}

#[test]
fn every_byte_of_a_request_turned_does_no_harm() {
    let pair = Pair::new();
    let mut node = pair.start();
    let mut frame = Vec::new();
    request(RequestedAction::Push { destination: pair.shared.join("in").display().to_string().into_bytes() })
        .write_frame(&mut frame);
    for at in 0..frame.len() {
        let mut turned = frame.clone();
        turned[at] ^= 1 << (at % 8);
        let mut stranger = Stranger::introduced(&pair.here, node.port);
        // What arrives may be a valid request for something else, even an acceptable one; the
        // connection is closed either way.
        let _ = stranger.say_bytes(&turned);
    }
    assert_goes_on(&pair, &mut node);
}

#[test]
fn a_directory_swapped_for_a_symlink_under_a_transfer_is_not_followed() {
    let pair = Pair::new();
    let mut node = pair.start();
    let (source, outside) = (pair.path("source"), pair.path("outside"));
    fs::create_dir_all(source.join("deep")).unwrap();
    fs::create_dir(&outside).unwrap();
    for number in 0..20 {
        fs::write(source.join(format!("deep/file-{number:02}")), vec![number; 3 << 20]).unwrap();
    }
    let destination = format!("second:{}", pair.shared.join("in").display());
    let mut sending =
        culvert_tests::program::command(&pair.here, ["send", "--json", "--rate", "200M", "--retries", "0"]);
    let child = sending
        .arg(source.join(""))
        .arg(destination)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let inside = pair.shared.join("in/deep");
    culvert_tests::node::wait_for("the first file", || inside.join("file-00").exists().then_some(()));
    fs::rename(&inside, pair.shared.join("in/moved")).unwrap();
    symlink(&outside, &inside).unwrap();
    let ran: culvert_tests::program::Ran = child.wait_with_output().unwrap().into();
    assert!(contents(&outside).is_empty(), "the symlink was followed: {ran:?}");
    assert_ne!(ran.code, 0, "{ran:?}");
    fs::remove_file(&inside).unwrap();
    assert_goes_on(&pair, &mut node);
}

/// Exchanges what two names refer to, again and again, until told to stop; returns how often.
fn exchange_until(stop: Arc<AtomicBool>, one: PathBuf, other: PathBuf) -> std::thread::JoinHandle<u64> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    std::thread::spawn(move || {
        let mut count = 0;
        while !stop.load(Ordering::Relaxed) {
            count += u64::from(renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).is_ok());
            // Often enough to hit every step of a file's way, rarely enough to let some through.
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        count
    })
}

#[test]
fn a_symlink_swapped_in_and_out_in_a_race_is_never_followed_by_what_is_stored() {
    let pair = Pair::new();
    let mut node = pair.start();
    let (source, outside) = (pair.path("source"), pair.path("outside"));
    fs::create_dir(&outside).unwrap();
    make_flat(&source.join("deep"), 200, 3_000, &mut Random::new(1));
    make_flat(&source.join("deep/large"), 4, 3 << 20, &mut Random::new(2));
    let inside = pair.shared.join("in");
    fs::create_dir_all(inside.join("deep")).unwrap();
    symlink(&outside, inside.join("other")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = exchange_until(stop.clone(), inside.join("deep"), inside.join("other"));
    let mut codes = Vec::new();
    for _ in 0..8 {
        // Some of them end well, in some of them files fail, and some fail as a whole.
        codes.push(pair.send(&source.join(""), "in", &["--retries", "0", "--overwrite", "always"]).code);
        assert!(contents(&outside).is_empty(), "the symlink was followed: {:?}", contents(&outside).keys());
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapping.join().unwrap();
    eprintln!("{swaps} swaps, exit codes {codes:?}");
    assert!(swaps > 100, "only {swaps} swaps");
    assert_goes_on(&pair, &mut node);
}

#[test]
fn a_symlink_swapped_in_and_out_in_a_race_is_never_followed_by_what_is_sent() {
    let pair = Pair::new();
    let mut node = pair.start();
    let outside = pair.path("outside");
    // The same names, sizes and times outside: only the bytes differ.
    let deep = pair.shared.join("data/deep");
    make_flat(&deep, 60, 3_000, &mut Random::new(1));
    make_flat(&outside, 60, 3_000, &mut Random::new(1));
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for (directory, fill) in [(&deep, b'p'), (&outside, b's')] {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let bytes = entry.metadata().unwrap().len() as usize;
            fs::write(entry.path(), vec![fill; bytes]).unwrap();
            fs::File::options().write(true).open(entry.path()).unwrap().set_modified(time).unwrap();
        }
    }
    symlink(&outside, pair.shared.join("data/other")).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let swapping = exchange_until(stop.clone(), deep, pair.shared.join("data/other"));
    for round in 0..8 {
        let copy = pair.path(&format!("copy-{round}"));
        pair.get("data/", &copy, &["--retries", "0"]);
        if !copy.exists() {
            continue;
        }
        for (name, item) in contents(&copy) {
            let Item::File(bytes) = item else { continue };
            assert!(!bytes.contains(&b's'), "{} was read through the symlink", name.display());
        }
    }
    stop.store(true, Ordering::Relaxed);
    let swaps = swapping.join().unwrap();
    assert!(swaps > 100, "only {swaps} swaps");
    assert_goes_on(&pair, &mut node);
}
