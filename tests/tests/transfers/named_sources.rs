//! Sources as people name them: symlinks, many of them, the same one twice, and several with
//! directories of the same name.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, culvert};
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::FarEnd;
use culvert_tests::tree::{assert_same, contents, make_flat, temporary_files};

struct Room {
    room: tempfile::TempDir,
    far: FarEnd,
}

/// Whether the near end pushes or fetches.
const DIRECTIONS: [bool; 2] = [true, false];

impl Room {
    fn new() -> Self {
        let room = tempfile::Builder::new().prefix("culvert-named-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), None);
        Self { room, far }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// A transfer that starts in the room, after the shell has run something.
    fn command(&self, shell: &str, is_push: bool, sources: &[&str], to: &str, options: &[&str]) -> Command {
        let asked = self.far.command(&self.path("near"), if is_push { "send" } else { "get" }, options);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("{shell} exec \"$@\""), "sh"]).arg(culvert()).args(asked.get_args());
        for source in sources {
            let from = self.path(source);
            match is_push {
                true => command.arg(source),
                false => {
                    command.arg(format!("u@far:{}{}", from.display(), if source.ends_with('/') { "/" } else { "" }))
                }
            };
        }
        let to = self.path(to);
        if is_push {
            command.arg(FarEnd::place(&to))
        } else {
            command.arg(&to)
        };
        command.current_dir(self.room.path()).stdin(Stdio::null());
        command
    }

    fn transfer(&self, is_push: bool, sources: &[&str], to: &str, options: &[&str]) -> Ran {
        self.command("", is_push, sources, to, options).output().unwrap().into()
    }

    fn put(&self, name: &str, content: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn names(&self, root: &str) -> Vec<String> {
        contents(&self.path(root)).into_keys().map(|name| name.display().to_string()).collect()
    }
}

/// Regression: `latest` was stored as `run-0042`.
#[test]
fn a_symlink_that_is_a_source_is_followed_and_keeps_its_name() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        room.put("disk/run-0042/in/f", "x");
        room.put("disk/run-0042/empty", "");
        symlink("in/f", room.path("disk/run-0042/link")).unwrap();
        fs::write(room.path("disk/release.tar"), Random::new(51).bytes(5 << 20)).unwrap();
        symlink("disk/run-0042", room.path("newest")).unwrap();
        symlink("newest", room.path("latest")).unwrap();
        symlink("disk/release.tar", room.path("latest.tar")).unwrap();
        let ran = room.transfer(is_push, &["latest", "latest.tar", "disk/run-0042"], "there", &[]).exits(0);
        assert_eq!(ran.json()["error_count"], 0, "{}", ran.out);
        assert_same(&room.path("disk/run-0042"), &room.path("there/latest"));
        assert_same(&room.path("disk/run-0042"), &room.path("there/run-0042"));
        assert!(fs::symlink_metadata(room.path("there/latest")).unwrap().is_dir());
        assert!(fs::symlink_metadata(room.path("there/latest.tar")).unwrap().is_file());
        assert!(fs::read(room.path("there/latest.tar")).unwrap() == fs::read(room.path("disk/release.tar")).unwrap());
        // A single file keeps its own name too, unless the destination gives another.
        room.transfer(is_push, &["latest.tar"], "there/", &[]).exits(0);
        fs::create_dir(room.path("single")).unwrap();
        room.transfer(is_push, &["latest.tar"], "single", &[]).exits(0);
        room.transfer(is_push, &["latest.tar"], "single/copy", &[]).exits(0);
        assert_eq!(room.names("single"), ["copy", "latest.tar"]);
        // With a slash, its contents are meant.
        room.transfer(is_push, &["latest/"], "contents", &[]).exits(0);
        assert_same(&room.path("disk/run-0042"), &room.path("contents"));
        let ran = room.transfer(is_push, &["latest.tar", "missing"], "there", &[]).exits(3);
        assert!(ran.err.contains("missing"), "{}", ran.err);
    }
}

