//! Destinations that accept bytes but refuse modes or times: CIFS, exFAT, object stores under FUSE,
//! files of another owner. What is complete and verified is stored, and what was not kept is
//! reported.

use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_protocol::control::{Message, NOT_KEPT_IS_TOLD_SINCE, RequestedAction, SenderSummary};
use culvert_protocol::manifest::{Entry, EntryKind};
use culvert_tests::hostile_sender::{new_id, say_manifest};
use culvert_tests::node::{Pair, RunningNode, kill, wait_for};
use culvert_tests::program::Ran;
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::{FarEnd, far_ends_of};
use culvert_tests::stranger::{Stranger, request};
use culvert_tests::tree::{assert_same, make_flat, temporary_files};

const REFUSES: &str = env!("CARGO_BIN_EXE_culvert-refuses");

struct Room {
    room: tempfile::TempDir,
    far: FarEnd,
}

impl Room {
    /// Some calls are refused at the far end.
    fn refusing(refused: &str) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-refused-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), Some(Path::new(&format!("{REFUSES} {refused}"))));
        Self { room, far }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn send(&self, source: &Path, options: &[&str]) -> Ran {
        let mut sending = self.far.command(&self.path("near"), "send", options);
        sending.arg(source).arg(FarEnd::place(&self.path("there"))).output().unwrap().into()
    }
}

/// A large file, small ones, an empty one, a new directory with small files only, and a symlink: 25
/// of them have attributes.
fn make_tree(root: &Path) {
    make_flat(&root.join("directory"), 20, 5_000, &mut Random::new(14));
    fs::write(root.join("large"), Random::new(15).bytes(9 << 20)).unwrap();
    fs::write(root.join("small"), "small").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    fs::create_dir(root.join("empty directory")).unwrap();
    std::os::unix::fs::symlink("small", root.join("link")).unwrap();
}
const WITH_ATTRIBUTES: u64 = 25;

/// Regression: such files were thrown away after all their bytes had moved.
#[test]
fn whole_files_are_stored_where_modes_and_times_are_refused() {
    for (refused, code, text) in [
        ("utimensat=EPERM", "time", "utimensat: Operation not permitted"),
        ("fchmod=EOPNOTSUPP", "mode", "fchmod: Operation not supported"),
        (
            "fchmod=ENOSYS,utimensat=EINVAL",
            "mode_and_time",
            "fchmod: Function not implemented, utimensat: Invalid argument",
        ),
    ] {
        let room = Room::refusing(refused);
        let source = room.path("source");
        make_tree(&source);
        // They are not created with any of these modes.
        for name in ["large", "small", "empty", "directory", "empty directory"] {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o711);
            fs::set_permissions(source.join(name), mode).unwrap();
        }
        let result = room.send(&source.join(""), &["--preserve"]).exits(0).json();
        assert_same(&source, &room.path("there"));
        assert_eq!(temporary_files(&room.path("there")), [] as [PathBuf; 0]);
        assert_eq!((&result["state"], &result["error_count"]), (&"succeeded".into(), &0.into()), "{result}");
        // A refused mode that the file happens to have does not count.
        let most = if code == "mode" { 5..=WITH_ATTRIBUTES } else { WITH_ATTRIBUTES..=WITH_ATTRIBUTES };
        assert!(most.contains(&result["warning_count"].as_u64().unwrap()), "{result}");
        let warnings = result["warnings"].as_array().unwrap();
        assert!(!warnings.is_empty() && warnings.len() <= 16, "{result}");
        assert!(warnings.iter().any(|warning| warning["code"] == code && warning["text"] == text), "{result}");
        assert!(warnings.iter().all(|warning| source.join(warning["path"].as_str().unwrap()).exists()), "{result}");
    }
}

