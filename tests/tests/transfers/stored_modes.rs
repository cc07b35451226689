//! Which modes stored files and directories get, and that nobody else can read what is private, not
//! even for a moment.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use culvert_tests::node::{Pair, RunningNode, kill, wait_for};
use culvert_tests::program::{Ran, culvert, is_installed, is_root};
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::{FarEnd, far_ends_of};
use culvert_tests::tree::{assert_same, contents, make_flat, temporary_files, temporary_files_of};

const NOBODY: u32 = 65_534;

struct Room {
    room: tempfile::TempDir,
    far: FarEnd,
}

impl Room {
    fn new() -> Self {
        Self::with_far_end(None)
    }

    fn with_far_end(wrapper: Option<&Path>) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-modes-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), wrapper);
        Self { room, far }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    /// Both ends have the umask, and whatever else the shell is told.
    fn command(&self, umask: &str, verb: &str, options: &[&str]) -> Command {
        let asked = self.far.command(&self.path("near"), verb, options);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(culvert()).args(asked.get_args());
        command.stdin(Stdio::null());
        command
    }

    fn sending(&self, umask: &str, source: &Path, to: &str, options: &[&str]) -> Command {
        let mut sending = self.command(umask, "send", options);
        sending.arg(source).arg(FarEnd::place(&self.path(to)));
        sending
    }

    fn send(&self, umask: &str, source: &Path, to: &str, options: &[&str]) -> Ran {
        self.sending(umask, source, to, options).output().unwrap().into()
    }
}