/// Regression: one pipe among them caused all of them to be refused.
#[test]
fn of_several_sources_those_that_cannot_be_sent_are_left_out_by_name() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        room.put("a", "a");
        room.put("d/b", "b");
        for name in ["pipe", "e/socket"] {
            fs::create_dir_all(room.path(name).parent().unwrap()).unwrap();
        }
        assert!(Command::new("mkfifo").arg(room.path("pipe")).status().unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(room.path("e/socket")).unwrap();
        symlink("e/socket", room.path("to-socket")).unwrap();
        for options in [&["--dry-run"][..], &[]] {
            let sources = ["a", "pipe", "d", "e/socket", "to-socket"];
            let result = room.transfer(is_push, &sources, "there", options).exits(6).json();
            let mut left: Vec<_> =
                result["errors"].as_array().unwrap().iter().map(|e| (e["path"].as_str(), e["code"].as_str())).collect();
            left.sort_unstable();
            let special = Some("special");
            assert_eq!(left, [(Some("pipe"), special), (Some("socket"), special), (Some("to-socket"), special)]);
        }
        assert_eq!(room.names("there"), ["a", "d", "d/b"]);
        // Alone, there is nothing else to send.
        for name in ["pipe", "e/socket", "to-socket"] {
            let ran = room.transfer(is_push, &[name], "nowhere", &[]).exits(1);
            assert!(ran.err.contains("neither a file nor a directory"), "{}", ran.err);
        }
    }
}

/// Regression: one that a pattern matched was stored, and one that was named was not found.
#[test]
fn a_symlink_that_leads_nowhere_is_no_source_whether_named_or_matched() {
    let room = Room::new();
    room.put("in/a.fits", "a");
    for (name, target) in [("in/gone.fits", "nowhere"), ("in/round.fits", "round.fits"), ("in/away.fits", "/no/where")]
    {
        symlink(target, room.path(name)).unwrap();
    }
    for is_push in DIRECTIONS {
        for sources in [&["in/gone.fits"][..], &["in/a.fits", "in/gone.fits"]] {
            room.transfer(is_push, sources, "named", &["--retries", "0"]).exits(3);
        }
        // In a directory a symlink itself is sent, wherever below the directory it leads.
        let to = format!("inside-{is_push}");
        let result = room.transfer(is_push, &["in/"], &to, &[]).exits(6).json();
        assert_eq!(result["error_count"], 1, "{result}");
        assert_eq!(room.names(&to), ["a.fits", "gone.fits", "round.fits"]);
    }
    let result = room.transfer(false, &["in/*.fits"], "matched", &[]).exits(6).json();
    let codes: Vec<_> = result["errors"].as_array().unwrap().iter().map(|error| error["code"].clone()).collect();
    assert_eq!(codes, ["symlink_unusable"; 3], "{result}");
    assert_eq!(room.names("matched"), ["a.fits"]);
    room.transfer(false, &["in/g*.fits"], "none", &["--retries", "0"]).exits(3);
    assert!(!room.path("named").exists() && !room.path("none").exists());
}

/// What is sent is what it led to at the beginning, complete.
#[test]
fn a_symlink_that_leads_elsewhere_meanwhile_switches_no_trees() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        for (run, seed) in [("run-1", 52), ("run-2", 53)] {
            make_flat(&room.path(run), 12, 3 << 20, &mut Random::new(seed));
        }
        symlink("run-1", room.path("latest")).unwrap();
        let mut command = room.command("", is_push, &["latest"], "there", &["--rate", "60M"]);
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        wait_for("the first file", || room.path("there/latest").exists().then_some(()));
        fs::remove_file(room.path("latest")).unwrap();
        symlink("run-2", room.path("latest")).unwrap();
        assert!(child.try_wait().unwrap().is_none(), "it has ended already");
        assert!(child.wait().unwrap().success());
        assert_same(&room.path("run-1"), &room.path("there/latest"));
    }
}

#[test]
fn what_is_no_name_means_the_contents() {
    let room = Room::new();
    room.put("w/in/a", "a");
    room.put("w/b", "b");
    for (number, source) in [".", "./", "in/..", "./in/../"].into_iter().enumerate() {
        let to = format!("there-{number}");
        let mut command = room.command("cd w;", true, &[source], &to, &[]);
        Ran::from(command.output().unwrap()).exits(0);
        assert_same(&room.path("w"), &room.path(&to));
    }
    let mut command = room.command("cd w/in;", true, &[".."], "above", &[]);
    Ran::from(command.output().unwrap()).exits(0);
    assert_same(&room.path("w"), &room.path("above"));
}

