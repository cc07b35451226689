use culvert_model::profile::{Permission, PermittedRoot};

use super::*;
use crate::profiles::pending::{PENDING, PENDING_MAX, PENDING_OF_HOST_MAX, PENDING_SILENT_S};

fn profiles() -> (tempfile::TempDir, Profiles) {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path()).unwrap();
    (directory, Profiles::new(state))
}

fn profile(byte: u8) -> Profile {
    Profile {
        key: PublicKey([byte; 32]),
        addresses: vec!["host:7272".into()],
        permit: vec![PermittedRoot { path: "/data".into(), permission: Permission::Write }],
    }
}

#[test]
fn profiles_are_added_found_and_removed() {
    let (_directory, profiles) = profiles();
    profiles.add("lab", &profile(1)).unwrap();
    assert_eq!(profiles.get("lab").unwrap(), profile(1));
    assert_eq!(profiles.with_key(PublicKey([1; 32])).unwrap().unwrap().0, "lab");
    assert_eq!(profiles.with_address("host:7272").unwrap().unwrap().0, "lab");
    assert!(matches!(profiles.add("lab", &profile(2)), Err(ProfileError::Exists(_))));
    assert!(matches!(profiles.add("other", &profile(1)), Err(ProfileError::KeyTaken(_))));
    profiles.remove("lab").unwrap();
    assert!(matches!(profiles.get("lab"), Err(ProfileError::NotFound { .. })));
}

#[test]
fn names_stay_in_their_directory() {
    let (_directory, profiles) = profiles();
    for name in ["", "../x", "a/b", ".hidden", "a b", "ä"] {
        assert!(matches!(profiles.add(name, &profile(1)), Err(ProfileError::BadName(_))), "{name}");
    }
}

#[test]
fn a_typo_in_a_profile_is_named() {
    let (_directory, profiles) = profiles();
    profiles.add("lab", &profile(1)).unwrap();
    std::fs::write(profiles.path("lab"), "key = 'xyz'\n").unwrap();
    let error = profiles.get("lab").unwrap_err().to_string();
    assert!(error.contains("lab.toml") && error.contains("64 hexadecimal"), "{error}");
    assert!(profiles.with_key(PublicKey([1; 32])).unwrap().is_none());
}

#[test]
fn what_a_newer_program_wrote_is_left_as_it_is_and_what_is_damaged_is_set_aside() {
    let (_directory, profiles) = profiles();
    profiles.add("lab", &profile(1)).unwrap();
    let text = std::fs::read_to_string(profiles.path("lab")).unwrap();
    std::fs::write(profiles.path("lab"), format!("version = 1\n{text}")).unwrap();
    assert_eq!(profiles.get("lab").unwrap(), profile(1));
    let newer = format!("version = 2\nwhat = 'is not known'\n{text}");
    std::fs::write(profiles.path("lab"), &newer).unwrap();
    let error = profiles.get("lab").unwrap_err().to_string();
    assert!(error.contains("lab.toml has version 2") && error.contains("newer Culvert"), "{error}");
    assert!(profiles.with_key(PublicKey([1; 32])).unwrap().is_none());
    assert!(profiles.replace("lab", &profile(1)).is_err());
    assert_eq!(std::fs::read_to_string(profiles.path("lab")).unwrap(), newer);
    let (state, key) = (&profiles.state, PublicKey([7; 32]));
    let newer = r#"{"version": 2, "keys": []}"#;
    state.write(PENDING, newer.as_bytes()).unwrap();
    assert!(profiles.note_pending(key, "n", "a", 1).is_err() && profiles.pending().is_err());
    assert_eq!(state.read(PENDING).unwrap().unwrap(), newer.as_bytes());
    // A truncated table counted as empty, and was overwritten.
    state.write(PENDING, b"[{").unwrap();
    assert!(profiles.note_pending(key, "n", "a", 1).unwrap());
    assert_eq!(profiles.pending().unwrap().len(), 1);
    assert_eq!(state.read("pending.json.damaged").unwrap().unwrap(), b"[{");
}

fn numbered(number: u32) -> PublicKey {
    let mut key = [0; 32];
    key[..4].copy_from_slice(&number.to_be_bytes());
    PublicKey(key)
}