#[test]
fn people_are_told_the_first_and_how_many() {
    let room = Room::refusing("utimensat=EPERM");
    let source = room.path("source");
    make_tree(&source);
    let sending = room.far.command(&room.path("near"), "send", &["--quiet"]);
    let for_people = sending.get_args().filter(|word| *word != "--json");
    let mut sending = Command::new(sending.get_program());
    let ran: Ran = sending
        .args(for_people)
        .arg(source.join("small"))
        .arg(source.join("large"))
        .arg(FarEnd::place(&room.path("two/")))
        .output()
        .unwrap()
        .into();
    let denied = "utimensat: Operation not permitted";
    let ran = ran.exits(0);
    assert!(ran.err.contains("attributes of 2 files were not kept: first: "), "{}", ran.err);
    assert!(
        ran.err.contains(&format!("large: {denied}")) && ran.err.contains(&format!("small: {denied}")),
        "{}",
        ran.err
    );
    assert_eq!(ran.err.lines().count(), 1, "{}", ran.err);
}

#[test]
fn what_is_replaced_by_its_differences_is_stored_too() {
    let room = Room::refusing("utimensat=EPERM,fchmod=EPERM");
    let source = room.path("file");
    let mut bytes = Random::new(16).bytes(9 << 20);
    fs::write(&source, &bytes).unwrap();
    room.send(&source, &[]).exits(0);
    bytes[5 << 20] ^= 1;
    fs::write(&source, &bytes).unwrap();
    let result = room.send(&source, &["--overwrite", "content"]).exits(0).json();
    assert!(result["resumed_bytes"].as_u64().unwrap() > 0, "{result}");
    assert_eq!(result["warning_count"], 1, "{result}");
    assert!(fs::read(room.path("there")).unwrap() == bytes);
}

/// A disk error is a real error.
#[test]
fn what_cannot_be_made_durable_is_not_stored() {
    let room = Room::refusing("fsync=EIO");
    let source = room.path("file");
    fs::write(&source, Random::new(17).bytes(9 << 20)).unwrap();
    assert_ne!(room.send(&source, &["--retries", "0"]).code, 0);
    assert!(!room.path("there").is_file());
}

#[test]
fn who_fetches_is_told_by_its_own_end() {
    let pair = Pair::new();
    let _node = pair.start();
    fs::create_dir(pair.shared.join("tree")).unwrap();
    make_tree(&pair.shared.join("tree"));
    let there = pair.path("fetched");
    let source = format!("second:{}/", pair.shared.join("tree").display());
    let getting = pair.command(&pair.here, ["get", "--json", "--preserve"]);
    let mut refusing = Command::new(REFUSES);
    refusing.arg("utimensat=EPERM").arg(getting.get_program()).args(getting.get_args());
    let ran: Ran = refusing.arg(source).arg(&there).output().unwrap().into();
    let result = ran.exits(0).json();
    assert_same(&pair.shared.join("tree"), &there);
    assert_eq!(result["warning_count"], WITH_ATTRIBUTES, "{result}");
}