/// A partner's symlink is followed no further than the partner could have asked for itself.
#[test]
fn a_node_follows_a_symlink_that_is_named_and_stays_in_what_it_permits() {
    let pair = Pair::new();
    let _node = pair.start();
    let shared = |name: &str| pair.shared.join(name);
    make_flat(&shared("disk/run-0042/in"), 3, 3_000, &mut Random::new(54));
    symlink("disk/run-0042", shared("newest")).unwrap();
    symlink("./newest", shared("latest")).unwrap();
    fs::create_dir(shared("links")).unwrap();
    symlink("../newest/in/file-000001", shared("links/one")).unwrap();
    symlink("/etc", shared("away")).unwrap();
    symlink("../there", shared("up")).unwrap();
    symlink("round", shared("round")).unwrap();
    pair.get("latest", &pair.path("fetched/"), &[]).exits(0);
    assert_eq!(contents(&pair.path("fetched/latest/in")).len(), 3);
    assert!(fs::symlink_metadata(pair.path("fetched/latest")).unwrap().is_dir());
    pair.get("latest/", &pair.path("contents"), &[]).exits(0);
    assert_eq!(contents(&pair.path("contents/in")).len(), 3);
    for name in ["away", "away/", "away/passwd", "up", "round", "latest/in", "links/one"] {
        let ran = pair.get(name, &pair.path("refused"), &["--retries", "0"]).exits(4);
        assert!(
            ran.err.contains("outside of the permitted directory") || ran.err.contains("a symlink is in the path"),
            "{name}: {}",
            ran.err
        );
    }
    assert!(!pair.path("refused").exists());
}

/// Regression: each source took two descriptors.
#[test]
fn thousands_of_sources_need_few_descriptors() {
    let room = Room::new();
    for number in 0..1_200 {
        room.put(&format!("files/{number}"), &format!("file {number}"));
    }
    for number in 0..600 {
        room.put(&format!("directories/{number}/of-{number}"), &format!("directory {number}"));
    }
    let files: Vec<String> = (0..1_200).map(|number| format!("files/{number}")).collect();
    let roots: Vec<String> = (0..600).map(|number| format!("directories/{number}/")).collect();
    let sources: Vec<&str> = files.iter().chain(&roots).map(String::as_str).collect();
    for is_push in DIRECTIONS {
        let to = format!("there-{is_push}");
        let mut command = room.command("ulimit -n 256;", is_push, &sources, &to, &[]);
        Ran::from(command.output().unwrap()).exits(0);
        assert_eq!(room.names(&to).len(), sources.len());
        assert_eq!(fs::read_to_string(room.path(&to).join("1199")).unwrap(), "file 1199");
        assert_eq!(fs::read_to_string(room.path(&to).join("of-599")).unwrap(), "directory 599");
    }
}

/// Regression: it was a collision of the directory with itself.
#[test]
fn directories_of_one_name_are_merged() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        for (source, month) in [("r1", "jan"), ("r2", "feb"), ("r3", "jan")] {
            make_flat(&room.path(source).join("2024").join(month).join(source), 20, 3_000, &mut Random::new(55));
            for number in 0..20 {
                room.put(&format!("{source}/2024/{month}/{source}-{number}"), source);
            }
            room.put(&format!("{source}/2024/{source}"), source);
        }
        fs::write(room.path("r2/2024/large"), Random::new(56).bytes(5 << 20)).unwrap();
        for (source, mode) in [("r1", 0o750), ("r2", 0o711), ("r3", 0o700)] {
            fs::set_permissions(room.path(source).join("2024"), fs::Permissions::from_mode(mode)).unwrap();
        }
        let ran = room.transfer(is_push, &["r1/", "r2/", "r3/"], "there", &["--preserve"]).exits(0);
        assert_eq!(ran.json()["error_count"], 0, "{}", ran.out);
        let merged = contents(&room.path("there"));
        let mut expected = contents(&room.path("r1"));
        expected.append(&mut contents(&room.path("r2")));
        expected.append(&mut contents(&room.path("r3")));
        assert!(merged == expected, "{:?}", merged.keys());
        let of = |path: &str| {
            fs::metadata(room.path(path)).map(|stat| (stat.mode(), stat.mtime(), stat.mtime_nsec())).unwrap()
        };
        assert_eq!(of("there/2024"), of("r1/2024"), "the first one's mode and time");
        assert_eq!(temporary_files(&room.path("there")), [] as [PathBuf; 0]);
    }
}