fn address(host: u32) -> String {
    format!("{}:4000", std::net::Ipv4Addr::from_bits(0x0a00_0000 + host))
}

/// A key is known by the address it connected from, until this node's user connects to its node.
#[test]
fn where_a_node_listens_is_kept_and_where_it_comes_from_has_no_port() {
    let (_directory, profiles) = profiles();
    let key = PublicKey([7; 32]);
    let address = || profiles.pending().unwrap()[0].address.clone();
    let earlier = r#"[{"key": "KEY", "name": "n", "address": "[::ffff:10.78.0.1]:45230", "first_seen_unix": 1, "last_seen_unix": 1}]"#;
    profiles.state.write(PENDING, earlier.replace("KEY", &key.to_string()).as_bytes()).unwrap();
    assert_eq!(address(), "10.78.0.1");
    assert_eq!(profiles.pending().unwrap()[0].node_address(), "10.78.0.1:7272");
    assert!(profiles.note_pending(key, "n", "2001:db8::1", 100).unwrap());
    assert_eq!(profiles.pending().unwrap()[0].node_address(), "[2001:db8::1]:7272");
    // Within the same minute.
    assert!(profiles.note_pending(key, "n", "dtn.example.org:99", 101).unwrap());
    assert!(profiles.note_pending(key, "n", "2001:db8::1", 900).unwrap());
    assert_eq!(address(), "dtn.example.org:99");
    assert_eq!(profiles.pending().unwrap()[0].last_seen_unix, 900);
}

#[test]
fn strangers_cannot_fill_the_disk() {
    let (_directory, profiles) = profiles();
    for number in 0..PENDING_MAX as u32 + 10 {
        assert!(profiles.note_pending(numbered(number), "n", &address(number), u64::from(number)).unwrap());
    }
    assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX);
    let last = profiles.pending().unwrap().pop().unwrap();
    assert_eq!(profiles.find_pending(&last.key.fingerprint()).unwrap(), last);
    assert!(profiles.find_pending("SHA256:").is_err());
    profiles.add("lab", &Profile { key: last.key, ..profile(1) }).unwrap();
    assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX - 1);
}

/// A new key every second evicted one that was waiting for approval.
#[test]
fn a_key_that_waits_for_approval_is_not_pushed_out_by_those_that_come_after_it() {
    let (_directory, profiles) = profiles();
    //= W-34
    //# If a node receives a `Hello` under an unknown key, it records the key as pending (in a table
    //# of fixed size, with a share per host) and refuses with `unknown_key`.
    let (waiting, host) = (numbered(1_000_000), address(1_000_000));
    let is_there = |key| profiles.pending().unwrap().iter().any(|known| known.key == key);
    assert!(profiles.note_pending(waiting, "waiting", &host, 100).unwrap());
    // A host that shares its address with the honest one.
    let of_host = (0..50).filter(|&key| profiles.note_pending(numbered(key), "n", &host, 200).unwrap()).count();
    assert_eq!(of_host, PENDING_OF_HOST_MAX - 1);
    // Many hosts, with as many keys as each may have.
    for key in 100..100 + 2 * PENDING_MAX as u32 {
        let _ = profiles.note_pending(numbered(key), "n", &address(key / 8), u64::from(key) + 200).unwrap();
    }
    let newcomer = numbered(2_000_000);
    assert!(profiles.note_pending(newcomer, "new", &address(2_000_000), 900).unwrap());
    assert!(is_there(waiting) && is_there(newcomer));
    assert_eq!(profiles.pending().unwrap().len(), PENDING_MAX);
    // Hosts with one key each: the first keys stay, and new ones are recorded.
    for key in 10_000..10_000 + 2 * PENDING_MAX as u32 {
        assert!(profiles.note_pending(numbered(key), "n", &address(key), 1_000).unwrap());
    }
    assert!(is_there(newcomer));
    // Keys that have been silent for a week are evicted.
    let later = 1_000 + PENDING_SILENT_S + 1;
    assert!(profiles.note_pending(numbered(3_000_000), "n", &host, later).unwrap());
}
