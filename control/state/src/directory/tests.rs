use std::os::unix::fs::PermissionsExt as _;

use super::*;
use crate::directory::writing::WRITING_PREFIX;

fn state() -> (tempfile::TempDir, StateDirectory) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path().join("state")).unwrap();
    (directory, state)
}

#[test]
fn the_key_is_made_once_and_only_its_owner_may_read_it() {
    let (_directory, state) = state();
    assert!(state.existing_identity().unwrap().is_none());
    let key = state.identity().unwrap().public_key();
    assert_eq!(state.identity().unwrap().public_key(), key);
    let path = state.path("identity.pk8");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let error = state.identity().unwrap_err().to_string();
    assert!(error.contains("chmod 600"), "{error}");
}

#[test]
fn a_damaged_key_is_named() {
    let (_directory, state) = state();
    state.identity().unwrap();
    fs::write(state.path("identity.pk8"), b"garbage").unwrap();
    let error = state.identity().unwrap_err().to_string();
    assert!(error.contains("identity.pk8") && error.contains("damaged"), "{error}");
}

#[test]
fn files_are_replaced_whole() {
    let (_directory, state) = state();
    assert_eq!(state.read("transfers/a.json").unwrap(), None);
    state.write("transfers/a.json", b"one").unwrap();
    state.write("transfers/a.json", b"two").unwrap();
    assert_eq!(state.read("transfers/a.json").unwrap().unwrap(), b"two");
    assert_eq!(state.list("transfers", ".json").unwrap(), ["a"]);
    assert!(state.remove("transfers/a.json").unwrap());
    // Whatever has the name, and nothing through it.
    let path = state.path("transfers/a.json");
    let other = state.path("other");
    fs::write(&other, "other").unwrap();
    std::os::unix::fs::symlink(&other, &path).unwrap();
    state.write("transfers/a.json", b"three").unwrap();
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("full")).unwrap();
    state.write("transfers/a.json", b"three").unwrap();
    assert_eq!(state.read("transfers/a.json").unwrap().unwrap(), b"three");
    assert!(state.path("transfers/a.json.damaged/full").is_dir() && fs::read(&other).unwrap() == b"other");
    assert!(state.remove("transfers/a.json").unwrap());
    assert!(!state.remove("transfers/a.json").unwrap());
}

#[test]
fn what_a_dead_process_left_half_written_is_removed() {
    let (_directory, state) = state();
    // No process has this number, which is above the kernel's limit, and none has what is no
    // number.
    let gone = ["4194305", "", ".", "..", "self"].map(|writer| format!("{WRITING_PREFIX}{writer}-x"));
    let living = format!("{WRITING_PREFIX}{}-x", std::process::id());
    let path = |name: &String| state.path("transfers").join(name);
    for name in gone.iter().chain([&living]) {
        fs::write(path(name), "half").unwrap();
    }
    state.sweep();
    for name in &gone {
        assert!(!path(name).exists(), "{name}");
    }
    assert!(path(&living).exists());
}
