//! Paths that name nothing: an empty one is no current directory, and a mistyped state directory is
//! not made by looking into it.

use std::fs;
use std::process::Command;

use culvert_tests::program::{Ran, command, culvert, run};

/// Every command that reads a state directory, or changes only what is in it already.
const READING: &[&[&str]] = &[
    &["transfer", "list"],
    &["transfer", "list", "--json"],
    &["transfer", "show", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "wait", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "watch", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "pause", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "resume", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "restart", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "cancel", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "receipt", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
    &["transfer", "submit", "/etc/hostname", "culvert://127.0.0.1:1/x"],
    &["status"],
    &["monitor"],
    &["capture", "/dev/null"],
    &["identity"],
    &["profile", "list"],
    &["profile", "show", "x"],
    &["profile", "edit", "x", "--address", "h"],
    &["profile", "remove", "x"],
    &["profile", "pending"],
    &["profile", "approve", "abcd", "--name", "x"],
    &["profile", "verify", "x"],
    &["path", "history"],
    &["path", "publish"],
];

/// Regression: each made the directory, with four others in it.
#[test]
fn commands_that_read_make_no_state_directory() {
    let room = tempfile::tempdir().unwrap();
    let configuration = room.path().join("culvert.toml");
    fs::write(&configuration, "[archive]\nurl = 'https://127.0.0.1:1/'\n").unwrap();
    let mistyped = room.path().join("mistyped");
    for arguments in READING {
        let mut asking = command(&mistyped, ["--config", configuration.to_str().unwrap()]);
        let ran: Ran = asking.args(*arguments).output().unwrap().into();
        assert!(!mistyped.exists(), "{arguments:?} made it: {ran:?}");
        assert_eq!(ran.code, 3, "{arguments:?}: {ran:?}");
        let is_named = ran.err.contains(mistyped.to_str().unwrap()) || arguments.contains(&"receipt");
        assert!(is_named, "{arguments:?}: {ran:?}");
    }
    // One that is there, but is none of Culvert's, stays as it is.
    fs::create_dir(&mistyped).unwrap();
    for arguments in READING {
        let mut asking = command(&mistyped, ["--config", configuration.to_str().unwrap()]);
        let ran: Ran = asking.args(*arguments).output().unwrap().into();
        assert_eq!(fs::read_dir(&mistyped).unwrap().count(), 0, "{arguments:?}: {ran:?}");
    }
    assert_eq!(run(&mistyped, ["transfer", "list"]).exits(0).out, "no transfers\n");
    run(&mistyped, ["identity", "init"]).exits(0);
    assert!(mistyped.join("identity.pk8").exists() && mistyped.join("profiles").exists());
}

/// Whoever has not used Culvert yet is told so, and nothing is made for them.
#[test]
fn the_default_state_directory_counts_as_empty_until_it_is_used() {
    let room = tempfile::tempdir().unwrap();
    for (arguments, told) in
        [(["transfer", "list"], "no transfers"), (["profile", "list"], "no profiles"), (["profile", "pending"], "")]
    {
        let mut asking = Command::new(culvert());
        let asking = asking.args(arguments).env_clear().env("HOME", room.path()).env("XDG_STATE_HOME", room.path());
        // Root's commands would use the system's node, if there were one.
        let ran = Ran::from(asking.output().unwrap()).exits(0);
        assert!(ran.out.contains(told), "{arguments:?}: {ran:?}");
        assert_eq!(fs::read_dir(room.path()).unwrap().count(), 0, "{arguments:?}");
    }
}

/// Regression: the files of a state directory appeared in the current directory.
#[test]
fn an_empty_path_is_refused_by_the_name_of_its_setting() {
    let room = tempfile::tempdir().unwrap();
    let here = room.path().join("here");
    fs::create_dir(&here).unwrap();
    let configuration = room.path().join("culvert.toml");
    fs::write(&configuration, "# Empty.\nstate = ''\n").unwrap();
    let configuration = configuration.to_str().unwrap();
    let ask = |arguments: &[&str], variable: Option<&str>| {
        let mut asking = Command::new(culvert());
        asking.args(arguments).current_dir(&here).env_clear().env("HOME", room.path()).env("PATH", "/usr/bin:/bin");
        asking.envs(variable.map(|variable| (variable, "")));
        let ran: Ran = asking.output().unwrap().into();
        assert_eq!(fs::read_dir(&here).unwrap().count(), 0, "{arguments:?}: {ran:?}");
        ran
    };
    let commands: [&[&str]; 7] = [
        &["profile", "list"],
        &["transfer", "list"],
        &["identity", "init"],
        &["send", "/etc/hostname", "nobody:/x"],
        &["path", "check", "nobody"],
        &["node"],
        &["tune", "status"],
    ];
    for arguments in commands {
        let told = "the path is empty";
        ask(&[&["--state", ""], arguments].concat(), None).exits(2).says("--state").says(told);
        ask(&[&["--config", ""], arguments].concat(), None).exits(2).says("--config").says(told);
        ask(arguments, Some("CULVERT_STATE")).exits(7).says("state (from variable CULVERT_STATE)").says(told);
        ask(arguments, Some("CULVERT_CONFIG")).exits(7).says("config (from variable CULVERT_CONFIG)").says(told);
        let from_file = format!("state (from {configuration}, line 2)");
        ask(&[&["--config", configuration], arguments].concat(), None).exits(7).says(&from_file).says(told);
    }
    let state = room.path().join("state").display().to_string();
    for arguments in [
        &["send", "", "nobody:/x"][..],
        &["get", "nobody:/x", ""],
        &["send", "--capture", "", "/etc/hostname", "nobody:/x"],
        &["capture", ""],
        &["demo", "--directory", "", "--size", "1M"],
        &["bench", "disk", "", "--size", "1M"],
        &["completion", "man", "--directory", ""],
        &["profile", "add", "x", "--key", &"7".repeat(64), "--permit", ":read"],
        &["node", "--dataplane-socket", ""],
        &["tune", "audit", "--site", ""],
        &["path", "pscheduler", "h", "--ca-file", ""],
    ] {
        let ran = ask(&[&["--state", &state], arguments].concat(), None);
        assert_eq!(ran.code, 2, "{arguments:?}: {ran:?}");
    }
}

/// Regression: a variable that is not UTF-8 counted as not set, so the default directory was used.
#[test]
fn a_variable_that_cannot_be_read_is_refused_by_name() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt as _;
    let room = tempfile::tempdir().unwrap();
    for variable in ["CULVERT_STATE", "CULVERT_NAME", "CULVERT_CONFIG"] {
        let mut asking = Command::new(culvert());
        asking
            .args(["profile", "list"])
            .env_clear()
            .env("HOME", room.path())
            .env(variable, OsStr::from_bytes(b"/x\xff"));
        Ran::from(asking.output().unwrap()).exits(7).says(variable).says("UTF-8");
    }
}
