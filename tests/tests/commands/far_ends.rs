//! Far ends that ssh starts, and that do not outlive their transfer.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use culvert_tests::node::{children_of, kill, signal_process, wait_for};
use culvert_tests::program::Ran;
use culvert_tests::random::Random;
use culvert_tests::ssh_stand_in::{FarEnd, far_ends_of};
use culvert_tests::tree::temporary_files;
use rustix::process::Signal;

/// A transfer to a far end for which this host stands in.
struct Transfer {
    room: tempfile::TempDir,
    child: Child,
    far_ends: Vec<u32>,
}

impl Transfer {
    /// Begins one, and waits for its first data.
    fn begin(options: &[&str]) -> Self {
        let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), None);
        fs::write(room.path().join("source"), Random::new(3).bytes(24 << 20)).unwrap();
        let mut sending = far.command(&room.path().join("near"), "send", &[&["--rate", "60M"], options].concat());
        sending.arg(room.path().join("source")).arg(FarEnd::place(&room.path().join("there")));
        let child = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        wait_for("the first data", || (!temporary_files(room.path()).is_empty()).then_some(()));
        let far_ends = far_ends_of(child.id());
        assert!(!far_ends.is_empty());
        Self { room, child, far_ends }
    }

    /// Signals everything at the far end: the program and its data plane.
    fn signal(&self, signal: Signal) {
        for &far_end in &self.far_ends {
            for process in [far_end].into_iter().chain(children_of(far_end)) {
                signal_process(process, signal);
            }
        }
    }

    fn end(self) -> (Ran, tempfile::TempDir) {
        (self.child.wait_with_output().unwrap().into(), self.room)
    }
}

fn assert_stored(room: &Path) {
    assert!(fs::read(room.join("there")).unwrap() == fs::read(room.join("source")).unwrap());
    assert_eq!(temporary_files(room), [] as [PathBuf; 0]);
}

/// Regression: the dead far end's port was dialed again, in vain, and a firewall was blamed.
#[test]
fn a_far_end_that_dies_is_started_again() {
    let transfer = Transfer::begin(&[]);
    transfer.far_ends.iter().copied().for_each(kill);
    let (ran, room) = transfer.end();
    let ran = ran.exits(0);
    assert!(ran.err.contains("is being restarted"), "{}", ran.err);
    assert!(ran.json()["resumed_bytes"].as_u64().is_some());
    assert_stored(room.path());
}

/// What may be retried has a code that says so, and a firewall has nothing to do with it.
#[test]
fn a_far_end_that_dies_once_too_often_is_a_temporary_failure() {
    let transfer = Transfer::begin(&["--retries", "0"]);
    transfer.far_ends.iter().copied().for_each(kill);
    let (ran, _room) = transfer.end();
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(!ran.err.contains("firewall"), "{ran:?}");
}

/// Regression: a firewall was blamed for a port that had carried half of the transfer, and nothing
/// was retried.
#[test]
fn a_far_end_that_is_stopped_for_a_while_is_waited_for() {
    let transfer = Transfer::begin(&[]);
    transfer.signal(Signal::STOP);
    // Longer than it takes to give up the connection and to call once in vain.
    std::thread::sleep(Duration::from_secs(45));
    transfer.signal(Signal::CONT);
    let (ran, room) = transfer.end();
    ran.exits(0);
    assert_stored(room.path());
}

#[test]
fn a_far_end_that_stays_stopped_is_a_temporary_failure() {
    //= W-45
    //# An end that receives nothing for 30 s closes the connection.
    let transfer = Transfer::begin(&["--retries", "1"]);
    transfer.signal(Signal::STOP);
    let far_ends = transfer.far_ends.clone();
    let (ran, _room) = transfer.end();
    far_ends.into_iter().for_each(kill);
    assert_eq!(ran.code, 5, "{ran:?}");
    assert!(ran.err.contains("does not answer") && !ran.err.contains("firewall"), "{ran:?}");
}

