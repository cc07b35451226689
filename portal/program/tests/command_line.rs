//! The command line: what it refuses, and how it says so.
//!
//! That this package has an integration test also makes cargo build the program whenever it builds
//! the workspace's tests, which start it.

use std::process::{Command, Output, Stdio};

fn run(arguments: &[&str]) -> (i32, String) {
    let room = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_culvert-portal"));
    let Output { status, stdout, stderr } =
        command.arg("--state").arg(room.path().join("state")).args(arguments).output().unwrap();
    (status.code().unwrap(), String::from_utf8_lossy(&[stdout, stderr].concat()).into_owned())
}

#[test]
fn what_cannot_be_meant_is_refused_with_its_name_and_a_remedy() {
    for (arguments, expected) in [
        (&["--listen", "localhost:7280"][..], "an address with a port, as 127.0.0.1:7280"),
        (&["--listen", "0.0.0.0:0"][..], "--listen 0.0.0.0:0 has no TLS: passwords would cross the network in clear"),
        (&["--public-url", "http://[2001:db8::1]", "--listen", "127.0.0.1:0"][..], "Use https://"),
        (&["--password-list", "/nowhere", "--listen", "127.0.0.1:0"][..], "cannot use --password-list /nowhere"),
        (&["--password-list", "/etc/passwd", "--listen", "127.0.0.1:0"][..], "its first line is no hash"),
        (&["--database", "postgresql://a@b/c?sslmod=require"][..], "unknown parameter 'sslmod'"),
        (&["backup", "-"][..], "a copy is a file, not standard output"),
        (
            &["--database", "mysql://x"][..],
            "--database must be postgresql://USER@HOST/NAME or sqlite:PATH, not 'mysql://x'",
        ),
        (&["--public-url", "http://portal.example.org", "--listen", "127.0.0.1:0"][..], "Use https://"),
        (
            &["--public-url", "portal.example.org", "--listen", "127.0.0.1:0"][..],
            "--public-url must be https://HOST[:PORT]",
        ),
        (&["--trusted-proxy", "10.0.0.0/33"][..], "'10.0.0.0/33' is not an address or a network"),
        (&["--tls-cert", "/nowhere"][..], "--tls-key"),
        (&["--metrics", "here", "--listen", "127.0.0.1:0"][..], "or off, not 'here'"),
        (&["--smtp", "smtp://mail.example.org", "--listen", "127.0.0.1:0"][..], "--smtp needs --mail-from"),
        (&["--sealing-key-file", "/nowhere", "restore", "/dev/null"][..], "cannot read /nowhere"),
        (&["users", "roles", "ada", "king"][..], "'king' is not a role"),
        (&["restore", "/nowhere"][..], "cannot read the copy /nowhere"),
    ] {
        let (code, said) = run(arguments);
        assert!(code != 0 && said.contains(expected), "{arguments:?} ends with {code}: {said}");
    }
}

#[test]
fn commands_find_a_portal_and_make_none() {
    let room = tempfile::tempdir().unwrap();
    for there in [false, true] {
        let state = room.path().join("state");
        if there {
            std::fs::create_dir(&state).unwrap();
        }
        for command in [
            &["users", "list"][..],
            &["users", "create", "boole"],
            &["backup", "copy.db"],
            &["audit", "verify"],
            &["reseal", "--new-key", "new.key"],
        ] {
            let mut program = Command::new(env!("CARGO_BIN_EXE_culvert-portal"));
            program.current_dir(room.path()).arg("--state").arg(&state).args(command);
            let ran = program.output().unwrap();
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            assert_eq!(ran.status.code(), Some(1), "{command:?}: {said}");
            for expected in
                ["there is no portal in ", "portal.db", "--state or CULVERT_PORTAL_STATE", "/var/lib/culvert-portal"]
            {
                assert!(said.contains(expected), "{command:?}: {said}");
            }
            assert_eq!(state.exists(), there, "{command:?}");
            let made = if there { std::fs::read_dir(&state).unwrap().count() } else { 0 };
            assert_eq!(made, 0, "{command:?} has made something");
            assert_eq!(std::fs::read_dir(room.path()).unwrap().count(), usize::from(there), "{command:?}");
        }
    }
}

#[test]
fn the_description_of_the_api_needs_no_portal() {
    let (code, said) = run(&["openapi"]);
    assert!(code == 0 && said.contains("\"openapi\": \"3.1.0\""), "{said}");
}

/// Behind `| head -1`, the one that reads goes away in the middle.
#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut program = Command::new(env!("CARGO_BIN_EXE_culvert-portal"));
    let mut running = program.arg("openapi").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(running.stdout.take());
    let ended = running.wait_with_output().unwrap();
    assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}