fn mode_of(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Files for all the ways in which files are stored, and directories, with modes that one would not
/// guess.
fn make_tree(root: &Path) {
    make_flat(&root.join("fresh"), 20, 5_000, &mut Random::new(31));
    fs::create_dir_all(root.join("few")).unwrap();
    fs::create_dir_all(root.join("read-only/below")).unwrap();
    fs::create_dir_all(root.join("private")).unwrap();
    for (name, mode) in [("small", 0o664), ("program", 0o755), ("set-user", 0o6755), ("written-only", 0o222)] {
        fs::write(root.join("few").join(name), name).unwrap();
        set_mode(&root.join("few").join(name), mode);
    }
    for (name, bytes, mode) in [("key", 40, 0o600), ("large key", 5 << 20, 0o600), ("large program", 5 << 20, 0o777)] {
        fs::write(root.join("private").join(name), Random::new(32).bytes(bytes)).unwrap();
        set_mode(&root.join("private").join(name), mode);
    }
    for (name, bytes, mode) in [("empty", 0, 0o604), ("nobody's", 5, 0o000), ("large", 5 << 20, 0o444)] {
        fs::write(root.join("read-only/below").join(name), Random::new(33).bytes(bytes)).unwrap();
        set_mode(&root.join("read-only/below").join(name), mode);
    }
    for (number, mode) in [0o600, 0o640, 0o777, 0o4755, 0o060].into_iter().enumerate() {
        set_mode(&root.join(format!("fresh/file-{number:06}")), mode);
    }
    for (name, mode) in
        [("fresh", 0o2771), ("few", 0o1777), ("private", 0o700), ("read-only/below", 0o055), ("read-only", 0o555)]
    {
        set_mode(&root.join(name), mode);
    }
}

/// Regression: what a private directory hid was exposed by the copy of its contents.
#[test]
fn a_destination_that_is_made_for_the_contents_of_a_directory_gets_its_mode() {
    //= W-59
    //# A receiver that creates the destination gives it this mode, limited by its umask, plus `rwx`
    //# for the owner. An existing destination keeps its own.
    let room = Room::new();
    let source = room.path("source");
    fs::create_dir(&source).unwrap();
    fs::write(source.join("readable"), "x").unwrap();
    for (mode, umask, expected) in [(0o700, "022", 0o700), (0o755, "027", 0o750), (0o550, "000", 0o750)] {
        set_mode(&source, mode);
        let to = format!("above {mode:o}/new");
        room.send(umask, &source.join(""), &to, &[]).exits(0);
        assert_eq!(mode_of(&room.path(&to)), expected, "{mode:o} through {umask}");
        // In the other direction.
        let mut getting = room.command(umask, "get", &["--preserve"]);
        getting.arg(FarEnd::place(&source.join(""))).arg(room.path(&format!("got {mode:o}")));
        Ran::from(getting.output().unwrap()).exits(0);
        assert_eq!(mode_of(&room.path(&format!("got {mode:o}"))), expected, "{mode:o} through {umask}");
        // What is there stays as it is, and so does what is created above it.
        set_mode(&room.path(&to), 0o711);
        fs::write(source.join(format!("more {mode:o}")), "y").unwrap();
        room.send(umask, &source.join(""), &to, &[]).exits(0);
        assert_eq!(mode_of(&room.path(&to)), 0o711);
    }
    set_mode(&source, 0o700);
    room.send("022", &source.join(""), "way/new", &[]).exits(0);
    assert_eq!(mode_of(&room.path("way")), 0o755);
    // Of several sources, and of a source with a name, no mode is sent.
    room.send("022", &source, "named", &[]).exits(0);
    assert_eq!(mode_of(&room.path("named")), 0o755);
    assert_eq!(mode_of(&room.path("named/source")), 0o700);
}

/// Regression: a file of 0600 became 0644, and a program was no longer executable.
#[test]
fn what_is_stored_has_the_sources_mode_through_the_umask() {
    if !is_root() {
        eprintln!("skipped: this needs root, to read what nobody may read");
        return;
    }
    for umask in [0o022, 0o027, 0o077, 0o000] {
        let room = Room::new();
        let source = room.path("source");
        make_tree(&source);
        let is_push = umask & 0o20 != 0;
        let umask_digits = format!("{umask:03o}");
        if is_push {
            room.send(&umask_digits, &source.join(""), "there", &[]).exits(0);
        } else {
            let mut getting = room.command(&umask_digits, "get", &[]);
            getting.arg(FarEnd::place(&source.join(""))).arg(room.path("there"));
            Ran::from(getting.output().unwrap()).exits(0);
        }
        assert_same(&source, &room.path("there"));
        for name in contents(&source).into_keys() {
            let (from, to) = (source.join(&name), room.path("there").join(&name));
            let for_owner = if from.is_dir() { 0o700 } else { 0 };
            let expected = (mode_of(&from) & 0o777 | for_owner) & !umask;
            assert_eq!(format!("{:04o}", mode_of(&to)), format!("{expected:04o}"), "{umask:03o} {}", name.display());
        }
    }
}

#[test]
fn with_preserve_the_umask_takes_nothing() {
    let room = Room::new();
    let source = room.path("source");
    fs::create_dir_all(source.join("d")).unwrap();
    for (name, bytes) in [("small", 5), ("d/large", 5 << 20)] {
        fs::write(source.join(name), Random::new(34).bytes(bytes)).unwrap();
        set_mode(&source.join(name), 0o666);
    }
    set_mode(&source.join("d"), 0o577);
    room.send("077", &source.join(""), "there", &["--preserve"]).exits(0);
    let modes = ["small", "d/large", "d"].map(|name| mode_of(&room.path("there").join(name)));
    assert_eq!(modes, [0o666, 0o666, 0o577]);
}

/// What is below a directory and open to others than the owner, with its mode.
fn open_to_others(root: &Path) -> BTreeSet<(PathBuf, u32)> {
    let (mut found, mut directories) = (BTreeSet::new(), vec![root.to_owned()]);
    while let Some(directory) = directories.pop() {
        // Names come and go meanwhile.
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            if metadata.is_dir() {
                directories.push(entry.path());
            }
            if metadata.mode() & 0o077 != 0 && !metadata.is_symlink() {
                found.insert((entry.path(), metadata.mode() & 0o7777));
            }
        }
    }
    found
}