fn start_refusing(pair: &Pair, refused: &str) -> RunningNode {
    let node = pair.command(&pair.there, ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"]);
    let mut refusing = Command::new(REFUSES);
    refusing.arg(refused).arg(node.get_program()).args(node.get_args());
    let node = RunningNode::start(&pair.there, &mut refusing);
    pair.meet(node.port);
    node
}

#[test]
fn a_node_says_it_to_its_partner_and_in_its_log() {
    let pair = Pair::new();
    let node = start_refusing(&pair, "utimensat=EPERM");
    let source = pair.path("source");
    fs::create_dir(&source).unwrap();
    make_tree(&source);
    let result = pair.send(&source.join(""), "in", &["--preserve"]).exits(0).json();
    assert_same(&source, &pair.shared.join("in"));
    assert_eq!(result["warning_count"], WITH_ATTRIBUTES, "{result}");
    let id = result["transfer"].as_str().unwrap();
    let said = format!("transfer {id} with first: attributes of {WITH_ATTRIBUTES} files were not kept: first: ");
    wait_for("a line in the log", || node.log().contains(&said).then_some(()));
    // And it stays in the transfer's record.
    let shown = pair.run(&pair.there, ["transfer", "show", id]).exits(0);
    assert!(shown.out.contains("were not kept"), "{}", shown.out);
}

/// A message that the partner's version does not have would end the transfer.
#[test]
fn a_partner_of_an_older_version_is_not_told_and_the_log_is() {
    //= W-57
    //# Since version 6, the receiver sends `NotKept` before `Finished`.
    let pair = Pair::new();
    let node = start_refusing(&pair, "utimensat=EPERM");
    for version in [NOT_KEPT_IS_TOLD_SINCE - 1, NOT_KEPT_IS_TOLD_SINCE] {
        let mut stranger = Stranger::introduced_as(&pair.here, node.port, version);
        let destination = pair.shared.join(format!("version-{version}"));
        let wish = RequestedAction::Push { destination: destination.as_os_str().as_bytes().to_vec() };
        let Message::Request(mut asked) = request(wish) else { unreachable!() };
        asked.transfer = new_id();
        stranger.say(&Message::Request(asked));
        let kind = EntryKind::File { bytes: 0, is_sparse: false };
        say_manifest(
            &mut stranger,
            &[Entry { name: b"empty", kind, target: b"", mode: 0o644, modified: Default::default() }],
        );
        let mut heard = Vec::new();
        loop {
            match stranger.hear().expect("the node goes on") {
                Message::PlanEnd { .. } => stranger.say(&Message::AllSent(SenderSummary::default())),
                Message::Finished { .. } => break,
                Message::Refused(refusal) => panic!("{refusal}"),
                Message::NotKept { count, first } => heard.push((count, first.len())),
                _ => {}
            }
        }
        assert!(destination.join("empty").is_file());
        let expected: &[(u64, usize)] = if version < NOT_KEPT_IS_TOLD_SINCE { &[] } else { &[(1, 1)] };
        assert_eq!(heard, expected, "version {version}");
    }
}

/// Regression: with another time than the source's, a file that an earlier attempt had stored was
/// taken for somebody else's.
#[test]
fn an_interrupted_transfer_goes_on_where_times_are_refused() {
    let room = Room::refusing("utimensat=EPERM");
    let source = room.path("source");
    make_flat(&source, 30, 300_000, &mut Random::new(18));
    fs::write(source.join("z-large"), Random::new(19).bytes(24 << 20)).unwrap();
    let mut sending = room.far.command(&room.path("near"), "send", &["--rate", "60M", "--retries", "0"]);
    sending.arg(source.join("")).arg(FarEnd::place(&room.path("there")));
    let mut child = sending.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    // All of the small ones: for one that has its name but is not yet journaled, nobody knows whose
    // it is.
    let are_journaled = || {
        let journals = culvert_tests::journals::journals(&room.path("far"));
        let is_done = culvert_tests::journals::is_done;
        journals.iter().any(|(_, records)| records.iter().filter(|record| is_done(record)).count() >= 30).then_some(())
    };
    wait_for("stored files", are_journaled);
    far_ends_of(child.id()).into_iter().for_each(kill);
    child.wait().unwrap();
    let result = room.send(&source.join(""), &[]).exits(0).json();
    assert!(result["resumed_bytes"].as_u64().unwrap() > 0, "{result}");
    assert_eq!(result["warning_count"], 31, "those of the earlier attempt are reported too: {result}");
    assert_same(&source, &room.path("there"));
}

#[test]
fn a_result_of_a_transfer_that_keeps_everything_has_no_warning() {
    let room = tempfile::Builder::new().prefix("culvert-kept-").tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    let source = room.path().join("source");
    make_tree(&source);
    let mut sending = far.command(&room.path().join("near"), "send", &["--preserve"]);
    let ran: Ran = sending.arg(source.join("")).arg(FarEnd::place(&room.path().join("there"))).output().unwrap().into();
    let result = ran.exits(0).json();
    assert_eq!((&result["warning_count"], &result["warnings"]), (&0.into(), &serde_json::json!([])), "{result}");
}
