//! How people name the other end: ssh hosts, addresses, patterns of names there.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use culvert_tests::node::Pair;
use culvert_tests::program::{Ran, command, culvert, run};

/// A stand-in for ssh that notes how it was called; it knows the host `far`.
struct Ssh {
    room: tempfile::TempDir,
}

impl Ssh {
    fn new() -> Self {
        let room = tempfile::Builder::new().prefix("culvert-places-").tempdir().unwrap();
        fs::create_dir(room.path().join("home")).unwrap();
        let script = format!(
            "#!/bin/sh\n\
             for word in \"$@\"; do [ \"$word\" = -G ] && {{ echo 'hostname 127.0.0.1'; exit 0; }}; done\n\
             asked=\n\
             while [ \"$1\" != -- ]; do asked=\"$asked$1 \"; shift; done\n\
             echo \"$asked$2\" >> '{asked}'\n\
             case $2 in *far|*far.example.org) ;; *) echo \"ssh: Could not resolve hostname $2\" >&2; exit 255;; esac\n\
             shift 2\n\
             export CULVERT_STATE='{state}' HOME='{home}' SSH_CONNECTION='127.0.0.1 1 127.0.0.1 22'\n\
             cd \"$HOME\"\n\
             exec sh -c \"$*\"\n",
            asked = room.path().join("asked").display(),
            state = room.path().join("far").display(),
            home = room.path().join("home").display(),
        );
        fs::write(room.path().join("ssh"), script).unwrap();
        fs::set_permissions(room.path().join("ssh"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(room.path().join("file"), "content").unwrap();
        Self { room }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.room.path().join(name)
    }

    fn home(&self, name: &str) -> PathBuf {
        self.path("home").join(name)
    }

    fn run(&self, state: &Path, verb: &str, places: &[&str]) -> Ran {
        let mut asking = command(state, [verb, "--retries", "0", "--ssh"]);
        asking.arg(self.path("ssh")).arg("--remote-program").arg(culvert()).args(places);
        asking.output().unwrap().into()
    }

    fn send(&self, destination: &str) -> Ran {
        self.run(&self.path("near"), "send", &[self.path("file").to_str().unwrap(), destination])
    }

    fn get(&self, sources: &[&str]) -> Ran {
        let into = self.path("got/");
        let _ = fs::remove_dir_all(&into);
        self.run(&self.path("near"), "get", &[sources, &[into.to_str().unwrap()]].concat())
    }

    fn got(&self) -> Vec<String> {
        names_in(&self.path("got"))
    }

    /// How ssh was last called.
    fn asked(&self) -> String {
        let asked = fs::read_to_string(self.path("asked")).unwrap_or_default();
        asked.lines().last().unwrap_or_default().to_owned()
    }
}

fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Regression: the answer was "there is no profile 'far'", without a word about ssh.
#[test]
fn a_host_without_a_user_is_one_of_ssh_unless_a_profile_has_its_name() {
    let ssh = Ssh::new();
    ssh.send("far:in/").exits(0);
    assert_eq!((ssh.asked().as_str(), names_in(&ssh.home("in"))), ("far", vec!["file".to_owned()]));
    ssh.get(&["far.example.org:in/file"]).exits(0);
    assert_eq!(ssh.got(), ["file"]);
    // If a profile has the name, that is what is meant.
    let pair = Pair::new();
    let _node = pair.start();
    let places = [ssh.path("file"), pair.shared.join("x")].map(|path| path.display().to_string());
    let asked = ssh.asked();
    run(&pair.here, ["send", &places[0], &format!("second:{}", places[1])]).exits(0);
    assert_eq!((ssh.asked(), fs::read(&places[1]).unwrap()), (asked, b"content".to_vec()));
}

#[test]
fn a_name_that_is_neither_a_profile_nor_a_host_of_ssh_is_told_as_both() {
    let ssh = Ssh::new();
    let ran = ssh.send("lab-b:in/");
    let as_one_of_ssh = ssh.send("u@lab-b:in/").code;
    let ran = ran.exits(as_one_of_ssh).says("there is no profile 'lab-b'").says("and ssh ");
    assert!(ran.err.contains("Could not resolve hostname"), "{}", ran.err);
    // Nobody types a password for a node.
    let pair = Pair::new();
    let _node = pair.start();
    let submit = |destination: &str| {
        let source = ssh.path("file").display().to_string();
        let mut submitting = command(&pair.there, ["transfer", "submit", &source, destination]);
        Ran::from(submitting.output().unwrap())
    };
    submit("far:in/").exits(3).says("there is no profile 'far'").says("'culvert send'");
    submit("u@far:in/").exits(2);
}

#[test]
fn an_address_of_ssh_names_its_port_and_its_path() {
    let ssh = Ssh::new();
    ssh.send(&format!("ssh://u@far:2222{}/", ssh.path("there").display())).exits(0);
    assert_eq!((ssh.asked().as_str(), names_in(&ssh.path("there"))), ("-p 2222 u@far", vec!["file".to_owned()]));
    ssh.send("ssh://far/~/in/").exits(0);
    assert_eq!((ssh.asked().as_str(), names_in(&ssh.home("in"))), ("far", vec!["file".to_owned()]));
}

/// Regression: `~/2222:/tmp/x` was created, with exit code 0.
#[test]
fn a_port_where_the_path_begins_is_refused_before_anything_is_asked() {
    let ssh = Ssh::new();
    ssh.send("u@far:2222:/tmp/x").exits(2).says("ssh://u@far:2222/tmp/x").says("--ssh 'ssh -p 2222'");
    ssh.get(&["far:2222:x"]).exits(2).says("ssh://far:2222/~/x");
    assert_eq!((ssh.asked().as_str(), names_in(&ssh.path("home"))), ("", vec![]));
    ssh.send("u@far:./2222:x").exits(0);
    assert_eq!(names_in(&ssh.path("home")), ["2222:x"]);
}

#[test]
fn a_pattern_is_matched_by_the_far_end_and_by_no_shell() {
    let ssh = Ssh::new();
    for name in ["a.fits", "b.fits", "c.txt", ".d.fits", "$(touch made).fits", "a b;.fits"] {
        fs::write(ssh.home(name), name).unwrap();
    }
    ssh.get(&["u@far:?.fits", "u@far:*.txt"]).exits(0);
    assert_eq!(ssh.got(), ["a.fits", "b.fits", "c.txt"]);
    ssh.get(&["u@far:~/*.fits"]).exits(0);
    assert_eq!(ssh.got(), ["$(touch made).fits", "a b;.fits", "a.fits", "b.fits"]);
    let absolute = format!("ssh://far{}/home/[ab]*", ssh.room.path().display());
    ssh.get(&[&absolute]).exits(0);
    assert_eq!(ssh.got(), ["a b;.fits", "a.fits", "b.fits"]);
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    ssh.get(&["u@far:*.jpg"]).exits(3).says("matches '*.jpg'").says(host.trim());
    // Nothing has executed what is in a name, or in a pattern.
    ssh.get(&["u@far:$(touch made)*; touch made"]).exits(3);
    assert!(!ssh.home("made").exists());
}

/// Users of scp quote such a name twice.
#[test]
fn a_name_that_looks_like_a_pattern_is_that_name() {
    let ssh = Ssh::new();
    for name in ["*.fits", "a.fits", "[1].txt", "1.txt"] {
        fs::write(ssh.home(name), name).unwrap();
    }
    for (typed, name) in [("*.fits", "*.fits"), ("[1].txt", "[1].txt"), ("\\*.fit?", "*.fits"), ("[*].fits", "*.fits")]
    {
        ssh.get(&[&format!("u@far:{typed}")]).exits(0);
        assert_eq!(ssh.got(), [name], "{typed}");
    }
}

#[test]
fn a_pattern_stays_within_what_a_node_permits() {
    let pair = Pair::new();
    let node = pair.start();
    let secret = pair.path("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("key.fits"), "secret").unwrap();
    for name in ["a.fits", "b.fits", "c.txt"] {
        fs::write(pair.shared.join(name), name).unwrap();
    }
    symlink(&secret, pair.shared.join("way")).unwrap();
    let into = pair.path("got/");
    let get = |source: &str| -> Ran {
        let _ = fs::remove_dir_all(&into);
        run(&pair.here, ["get", "--retries", "0", source, into.to_str().unwrap()])
    };
    let shared = pair.shared.display();
    for source in [
        format!("second:{shared}/*.fits"),
        "second:*.fits".to_owned(),
        format!("culvert://127.0.0.1:{}{shared}/?.fits", node.port),
    ] {
        get(&source).exits(0);
        assert_eq!(names_in(&into), ["a.fits", "b.fits"], "{source}");
    }
    for (source, code) in [
        (format!("second:{shared}/*/*.fits"), 3),
        (format!("second:{shared}/way/*"), 4),
        (format!("second:{}/*", secret.display()), 4),
        (format!("second:{shared}/../secret/*"), 4),
    ] {
        get(&source).exits(code);
        assert_eq!(names_in(&into), [] as [&str; 0], "{source}");
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    get("second:*.jpg").exits(3).says("'*.jpg'").says(host.trim());
}

/// Regression: a directory called `~` was created in what the partner permits.
#[test]
fn a_node_has_no_home_directory() {
    let pair = Pair::new();
    let _node = pair.start();
    fs::write(pair.path("file"), "content").unwrap();
    for destination in ["second:~/in/", "second:~", "second:~other/in/"] {
        run(&pair.here, ["send", "--retries", "0", pair.path("file").to_str().unwrap(), destination])
            .exits(3)
            .says("home directory");
    }
    assert_eq!(names_in(&pair.shared), [] as [&str; 0]);
    run(&pair.here, ["send", pair.path("file").to_str().unwrap(), "second:./~in/"]).exits(0);
    assert_eq!(names_in(&pair.shared), ["~in"]);
}