/// Under whatever name, in whatever way it is stored, and whatever the umask permits.
#[test]
fn what_is_private_is_open_to_nobody_for_no_moment() {
    let room = Room::new();
    let source = room.path("source");
    let mut random = Random::new(35);
    make_flat(&source.join("fresh"), 300, 3_000, &mut random);
    make_flat(&source.join("few"), 5, 3_000, &mut random);
    // More than there are descriptors for, in a directory that is not filled beside its place:
    // these have temporary names.
    make_flat(&source.join("many"), 300, 3_000, &mut random);
    fs::create_dir(source.join("many/below")).unwrap();
    make_flat(&source.join("large"), 3, 8 << 20, &mut random);
    let make_private = || {
        for (name, _) in contents(&source) {
            set_mode(&source.join(&name), if source.join(&name).is_dir() { 0o700 } else { 0o600 });
        }
    };
    make_private();
    fs::create_dir(room.path("there")).unwrap();
    let watch = |options: &[&str]| {
        let mut sending = room.sending("000; ulimit -n 256", &source.join(""), "there", options);
        let mut child = sending.stdout(Stdio::null()).stderr(Stdio::inherit()).spawn().unwrap();
        let (mut seen, mut looks) = (BTreeSet::new(), 0);
        let status = loop {
            seen.append(&mut open_to_others(&room.path("there")));
            looks += 1;
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
        };
        assert!(status.success(), "{options:?}");
        assert!(looks > 20, "it was hardly looked at");
        assert_eq!(seen, BTreeSet::new(), "{options:?}");
    };
    for preserve in [&[][..], &["--preserve"]] {
        watch(&[&["--rate", "300M"], preserve].concat());
        for overwrite in ["changed", "content", "always"] {
            for name in contents(&source).into_keys().filter(|name| source.join(name).is_file()) {
                let mut bytes = fs::read(source.join(&name)).unwrap();
                bytes.iter_mut().rev().take(1).for_each(|byte| *byte ^= 1);
                fs::write(source.join(&name), bytes).unwrap();
            }
            watch(&[&["--rate", "300M", "--overwrite", overwrite], preserve].concat());
        }
        assert_same(&source, &room.path("there"));
        fs::remove_dir_all(room.path("there")).unwrap();
        fs::create_dir(room.path("there")).unwrap();
    }
}

/// As with `cp`, `scp` and `rsync`: who may read it is decided at the destination.
#[test]
fn a_file_that_is_replaced_keeps_its_mode_and_not_its_setuid_bit() {
    for bytes in [0, 5, 5 << 20] {
        for overwrite in ["changed", "content", "always"] {
            let room = Room::new();
            let source = room.path("file");
            fs::create_dir(room.path("there")).unwrap();
            let there = room.path("there/file");
            fs::write(&source, Random::new(36).bytes(bytes)).unwrap();
            set_mode(&source, 0o755);
            fs::write(&there, "another content").unwrap();
            set_mode(&there, 0o4620);
            room.send("022", &source, "there", &["--overwrite", overwrite]).exits(0);
            assert!(fs::read(&source).unwrap() == fs::read(&there).unwrap());
            assert_eq!(mode_of(&there), 0o620, "{bytes} {overwrite}");
            // A symlink has no mode to keep.
            fs::remove_file(&there).unwrap();
            symlink("elsewhere", &there).unwrap();
            room.send("022", &source, "there", &["--overwrite", overwrite]).exits(0);
            assert_eq!(mode_of(&there), 0o755, "{bytes} {overwrite}");
            set_mode(&there, 0o620);
            fs::write(&source, Random::new(37).bytes(bytes + 1)).unwrap();
            room.send("022", &source, "there", &["--overwrite", overwrite, "--preserve"]).exits(0);
            assert_eq!(mode_of(&there), 0o755, "{bytes} {overwrite}");
        }
    }
}