#[test]
fn files_of_one_name_collide_and_so_do_a_file_and_a_directory() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        room.put("r1/d/x", "1");
        room.put("r2/d/x", "2");
        room.put("r3/d", "3");
        room.put("r4/d/y", "4");
        symlink("y", room.path("r4/d/x")).unwrap();
        for (sources, name) in
            [(["r1/", "r2/"], "d/x"), (["r1/", "r3/"], "d"), (["r3/", "r1/"], "d"), (["r1/", "r4/"], "d/x")]
        {
            let ran = room.transfer(is_push, &sources, "there", &[]).exits(1);
            let says =
                format!("would both be stored as '{name}': rename one of them, or send them to different destinations");
            assert!(ran.err.contains(&says), "{}", ran.err);
            assert!(sources.iter().all(|source| ran.err.contains(&source[..2])), "{}", ran.err);
        }
        assert!(!room.path("there").exists() || room.names("there").is_empty(), "nothing was sent");
    }
}

#[test]
fn what_is_named_twice_is_sent_once() {
    for is_push in DIRECTIONS {
        let room = Room::new();
        make_flat(&room.path("a"), 20, 3_000, &mut Random::new(57));
        room.put("a/in/f", "f");
        symlink("f", room.path("a/in/link")).unwrap();
        room.put("file", "file");
        fs::create_dir(room.path("other")).unwrap();
        symlink("../a", room.path("other/a")).unwrap();
        fs::hard_link(room.path("file"), room.path("other/file")).unwrap();
        let sources = ["a", "./a", "a/../a", "other/a", "file", "file", "other/file"];
        let result = room.transfer(is_push, &sources, "there", &[]).exits(0).json();
        assert_eq!((&result["files"]["stored"], &result["error_count"]), (&22.into(), &0.into()), "{result}");
        assert_same(&room.path("a"), &room.path("there/a"));
        assert_eq!(fs::read_to_string(room.path("there/file")).unwrap(), "file");
        // Its contents, too.
        room.transfer(is_push, &["a/", "other/a/"], "twice", &[]).exits(0);
        assert_same(&room.path("a"), &room.path("twice"));
    }
}

/// Regression: the request would not fit into a message.
#[test]
fn more_sources_than_a_request_can_name_are_refused_with_a_sentence() {
    let room = Room::new();
    let names: Vec<String> = (0..30_000).map(|number| format!("directory/{number}")).collect();
    let sources: Vec<&str> = names.iter().map(String::as_str).collect();
    let ran = Ran::from(room.command("", false, &sources, "there", &["--retries", "0"]).output().unwrap());
    assert_ne!(ran.code, 0);
    assert!(ran.err.contains("name the directories they are in"), "{}", ran.err);
    assert!(!Path::new(&room.path("there")).exists());
}

/// Regression: a node accepted two megabytes, and did not say so in a sentence.
#[test]
fn a_node_takes_many_names_and_says_when_they_are_too_many() {
    let pair = Pair::new();
    let _second = pair.start();
    let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"];
    let _first = RunningNode::start(&pair.here, &mut pair.command(&pair.here, arguments));
    let directory = pair.path("directory/with/a/name/that/takes/some/room");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("f"), "f").unwrap();
    // The kernel accepts this many words on a command line; each grows by the working directory.
    let send = |count: usize| -> Ran {
        let mut sending = pair.command(&pair.here, ["send", "--json"]);
        sending.args(vec!["f"; count]).arg(format!("second:{}/", pair.shared.display()));
        sending.current_dir(&directory).output().unwrap().into()
    };
    let result = send(40_000).exits(0).json();
    assert_eq!(result["files"]["stored"], 1, "{result}");
    assert_eq!(fs::read_to_string(pair.shared.join("f")).unwrap(), "f");
    let ran = send(120_000).exits(2);
    assert!(ran.err.contains("name the directories they are in"), "{}", ran.err);
}
