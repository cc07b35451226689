//! `culvert portal`: the other program, with all that it is told.

use std::fs;

use culvert_portal_tests::command_line::{CommandLine, culvert};
use culvert_portal_tests::process::run;
use culvert_portal_tests::program::{PortalOptions, RunningPortal, portal};

use crate::PATIENCE;

#[test]
fn what_stands_behind_the_word_is_the_portals() {
    let running = RunningPortal::start(&PortalOptions::default());
    drop(running.with_admin());
    let here = CommandLine::new();
    let state = running.state.display().to_string();
    let with_path = |arguments: &[&str]| {
        let mut command = here.command(arguments);
        command.env("PATH", portal().parent().unwrap());
        run("culvert", command, PATIENCE)
    };
    let help = with_path(&["portal", "--help"]).succeeds();
    assert!(help.out.contains("--trusted-proxy") && help.out.contains("Usage: culvert portal"), "{}", help.out);
    assert!(with_path(&["portal", "--version"]).succeeds().out.starts_with("culvert-portal"));
    let listed = with_path(&["portal", "users", "list", "--state", &state]).succeeds();
    assert!(listed.out.contains("ada"), "{}", listed.out);
    // An option of both programs is the portal's.
    let verified = with_path(&["portal", "--state", &state, "audit", "verify"]).succeeds();
    assert!(verified.out.contains("the audit trail is whole"), "{}", verified.out);
    let refused = with_path(&["portal", "--nonsense"]);
    assert!(refused.code == 2 && refused.err.contains("--nonsense"), "{refused:?}");
}

#[test]
fn it_is_said_where_the_portal_was_looked_for() {
    let here = CommandLine::new();
    let alone = here.path("alone");
    fs::create_dir(&alone).unwrap();
    let program = alone.join("culvert");
    if fs::hard_link(culvert(), &program).is_err() {
        fs::copy(culvert(), &program).unwrap();
    }
    let mut command = std::process::Command::new(&program);
    here.dress(&mut command);
    command.arg("portal").env("PATH", "/nothing");
    let ran = run("culvert", command, PATIENCE);
    ran.fails(7, &["culvert-portal is not installed", &alone.display().to_string(), "install it"]);
}