/// What its mode said concerned others.
#[test]
fn a_file_of_another_group_that_is_replaced_opens_the_new_one_to_nobody() {
    if !is_root() {
        eprintln!("skipped: this needs root, to have a file of another group");
        return;
    }
    let room = Room::new();
    let source = room.path("file");
    fs::create_dir(room.path("there")).unwrap();
    let there = room.path("there/file");
    for (had, sent, expected) in [(0o660, 0o644, 0o640), (0o660, 0o600, 0o600), (0o604, 0o666, 0o604)] {
        fs::write(&there, "another content").unwrap();
        chown(&there, None, Some(NOBODY)).unwrap();
        set_mode(&there, had);
        fs::write(&source, format!("{had} {sent}")).unwrap();
        set_mode(&source, sent);
        room.send("022", &source, "there", &["--overwrite", "always"]).exits(0);
        assert_eq!(format!("{:o}", mode_of(&there)), format!("{expected:o}"), "{had:o} {sent:o}");
    }
}

/// Regression: it was skipped, because its bytes need not be sent.
#[test]
fn a_file_that_is_the_same_gets_its_mode_with_preserve() {
    let room = Room::new();
    let (source, there) = (room.path("source"), room.path("there"));
    fs::create_dir_all(source.join("closed")).unwrap();
    for (name, bytes) in [("small", 5), ("set-user", 7), ("closed/large", 5 << 20)] {
        fs::write(source.join(name), Random::new(41).bytes(bytes)).unwrap();
        set_mode(&source.join(name), 0o640);
    }
    let names = ["small", "set-user", "closed/large"];
    let modes = || names.map(|name| mode_of(&there.join(name)));
    let inodes = || names.map(|name| fs::metadata(there.join(name)).unwrap().ino());
    room.send("022", &source.join(""), "there", &[]).exits(0);
    let before = inodes();
    for overwrite in ["never", "changed", "content"] {
        set_mode(&there.join("small"), 0o604);
        set_mode(&there.join("set-user"), 0o4711);
        set_mode(&there.join("closed/large"), 0o444);
        let options = ["--preserve", "--overwrite", overwrite];
        let foretold = room.send("022", &source.join(""), "there", &[&options[..], &["--dry-run"]].concat());
        let foretold = foretold.exits(0).json();
        assert_eq!(modes(), [0o604, 0o4711, 0o444], "something was done");
        let files = foretold["would"]["files"].as_array().unwrap();
        let of = |name: &str| files.iter().find(|file| file["path"] == name).unwrap().clone();
        assert_eq!((&of("small")["action"], &of("small")["reason"]), (&"skipped".into(), &"mode".into()), "{foretold}");
        // Without --preserve there is nothing to do.
        let foretold = room.send("022", &source.join(""), "there", &["--dry-run"]).exits(0).json();
        assert_eq!(foretold["would"]["files"][0]["reason"], "same", "{foretold}");
        let result = room.send("022", &source.join(""), "there", &options).exits(0).json();
        assert_eq!(modes(), [0o640; 3], "{overwrite}");
        assert_eq!(inodes(), before, "{overwrite}");
        let files = &result["files"];
        assert_eq!((&files["stored"], &files["skipped"], &result["bytes"]), (&0.into(), &3.into(), &0.into()));
        assert_eq!(result["warning_count"], 0, "{result}");
    }
    // In the other direction.
    set_mode(&there.join("small"), 0o604);
    let mut getting = room.command("022", "get", &["--preserve"]);
    getting.arg(FarEnd::place(&source.join(""))).arg(&there);
    Ran::from(getting.output().unwrap()).exits(0);
    assert_eq!(modes(), [0o640; 3]);
    if is_root() {
        // Root could, but has not been asked to.
        chown(there.join("small"), Some(NOBODY), None).unwrap();
        set_mode(&there.join("small"), 0o604);
        let result = room.send("022", &source.join(""), "there", &["--preserve"]).exits(0).json();
        assert_eq!((modes()[0], &result["warning_count"]), (0o604, &1.into()), "{result}");
        assert_eq!(result["warnings"][0]["code"], "mode", "{result}");
    }
}

