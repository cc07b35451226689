//! The command line: what it refuses, and how it says so.
//!
//! That this package has an integration test also makes cargo build the program whenever it builds
//! the workspace's tests, which start it.

use std::process::{Command, Output};

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
        (&["--listen", "7280"][..], "invalid socket address"),
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
        (&["--metrics", "here", "--listen", "127.0.0.1:0"][..], "--metrics must be an address or off, not 'here'"),
        (&["--smtp", "smtp://mail.example.org", "--listen", "127.0.0.1:0"][..], "--smtp needs --mail-from"),
        (&["--sealing-key-file", "/nowhere", "users", "list"][..], "cannot read /nowhere"),
        (&["users", "roles", "ada", "king"][..], "'king' is not a role"),
        (&["users", "reset", "nobody"][..], "there is no person 'nobody'"),
        (&["restore", "/nowhere"][..], "cannot copy /nowhere"),
    ] {
        let (code, said) = run(arguments);
        assert!(code != 0 && said.contains(expected), "{arguments:?} ends with {code}: {said}");
    }
}

#[test]
fn an_empty_portal_has_nobody_and_a_whole_trail() {
    let (code, said) = run(&["users", "list"]);
    assert_eq!((code, said.as_str()), (0, ""));
    let (code, said) = run(&["audit", "verify"]);
    assert!(code == 0 && said.contains("the audit trail is whole: 0 in all"), "{said}");
    let (code, said) = run(&["openapi"]);
    assert!(code == 0 && said.contains("\"openapi\": \"3.1.0\""), "{said}");
}