/// Its host accepts the connection all the same, so no firewall is in the way.
#[test]
fn a_far_end_that_is_stopped_before_it_is_called_is_waited_for() {
    let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
    let (relay, has_answered, goes_on) =
        (room.path().join("relay"), room.path().join("has-answered"), room.path().join("goes-on"));
    let script = format!(
        "#!/bin/sh\n\"$@\" | {{ IFS= read -r line; touch {}; while [ ! -e {} ]; do sleep 0.05; done; \
         printf '%s\\n' \"$line\"; cat; }}\n",
        has_answered.display(),
        goes_on.display()
    );
    fs::write(&relay, script).unwrap();
    fs::set_permissions(&relay, fs::Permissions::from_mode(0o755)).unwrap();
    let far = FarEnd::new(room.path(), Some(&relay));
    fs::write(room.path().join("source"), "content").unwrap();
    let mut sending = far.command(&room.path().join("near"), "send", &[]);
    sending.arg(room.path().join("source")).arg(FarEnd::place(&room.path().join("there")));
    let child = sending.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_for("the far end's answer", || has_answered.exists().then_some(()));
    let transfer = Transfer { far_ends: far_ends_of(child.id()), room, child };
    assert!(!transfer.far_ends.is_empty());
    transfer.signal(Signal::STOP);
    fs::write(goes_on, "").unwrap();
    // Longer than a handshake may take.
    std::thread::sleep(Duration::from_secs(13));
    transfer.signal(Signal::CONT);
    let (ran, room) = transfer.end();
    ran.exits(0);
    assert_stored(room.path());
}

/// Regression: the next attempt waited forever for its answer.
#[test]
fn a_data_plane_that_stays_stopped_is_a_temporary_failure() {
    let transfer = Transfer::begin(&["--retries", "1"]);
    let far_ends = transfer.far_ends.clone();
    let has_ended = AtomicBool::new(false);
    let (planes, ran) = std::thread::scope(|scope| {
        // Also the one that the far end may start in place of one that does not answer.
        let stopping = scope.spawn(|| {
            let mut planes = BTreeSet::new();
            while !has_ended.load(Ordering::Acquire) {
                for plane in far_ends.iter().flat_map(|&far_end| children_of(far_end)) {
                    if planes.insert(plane) {
                        signal_process(plane, Signal::STOP);
                    }
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            planes
        });
        let (ran, _room) = transfer.end();
        has_ended.store(true, Ordering::Release);
        (stopping.join().unwrap(), ran)
    });
    assert!(!planes.is_empty());
    planes.into_iter().for_each(kill);
    assert_eq!(ran.code, 5, "{ran:?}");
}

/// Regression: text without an end of line before the answer was waited on forever.
#[test]
fn what_a_login_shell_prints_is_passed_over() {
    for prints in ["echo welcome", "printf 'loading modules... '", "printf 'caf\\351\\n'", "seq 1000"] {
        let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
        let noisy = room.path().join("noisy");
        fs::write(&noisy, format!("#!/bin/sh\n{prints}\nexec \"$@\"\n")).unwrap();
        fs::set_permissions(&noisy, fs::Permissions::from_mode(0o755)).unwrap();
        let far = FarEnd::new(room.path(), Some(&noisy));
        fs::write(room.path().join("source"), prints).unwrap();
        let mut sending = far.command(&room.path().join("near"), "send", &[]);
        sending.arg(room.path().join("source")).arg(FarEnd::place(&room.path().join("there")));
        Ran::from(sending.output().unwrap()).exits(0);
        assert_stored(room.path());
    }
}

/// Regression: it was cut at its first colon, and the rest was stored below the home directory.
#[test]
fn an_address_in_brackets_is_ssh_s() {
    for host in ["u@[::1]", "[::1]", "u@[fe80::1%lo]"] {
        let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
        let far = FarEnd::new(room.path(), None);
        fs::write(room.path().join("source"), host).unwrap();
        let mut sending = far.command(&room.path().join("near"), "send", &[]);
        sending.arg(room.path().join("source")).arg(format!("{host}:{}", room.path().join("there").display()));
        Ran::from(sending.output().unwrap()).exits(0);
        assert_stored(room.path());
    }
}

/// Regression: a directory named '~' was created in the home directory.
#[test]
fn a_tilde_at_the_far_end_is_its_home() {
    let room = tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap();
    let far = FarEnd::new(room.path(), None);
    let home = room.path().join("home");
    fs::create_dir(&home).unwrap();
    fs::write(room.path().join("source"), "content").unwrap();
    let run = |verb: &str, from: &str, to: &str| -> Ran {
        let mut moving = far.command(&room.path().join("near"), verb, &[]);
        moving.args([from, to]).env("HOME", &home).current_dir(room.path()).output().unwrap().into()
    };
    run("send", "source", "u@far:~/in/").exits(0);
    assert_eq!(fs::read(home.join("in/source")).unwrap(), b"content");
    run("get", "u@far:~/in/source", "back").exits(0);
    assert_eq!(fs::read(room.path().join("back")).unwrap(), b"content");
    run("send", "source", "u@far:~root/in/").exits(3).says("~root/in/");
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1, "nothing else was made");
}