/// And one that an earlier attempt stored before modes were requested.
#[test]
fn a_file_that_an_interrupted_transfer_stored_gets_its_mode_too() {
    let room = Room::new();
    let source = room.path("source");
    fs::create_dir(&source).unwrap();
    for (name, bytes) in [("a", 3 << 20), ("b", 24 << 20)] {
        fs::write(source.join(name), Random::new(42).bytes(bytes)).unwrap();
        set_mode(&source.join(name), 0o666);
    }
    let mut sending = room.sending("022", &source.join(""), "there", &["--rate", "60M", "--retries", "0"]);
    let mut child = sending.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    wait_for("the first file", || room.path("there/a").exists().then_some(()));
    far_ends_of(child.id()).into_iter().for_each(kill);
    child.wait().unwrap();
    assert_eq!(mode_of(&room.path("there/a")), 0o644);
    room.send("022", &source.join(""), "there", &["--preserve", "--retries", "5"]).exits(0);
    assert_eq!(["there/a", "there/b"].map(|name| mode_of(&room.path(name))), [0o666; 2]);
    assert_same(&source, &room.path("there"));
}

/// As with `mkdir -p` and `cp -a`: whose the files in it are is up to the directory.
#[test]
fn new_directories_keep_the_setgid_bit_of_the_one_that_they_are_in() {
    for options in [&[][..], &["--preserve"]] {
        let room = Room::new();
        let (source, there) = (room.path("source"), room.path("there"));
        make_flat(&source.join("flat"), 20, 3_000, &mut Random::new(43));
        fs::create_dir_all(source.join("deep/deeper")).unwrap();
        set_mode(&source.join("deep"), 0o750);
        fs::create_dir(&there).unwrap();
        set_mode(&there, 0o2775);
        room.send("022", &source.join(""), "there", options).exits(0);
        let modes = ["flat", "deep", "deep/deeper"].map(|name| mode_of(&there.join(name)));
        assert_eq!(modes, [0o2755, 0o2750, 0o2755], "{options:?}");
        // This includes those that exist when it comes again, and none elsewhere.
        room.send("022", &source.join(""), "there", &[options, &["--overwrite", "changed"]].concat()).exits(0);
        assert_eq!(mode_of(&there.join("deep")), 0o2750, "{options:?}");
        set_mode(&source.join("deep"), 0o2750);
        room.send("022", &source.join(""), "elsewhere", options).exits(0);
        assert_eq!(mode_of(&room.path("elsewhere/deep")), 0o750, "{options:?}");
    }
}

#[test]
fn directories_that_are_there_keep_their_modes() {
    let room = Room::new();
    let (source, there) = (room.path("source"), room.path("there"));
    fs::create_dir_all(source.join("d/new")).unwrap();
    fs::create_dir_all(there.join("d")).unwrap();
    fs::write(source.join("d/file"), "").unwrap();
    for (path, mode) in [(source.join("d"), 0o777), (there.join("d"), 0o2711), (there.clone(), 0o751)] {
        set_mode(&path, mode);
    }
    for overwrite in ["never", "changed", "always"] {
        fs::write(source.join(format!("d/{overwrite}")), overwrite).unwrap();
        room.send("022", &source.join(""), "there", &["--overwrite", overwrite]).exits(0);
        assert_eq!([mode_of(&there), mode_of(&there.join("d"))], [0o751, 0o2711], "{overwrite}");
    }
}

