//! What happens until the far end has answered: interrupts, silence, its own errors; and far ends
//! that share the state directory of whoever starts them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use culvert_tests::node::wait_for;
use culvert_tests::program::{Ran, command};
use culvert_tests::schema::assert_valid;
use culvert_tests::ssh_stand_in::FarEnd;

fn room() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("culvert-ssh-").tempdir().unwrap()
}

fn script(path: &Path, text: &str) -> PathBuf {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    path.to_owned()
}

/// `localhost:` is what people try first, and hosts may share homes: the far end used to refuse the
/// transfer, because it knew one with that ID, its own.
#[test]
fn both_ends_may_have_one_state_directory() {
    let room = room();
    let far = FarEnd::new(room.path(), None);
    // Where the stand-in's far end has its state.
    let state = room.path().join("far");
    let (source, there) = (room.path().join("source"), room.path().join("there"));
    fs::create_dir(&source).unwrap();
    fs::write(source.join("file"), "content").unwrap();
    let send = |options: &[&str]| {
        let mut sending = far.command(&state, "send", options);
        Ran::from(sending.arg(&source).arg(FarEnd::place(&there)).output().unwrap())
    };
    send(&["--dry-run"]).exits(0);
    let sent = send(&[]).exits(0).json();
    assert_eq!(fs::read(there.join("source/file")).unwrap(), b"content");
    // Each end has its record and receipt.
    let id = sent["transfer"].as_str().unwrap();
    for state in [state.clone(), state.join("far-end")] {
        assert!(state.join(format!("receipts/{id}.receipt")).exists(), "{}", state.display());
    }
    let mut getting = far.command(&state, "get", &[]);
    let got = room.path().join("got");
    Ran::from(getting.arg(FarEnd::place(&there)).arg(&got).output().unwrap()).exits(0);
    assert_eq!(fs::read(got.join("there/source/file")).unwrap(), b"content");
    assert_eq!(send(&[]).exits(0).json()["files"]["stored"], 0);
}

/// Ctrl-C reaches all foreground processes of a terminal: ssh was gone before the far end could be
/// told, so the far end recorded that its process had been killed.
#[test]
fn what_a_terminal_sends_to_all_does_not_end_ssh_before_its_time() {
    let room = room();
    let told = room.path().join("told");
    let ssh = script(
        &room.path().join("ssh"),
        &format!("#!/bin/sh\ngrep SigIgn /proc/self/status >>'{}'\nexit 255\n", told.display()),
    );
    let mut sending = command(&room.path().join("near"), ["send", "--retries", "0", "--ssh"]);
    let ran: Ran = sending.arg(&ssh).args(["/etc/hostname", "u@far:x"]).output().unwrap().into();
    assert_ne!(ran.code, 0);
    let told = fs::read_to_string(&told).unwrap();
    let masks = told.lines().filter_map(|line| u64::from_str_radix(line.split_whitespace().nth(1)?, 16).ok());
    // SIGINT is 2. When asked for the host's name, ssh may end when it likes.
    assert!(masks.into_iter().any(|mask| mask & 0b10 == 0b10), "{told}");
}

/// Regression: an interrupt killed the process: no message, no JSON, and ssh was left behind at its
/// prompt.
#[test]
fn an_interrupt_while_ssh_connects_is_answered_and_ends_ssh() {
    for (signal, code, verb) in [("INT", 130, "send"), ("TERM", 143, "get")] {
        let room = room();
        let begun = room.path().join("begun");
        let ssh = script(
            &room.path().join("ssh"),
            &format!(
                "#!/bin/sh\nfor word in \"$@\"; do [ \"$word\" = -G ] && exit 0; done\necho $$ > {0}.new && mv {0}.new {0}\nexec sleep 600\n",
                begun.display()
            ),
        );
        let file = room.path().join("file");
        fs::write(&file, "x").unwrap();
        let mut starting = command(&room.path().join("near"), [verb, "--json", "--ssh"]);
        starting.arg(&ssh);
        match verb {
            "send" => starting.arg(&file).arg("u@far:there"),
            _ => starting.arg("u@far:file").arg(room.path().join("there")),
        };
        let running: Child = starting.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let ssh_process = wait_for("ssh", || fs::read_to_string(&begun).ok()).trim().to_owned();
        Command::new("kill").args([&format!("-{signal}"), &running.id().to_string()]).status().unwrap();
        let ran = Ran::from(running.wait_with_output().unwrap()).exits(code);
        let document = ran.json();
        assert_valid(&document, "failure");
        assert_eq!(document["state"], "canceled", "{document}");
        wait_for("the end of ssh", || (!Path::new(&format!("/proc/{ssh_process}")).exists()).then_some(()));
    }
}

/// Regression: the reason was only on standard error, and `--json` said that it was above.
#[test]
fn what_a_far_end_ends_with_is_the_error() {
    let room = room();
    let far = FarEnd::new(room.path(), None);
    let file = room.path().join("file");
    fs::write(&file, "x").unwrap();
    let mut sending = far.command(&room.path().join("near"), "send", &["--remote-cores", "999"]);
    let ran = Ran::from(sending.arg(&file).arg(FarEnd::place(&room.path().join("there"))).output().unwrap()).exits(2);
    let text = ran.json()["error"]["text"].as_str().unwrap().to_owned();
    assert!(text.contains("--remote-cores") && text.contains("999") && text.contains("the far end on u@far"), "{text}");
}

/// Regression: all but two of them were ignored.
#[test]
fn options_of_far_ends_are_refused_where_there_is_none_and_taken_where_a_bare_name_means_one() {
    let room = room();
    let file = room.path().join("file");
    fs::write(&file, "x").unwrap();
    let send = |options: &[&str], to: &str| {
        let mut sending = command(&room.path().join("near"), ["send"]);
        Ran::from(sending.args(options).arg(&file).arg(to).output().unwrap())
    };
    let options: [&[&str]; 4] =
        [&["--ssh", "ssh -i key"], &["--remote-program", "/x"], &["--remote-ports", "7273"], &["--remote-cores", "0"]];
    for option in options {
        send(option, "culvert://127.0.0.1:1/x").exits(2).says(option[0]);
    }
    // No profile has that name, so ssh is asked.
    send(&["--remote-ports", "7273", "--ssh", "/nowhere/ssh"], "far:x").exits(7).says("cannot start '/nowhere/ssh'");
}
