//! Partners get to know each other: keys that ask, invitations, approval, and what each side says
//! about the other.

use std::fs;
use std::path::Path;

use culvert_objects::fs::reach::Reach;
use culvert_protocol::control::{Message, PermissionAnswer, RefusalCode};
use culvert_tests::node::{Pair, key_of};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::schema::assert_valid;
use culvert_tests::stranger::Stranger;
use serde_json::json;

fn fingerprint_of(state: &Path) -> String {
    run(state, ["identity", "--json", "init"]).exits(0).json()["fingerprint"].as_str().unwrap().to_owned()
}

fn words_of(state: &Path) -> String {
    run(state, ["identity", "--json"]).exits(0).json()["words"].as_str().unwrap().to_owned()
}

fn pending(state: &Path) -> serde_json::Value {
    run(state, ["profile", "pending", "--json"]).exits(0).json()
}

/// Regression: a node that was restored without its key made another, and every partner took it for
/// an impostor.
#[test]
fn a_key_that_is_gone_is_not_replaced_by_the_way() {
    let pair = Pair::new();
    let key = pair.here.join("identity.pk8");
    let aside = pair.path("key");
    drop(pair.start());
    fs::rename(&key, &aside).unwrap();
    let node = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "off"];
    for command in [
        &node[..],
        &["identity"],
        &["identity", "--json"],
        &["profile", "invite"],
        &["profile", "verify", "second"],
        &["send", "/proc/version", "second:/x"],
    ] {
        let refused = run(&pair.here, command).exits(7).says("identity.pk8 is missing").says("from a backup");
        let _ = refused.says("culvert identity init").says("each partner must confirm it");
        assert!(!key.exists(), "{command:?} made a key");
    }
    // Looking creates no key, and neither does a profile that is added before the key is back.
    run(&pair.here, ["transfer", "list"]).exits(0);
    run(&pair.here, ["profile", "add", "third", "--key", &key_of(&pair.path("third"))]).exits(0);
    assert!(!key.exists());
    fs::copy(&aside, &key).unwrap();
    run(&pair.here, ["identity"]).exits(0);
    fs::remove_file(&key).unwrap();
    let new = fingerprint_of(&pair.here);
    assert!(run(&pair.here, ["identity"]).exits(0).out.contains(&new));

    // Whoever begins with a profile gets a key along with it.
    let fresh = pair.path("fresh");
    run(&fresh, ["profile", "add", "second", "--key", &key_of(&pair.there)]).exits(0);
    run(&fresh, ["identity"]).exits(0);
}

/// Regression: the partner's word was not asked for; a key that matched was enough.
#[test]
fn verify_asks_whether_the_partner_knows_this_node() {
    //= W-35
    //# An end that only wants to check whether it is known sends `Ping` instead, receives `Pong`,
    //# and the connection is closed. A node that does not know it refuses as in W-34.
    let pair = Pair::new();
    let node = pair.start();
    let verify = |options: &[&str]| run(&pair.here, [&["profile", "verify", "second"], options].concat());
    assert!(verify(&[]).exits(0).out.contains("it knows this node"));
    assert_eq!(verify(&["--json"]).exits(0).json()["knows_this_node"], true);
    run(&pair.there, ["profile", "remove", "first"]).exits(0);
    for _ in 0..2 {
        let refused = verify(&[]).exits(4).says("does not know this node's key").says(&fingerprint_of(&pair.here));
        assert!(refused.out.is_empty(), "{refused:?}");
    }
    // Whoever is refused waits for approval, listed by its host without the port of that
    // connection.
    let asked = pending(&pair.there);
    assert_eq!((asked.as_array().unwrap().len(), &asked[0]["address"]), (1, &"127.0.0.1".into()), "{asked}");
    run(&pair.there, ["profile", "approve", &fingerprint_of(&pair.here), "--name", "first"]).exits(0);
    verify(&[]).exits(0);
    drop(node);
    verify(&[]).exits(5).says("cannot connect");
}