/// A directory's default ACL takes the umask's place, as for everything that is created there.
#[test]
fn a_default_acl_decides_instead_of_the_umask() {
    let room = Room::new();
    let (source, there) = (room.path("source"), room.path("there"));
    make_flat(&source.join("fresh"), 20, 3_000, &mut Random::new(38));
    fs::write(source.join("small"), "small").unwrap();
    fs::write(source.join("large"), Random::new(39).bytes(5 << 20)).unwrap();
    fs::create_dir(&there).unwrap();
    let entry = |tag: u16, permissions: u16, id: u32| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let nobody = u32::MAX;
    // The owner, user 12, the group, the mask, others: rwx, rwx, rwx, rw-, ---.
    let entries = [(0x01, 7, nobody), (0x02, 7, 12), (0x04, 7, nobody), (0x10, 6, nobody), (0x20, 0, nobody)];
    let acl = [vec![2, 0, 0, 0], entries.into_iter().flat_map(|(tag, may, id)| entry(tag, may, id)).collect()].concat();
    let set = rustix::fs::setxattr(&there, "system.posix_acl_default", &acl, rustix::fs::XattrFlags::empty());
    if let Err(error) = set {
        eprintln!("skipped: the file system of the tests has no ACLs: {error}");
        return;
    }
    for mode in [0o664, 0o755, 0o600, 0o646] {
        for name in ["fresh/file-000001", "small", "large"] {
            set_mode(&source.join(name), mode);
        }
        room.send("077", &source.join(""), "there", &["--overwrite", "never"]).exits(0);
        let open = &mut fs::OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(open.write(true).create_new(true), mode)
            .open(there.join("ours"))
            .unwrap();
        let acl_of = |path: &Path| {
            let mut acl = vec![0; 1_000];
            let bytes = rustix::fs::getxattr(path, "system.posix_acl_access", &mut acl[..]);
            bytes.map(|bytes| acl[..bytes].to_vec())
        };
        for name in ["fresh/file-000001", "small", "large"] {
            let (ours, theirs) = (there.join("ours"), there.join(name));
            assert_eq!(format!("{:o}", mode_of(&theirs)), format!("{:o}", mode_of(&ours)), "{name} {mode:o}");
            assert_eq!(acl_of(&theirs), acl_of(&ours), "{name} {mode:o}");
        }
        for name in ["fresh", "small", "large", "ours"] {
            let path = there.join(name);
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }
}

/// Keys, records, receipts, journals, the node's socket, captures: whoever could read them would
/// know more than they should, or could do more.
#[test]
fn what_culvert_keeps_is_its_owners_alone_whatever_the_umask_is() {
    for umask in ["000", "022", "077"] {
        let room = Room::new();
        let (source, capture) = (room.path("source"), room.path("capture.pcapng"));
        fs::write(&source, Random::new(42).bytes(5 << 20)).unwrap();
        room.send(umask, &source, "there", &["--capture", capture.to_str().unwrap()]).exits(0);
        assert_eq!(mode_of(&capture), 0o600, "{umask}");
        let pair = Pair::new();
        let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"];
        let starting = pair.command(&pair.there, arguments);
        let mut with_umask = Command::new("sh");
        with_umask.args(["-c", &format!("umask {umask}; exec \"$@\""), "sh"]).arg(starting.get_program());
        let node = RunningNode::start(&pair.there, with_umask.args(starting.get_args()));
        pair.meet(node.port);
        pair.send(&source, "in", &[]).exits(0);
        assert!(fs::symlink_metadata(pair.there.join("api.sock")).is_ok());
        // What the test itself puts there.
        set_mode(&pair.there.join("node.log"), 0o600);
        for state in [room.path("near"), room.path("far"), pair.there.clone()] {
            assert_eq!(mode_of(&state), 0o700, "{umask}");
            assert_eq!(open_to_others(&state), BTreeSet::new(), "{umask}");
        }
    }
}

/// A source whose directories are read-only, stored and completed later without `--preserve`.
#[test]
fn directories_that_nobody_may_write_to_are_filled_and_can_be_filled_again() {
    let Some(account) = OtherAccount::new() else { return };
    let source = account.room.path("source");
    fs::create_dir_all(source.join("d/below")).unwrap();
    let close = || {
        set_mode(&source.join("d/below"), 0o500);
        set_mode(&source.join("d"), 0o555);
    };
    fs::write(source.join("d/below/file"), "file").unwrap();
    close();
    account.send(&[]).exits(0);
    fs::write(source.join("d/below/later"), "later").unwrap();
    fs::write(source.join("d/large"), Random::new(40).bytes(5 << 20)).unwrap();
    account.send(&[]).exits(0);
    assert_same(&source, &account.room.path("there/in"));
    let modes = ["d", "d/below"].map(|name| mode_of(&account.room.path("there/in").join(name)));
    assert_eq!(modes, [0o755, 0o700], "the owner cannot continue with them");
}

/// A far end that runs under an unprivileged account: root may do everything.
struct OtherAccount {
    room: Room,
}

impl OtherAccount {
    fn new() -> Option<Self> {
        if !is_root() || !is_installed("setpriv") {
            eprintln!("skipped: this needs root and setpriv (util-linux), to run a far end as another account");
            return None;
        }
        let wrapper = "setpriv --reuid=65534 --regid=65534 --clear-groups";
        let room = Room::with_far_end(Some(Path::new(wrapper)));
        // That account may not be able to reach the build.
        assert!(Command::new("cp").arg(culvert()).arg(room.path("culvert")).status().unwrap().success());
        set_mode(room.room.path(), 0o755);
        for name in ["far", "there"] {
            fs::create_dir(room.path(name)).unwrap();
            chown(room.path(name), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        Some(Self { room })
    }

    fn sending(&self, options: &[&str]) -> Command {
        let program = self.room.path("culvert");
        let mut sending = self.room.far.command_that_starts(&program, &self.room.path("near"), "send", options);
        sending.env("HOME", self.room.path("there")).stdin(Stdio::null());
        sending.arg(self.room.path("source/")).arg(FarEnd::place(&self.room.path("there/in")));
        sending
    }

    fn send(&self, options: &[&str]) -> Ran {
        self.sending(options).output().unwrap().into()
    }
}

/// Regression: a file with its mode but not yet its name, because its transfer was killed in
/// between, could no longer be opened: all of it was sent again, and it stayed.
#[test]
fn a_file_that_its_owner_may_not_write_is_gone_on_with_after_a_crash() {
    for (source_mode, left_mode) in [(0o444, 0o444), (0o200, 0o200), (0o000, 0o000), (0o640, 0o640)] {
        let Some(account) = OtherAccount::new() else { return };
        let source = account.room.path("source");
        fs::create_dir(&source).unwrap();
        fs::write(source.join("large"), Random::new(41).bytes(24 << 20)).unwrap();
        set_mode(&source.join("large"), source_mode);
        let mut sending = account.sending(&["--rate", "60M", "--retries", "0"]);
        let mut child = sending.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("a chunk in the journal", || {
            let journals = culvert_tests::journals::journals(&account.room.path("far"));
            let has_chunk = journals.iter().any(|(_, records)| records.iter().any(culvert_tests::journals::is_chunk));
            has_chunk.then_some(())
        });
        let there = account.room.path("there/in");
        let left = there.join(temporary_files_of(&there).first().unwrap());
        assert_eq!(mode_of(&left), 0o600, "it is the owner's alone until it has its name");
        far_ends_of(child.id()).into_iter().for_each(kill);
        child.wait().unwrap();
        set_mode(&left, left_mode);
        let mut sending = account.sending(&["--rate", "60M"]);
        let child = sending.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        wait_for("the file to be continued", || {
            let mode = fs::symlink_metadata(&left).expect("the file that was left is continued").mode();
            (mode & 0o7777 == 0o600).then_some(())
        });
        let result = Ran::from(child.wait_with_output().unwrap()).exits(0).json();
        assert!(result["resumed_bytes"].as_u64().unwrap() > 0, "{left_mode:o}: {result}");
        assert_eq!(mode_of(&there.join("large")), source_mode & !0o022);
        assert_eq!(temporary_files(&there), [] as [PathBuf; 0]);
        assert!(fs::read(there.join("large")).unwrap() == fs::read(source.join("large")).unwrap());
    }
}