/// Regression: it said that both knew each other, but the first transfer was refused.
#[test]
fn verify_tells_what_each_side_permits_and_what_to_change_on_which_host() {
    let pair = Pair::new();
    let _node = pair.start();
    let verify = || {
        let text = run(&pair.here, ["profile", "verify", "second"]).exits(0).out;
        let answer = run(&pair.here, ["profile", "verify", "second", "--json"]).exits(0).json();
        assert_valid(&answer, "profile-verified");
        (text, answer)
    };
    let permit = |state: &Path, name: &str, what: &[&str]| {
        run(state, [&["profile", "edit", name], what].concat()).exits(0);
    };
    let shared = pair.shared.display().to_string();
    let (text, answer) = verify();
    assert_eq!(answer["permitted_there"], json!({ "store": "yes", "fetch": "yes" }), "{answer}");
    assert_eq!(answer["permitted_here"], json!({ "store": "no", "fetch": "no" }), "{answer}");
    assert!(text.contains("this node may store and fetch files there"), "{text}");
    assert!(text.contains("'second' may neither store nor fetch files here"), "{text}");
    assert_eq!(answer["remedies"], json!([]), "one direction is enough: {answer}");
    // It shows directions, not directories.
    permit(&pair.there, "first", &["--permit", &format!("{shared}:read")]);
    let (text, answer) = verify();
    assert_eq!(answer["permitted_there"], json!({ "store": "no", "fetch": "yes" }), "{answer}");
    assert!(text.contains("may fetch files but not store any there") && !text.contains(&shared), "{text}");
    // Neither lets the other do anything.
    permit(&pair.there, "first", &["--forbid", &shared]);
    let (text, answer) = verify();
    assert_eq!(answer["remedies"].as_array().unwrap().len(), 2, "{answer}");
    for part in
        ["on the host of 'second'", "profile edit NAME --permit", "on this host", "profile edit second --permit"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    // A permitted directory that no longer exists.
    let gone = pair.path("gone");
    fs::create_dir(&gone).unwrap();
    let permitted = format!("{}:write", gone.display());
    permit(&pair.there, "first", &["--permit", &permitted]);
    permit(&pair.here, "second", &["--permit", &permitted]);
    fs::remove_dir(&gone).unwrap();
    let (text, answer) = verify();
    assert_eq!(answer["permitted_there"], json!({ "store": "unusable", "fetch": "no" }), "{answer}");
    assert!(text.contains("no directory that this node is permitted to store in there can be used"), "{text}");
    assert!(text.contains("this node may neither store nor fetch files there"), "{text}");
    assert!(text.contains(&format!("--forbid {}", gone.display())), "{text}");
}

/// Regression: a file was permitted, as advised, but it could not be fetched.
#[test]
fn what_is_permitted_is_a_directory() {
    let pair = Pair::new();
    let _node = pair.start();
    let file = pair.path("file");
    fs::write(&file, "").unwrap();
    let above = format!("--permit {}:read", pair.path("").canonicalize().unwrap().display());
    let permit = format!("{}:read", file.display());
    let refused = run(&pair.here, ["profile", "edit", "second", "--permit", &permit]).exits(2);
    assert!(refused.err.contains("not a directory") && refused.err.contains(&above), "{}", refused.err);
    // What a partner may not fetch may be a file.
    let reach = Reach::Permitted(Vec::new());
    let refusal = reach.open_sources(&[b"/data/run/file".to_vec()], "there", &mut |_| Ok(())).unwrap_err();
    assert!(refusal.text.contains("--permit /data/run:read'"), "{}", refusal.text);
}

#[test]
fn what_is_permitted_is_told_to_those_who_understand_it() {
    //= W-60
    //# Since version 8, an end that receives `Ping` in place of a `Request` (W-35) sends `Permits`
    //# before its `Pong`.
    //= W-60
    //# The end may omit the message; it sends it at most once and at no other time. It is not sent
    //# to partners of older versions.
    let pair = Pair::new();
    let node = pair.start();
    for version in [1, 7] {
        let mut old = Stranger::introduced_as(&pair.here, node.port, version);
        old.say(&Message::Ping(5));
        assert_eq!(old.hear(), Some(Message::Pong(5)), "version {version}");
    }
    let mut new = Stranger::introduced(&pair.here, node.port);
    new.say(&Message::Ping(5));
    assert_eq!(new.hear(), Some(Message::Permits { store: PermissionAnswer::Yes, fetch: PermissionAnswer::Yes }));
    assert_eq!(new.hear(), Some(Message::Pong(5)));
    // Nobody asked for it.
    let mut liar = Stranger::introduced(&pair.here, node.port);
    liar.say(&Message::Permits { store: PermissionAnswer::Yes, fetch: PermissionAnswer::Yes });
    assert_eq!(liar.hear_refusal().code, RefusalCode::Protocol);
}

#[test]
fn a_key_is_approved_by_as_much_of_its_fingerprint_as_is_unique() {
    let pair = Pair::new();
    let node = pair.start();
    let (key, address) = (key_of(&pair.there), format!("127.0.0.1:{}", node.port));
    let strangers: Vec<_> = (0..5).map(|number| pair.path(&format!("stranger-{number}"))).collect();
    for stranger in &strangers {
        run(stranger, ["profile", "add", "second", "--key", &key, "--address", &address]).exits(0);
        run(stranger, ["profile", "verify", "second"]).exits(4);
    }
    let approve = |beginning: &str, name: &str| -> Ran {
        run(&pair.there, ["profile", "approve", beginning, "--name", name, "--json"])
    };
    let of = |stranger: &Path| fingerprint_of(stranger)["SHA256:".len()..].to_owned();
    let fingerprints: Vec<String> = strangers.iter().map(|stranger| of(stranger)).collect();
    let unique = |fingerprint: &str| {
        let is_others = |length: usize| {
            fingerprints.iter().any(|other| other != fingerprint && other.starts_with(&fingerprint[..length]))
        };
        (1..).find(|&length| !is_others(length)).unwrap()
    };
    let (first, second) = (&fingerprints[0], &fingerprints[1]);
    let short = &first[..unique(first)];
    approve("", "nobody").exits(2).says("more than one pending key");
    approve("SHA256:", "nobody").exits(2).says("more than one pending key");
    approve("SHA256:~", "nobody").exits(3).says("starts with 'SHA256:~'").says("profile pending");
    let approved = approve(short, "one").exits(0).says("'culvert profile edit one --address HOST:PORT'").json();
    assert_eq!(approved["fingerprint"], format!("SHA256:{first}"));
    assert_eq!(approved["words"].as_str().unwrap(), words_of(&strangers[0]));
    assert_eq!(approved["addresses"][0], "127.0.0.1:7272");
    approve(&format!("SHA256:{}", &second[..unique(second)]), "two").exits(0);
    // Prefixes that several keys share: with one key more than there are letters, two begin alike.
    let more: Vec<_> = (0..65).map(|number| pair.path(&format!("more-{number}"))).collect();
    let table: Vec<serde_json::Value> = more
        .iter()
        .map(|state| {
            let key = key_of(state);
            serde_json::json!({ "key": key, "name": "n", "address": "a", "first_seen_unix": 1, "last_seen_unix": 1 })
        })
        .collect();
    fs::write(pair.there.join("pending.json"), serde_json::to_vec(&table).unwrap()).unwrap();
    let mut letters: Vec<String> = more.iter().map(|state| of(state)[..1].to_owned()).collect();
    letters.sort();
    let twice = letters.windows(2).find(|pair| pair[0] == pair[1]).unwrap()[0].clone();
    approve(&twice, "three").exits(2).says("more than one pending key").says("give more of it");
}

#[test]
fn approval_keeps_the_address_where_the_key_was_found() {
    let pair = Pair::new();
    let node = pair.start();
    let (us, source) = (pair.path("newcomer"), pair.path("file"));
    fs::write(&source, "x").unwrap();
    let address = format!("127.0.0.1:{}", node.port);
    let place = format!("culvert://{address}{}", pair.shared.display());
    run(&us, ["send".as_ref(), source.as_os_str(), place.as_ref()]).exits(4).says("does not know");
    let found = pending(&us);
    assert_eq!(found[0]["address"], address);
    let text = run(&us, ["profile", "pending"]).exits(0).out;
    assert!(text.contains(&format!("was found at {address}")) && text.contains(&words_of(&pair.there)), "{text}");
    assert!(text.contains(" UTC"), "{text}");
    let beginning = &fingerprint_of(&pair.there)[..12];
    let approved = run(&us, ["profile", "approve", beginning, "--name", "second", "--json"]).exits(0);
    assert!(approved.json()["addresses"][0] == address.as_str() && approved.err.is_empty(), "{approved:?}");
}

#[test]
fn an_invitation_is_a_line_that_the_partner_types() {
    let pair = Pair::new();
    let node = pair.start();
    let address = format!("127.0.0.1:{}", node.port);
    let invited = run(&pair.there, ["profile", "invite", "--name", "dtn-b", "--address", &address]).exits(0);
    let words: Vec<&str> = invited.out.trim().split(' ').collect();
    assert_eq!(invited.out.lines().count(), 1, "{invited:?}");
    assert!(invited.err.contains(&words_of(&pair.there)), "{invited:?}");
    assert_eq!(words[0], "culvert");
    let guest = pair.path("guest");
    let shown: Ran = command(&guest, &words[1..]).output().unwrap().into();
    // What one side reads aloud is what the other one sees.
    assert!(shown.exits(0).out.contains(&words_of(&pair.there)));
    run(&pair.there, ["profile", "add", "guest", "--key", &key_of(&guest)]).exits(0);
    run(&guest, ["profile", "verify", "dtn-b"]).exits(0);
    let json = run(&pair.there, ["profile", "invite", "--address", "a.example.org", "--json"]).exits(0).json();
    assert!(json["command"].as_str().unwrap().ends_with("--address a.example.org:7272"), "{json}");
    assert_eq!(json["key"].as_str().unwrap(), key_of(&pair.there));
    culvert_tests::schema::assert_valid(&json, "profile-invite");
    run(&pair.there, ["profile", "invite", "--name", "a b"]).exits(2).says("'a b'");
}

#[test]
fn what_is_not_permitted_cannot_be_forbidden() {
    let pair = Pair::new();
    let edit = |path: &Path| run(&pair.there, ["profile", "edit", "first", "--forbid", path.to_str().unwrap()]);
    edit(Path::new("/never/was")).exits(3).says("'/never/was' is not permitted").says(pair.shared.to_str().unwrap());
    edit(&pair.shared).exits(0);
    edit(&pair.shared).exits(3).says("nothing is permitted");
    let shown = run(&pair.there, ["profile", "show", "first", "--json"]).exits(0).json();
    assert!(shown["permit"].as_array().unwrap().is_empty(), "{shown}");
}

/// In both directions: whom the node lets in, and whom it recognizes as a partner.
#[test]
fn a_running_node_uses_a_new_key_at_once() {
    let pair = Pair::new();
    let _node = pair.start();
    let (source, new) = (pair.path("file"), pair.path("new"));
    fs::write(&source, "x").unwrap();
    pair.send(&source, "one", &[]).exits(0);
    run(&pair.there, ["profile", "edit", "first", "--key", &key_of(&new)]).exits(0);
    pair.send(&source, "two", &[]).exits(4);
    let shown = run(&pair.here, ["profile", "show", "second", "--json"]).exits(0).json();
    let (key, address) = (shown["key"].as_str().unwrap(), shown["addresses"][0].as_str().unwrap());
    run(&new, ["profile", "add", "second", "--key", key, "--address", address]).exits(0);
    run(&new, ["profile", "verify", "second"]).exits(0);
    // The node connects to its partner: with the old key, and with one that is not the partner's.
    let back = pair.path("back");
    let home = Pair::new();
    let partner = home.start();
    let address = format!("127.0.0.1:{}", partner.port);
    let home_key = key_of(&home.there);
    run(
        &home.there,
        ["profile", "add", "it", "--key", &key_of(&pair.there), "--permit", &format!("{}:both", home.shared.display())],
    )
    .exits(0);
    run(&pair.there, ["profile", "add", "home", "--key", &home_key, "--address", &address]).exits(0);
    fs::write(home.shared.join("file"), "y").unwrap();
    let place = format!("home:{}", home.shared.join("file").display());
    let fetch = || run(&pair.there, ["get", &place, back.to_str().unwrap(), "--overwrite", "always"]);
    fetch().exits(0);
    run(&pair.there, ["profile", "edit", "home", "--key", &key_of(&pair.path("other"))]).exits(0);
    fetch().exits(12);
    run(&pair.there, ["profile", "edit", "home", "--key", &home_key]).exits(0);
    fetch().exits(0);
}
