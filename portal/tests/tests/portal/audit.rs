//! What somebody does to the audit trail who has the database, and what `audit verify` says.

use culvert_portal_tests::documents::block;
use culvert_portal_tests::process::{Ran, folder};
use culvert_portal_tests::program::{PortalOptions, RunningPortal, run};
use culvert_portal_tests::python::Python;
use culvert_portal_tests::sql::{Sql, python};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::on_both_databases;

/// Writes the whole chain anew with one word changed, as the page of the documentation says that
/// hashes are made; prints the SQL.
const REWRITE: &str = r#"
import hashlib, json, sys
before = ""
for line in open(sys.argv[1]).read().splitlines():
    number, body = line.split("|", 1)
    body = body.replace("boole", "bowle")
    text = f"culvert audit 1\n{before}\n{number}\n{body}"
    before = hashlib.sha256(text.encode()).hexdigest()
    quoted = body.replace("'", "''")
    print(f"UPDATE audit SET body = '{quoted}', hash = '{before}' WHERE number = {number};")
print(f"UPDATE heads SET hash = '{before}' WHERE name = 'audit';")
"#;

on_both_databases! {
    fn whatever_is_done_to_the_trail_is_found(options) {
        let mut running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        for name in ["boole", "curie", "dirac", "euler"] {
            admin.make_person(name, &["user"]);
        }
        running.process.end_by(Signal::TERM);
        let state = running.state.clone();
        let database = Sql::of(&state, options.database.as_deref());
        let verify = |options: &PortalOptions| run(&state, options, ["audit", "verify"]);
        assert!(verify(&options).succeeds().out.contains("is whole"));
        let last: i64 = database.run("SELECT MAX(number) FROM audit").parse().unwrap();
        assert!(last >= 6, "{last} entries");
        let boole = "(SELECT MIN(number) FROM audit WHERE body LIKE '%boole%')";
        let changed: i64 = database.run(&format!("SELECT {boole}")).parse().unwrap();
        let was_changed = format!("entry {changed} was changed: its hash");
        let mislabeled = format!("entry {changed} was changed: what it is found by");
        let rewritten = rewrite(&database);
        let cases = [
            // 'o' and 'n' are a bit apart.
            (format!("UPDATE audit SET body = replace(body, 'boole', 'bonle') WHERE number = {boole}"), &*was_changed),
            (format!("UPDATE audit SET hash = replace(hash, substr(hash, 1, 1), 'g') WHERE number = {boole}"), &was_changed),
            (format!("UPDATE audit SET action = 'user.edit' WHERE number = {boole}"), &mislabeled),
            (format!("UPDATE audit SET object_id = NULL WHERE number = {boole}"), &mislabeled),
            (format!("UPDATE audit SET at = at + 1 WHERE number = {boole}"), &mislabeled),
            ("DELETE FROM audit WHERE number = 3".to_owned(), "entries 3 to 3 are missing"),
            ("DELETE FROM audit WHERE number IN (1, 2)".to_owned(), "entries 1 to 2 are missing"),
            (format!("DELETE FROM audit WHERE number = {last}"), "the portal has signed one that ends with entry"),
            ("DELETE FROM audit".to_owned(), "the trail ends with entry 0"),
            (format!("DELETE FROM audit WHERE number = {last}; UPDATE heads SET number = {0}, hash = (SELECT hash FROM \
              audit WHERE number = {0}) WHERE name = 'audit'", last - 1), "is not signed by the portal's key"),
            ("UPDATE heads SET number = 0, hash = '' WHERE name = 'audit'".to_owned(), "is not signed"),
            ("UPDATE heads SET signature = replace(signature, substr(signature, 1, 1), 'x') WHERE name = 'audit'".to_owned(),
             "is not signed"),
            (rewritten, "is not signed by the portal's key"),
        ];
        for (sql, expected) in cases {
            let room = folder();
            let spoiled_state = room.path().join("state");
            std::fs::create_dir(&spoiled_state).unwrap();
            std::fs::copy(state.join("sealing.key"), spoiled_state.join("sealing.key")).unwrap();
            let copy = database.copied(&spoiled_state.join("portal.db"));
            sql.split_inclusive(';').filter(|one| !one.trim().is_empty()).for_each(|one| drop(copy.run(one)));
            let spoiled = match copy {
                Sql::File(_) => PortalOptions::default(),
                Sql::Server(url) => PortalOptions { database: Some(url), ..PortalOptions::default() },
            };
            let ran = run(&spoiled_state, &spoiled, ["audit", "verify"]);
            assert!(ran.code != 0 && ran.err.contains(expected), "{sql}: expected '{expected}': {ran:?}");
        }
    }

    /// Whoever has the portal's key as well can write another trail, but not one that contains a
    /// head that was kept elsewhere.
    fn a_head_that_was_kept_shows_another_trail(options) {
        let mut running = RunningPortal::start(&options);
        let mut admin = running.with_admin();
        admin.make_person("boole", &["user"]);
        running.process.end_by(Signal::TERM);
        let room = folder();
        let kept = room.path().join("head.json");
        let before = room.path().join("before.db");
        let database = Sql::of(&running.state, options.database.as_deref());
        let copy = database.copied(&before);
        let go_on = |options: &PortalOptions, name: &str| run(&running.state, options, ["users", "create", name]).succeeds();
        drop(go_on(&options, "curie"));
        let head = run(&running.state, &options, ["audit", "head"]).succeeds();
        std::fs::write(&kept, &head.out).unwrap();
        let holds = |options: &PortalOptions| -> Ran {
            run(&running.state, options, ["audit".as_ref(), "verify".as_ref(), "--head".as_ref(), kept.as_os_str()])
        };
        assert!(holds(&options).succeeds().out.contains("is whole"));
        // The portal itself goes on from the older copy: everything is signed by its key.
        let other = match copy {
            Sql::File(path) => {
                std::fs::rename(path, running.state.join("portal.db")).unwrap();
                options.clone()
            }
            Sql::Server(url) => PortalOptions { database: Some(url), ..PortalOptions::default() },
        };
        assert!(run(&running.state, &other, ["audit", "verify"]).succeeds().out.contains("is whole"));
        assert!(holds(&other).err.contains("the trail ends with entry"), "{:?}", holds(&other));
        drop(go_on(&other, "dirac"));
        assert!(run(&running.state, &other, ["audit", "verify"]).succeeds().out.contains("is whole"));
        assert!(holds(&other).err.contains("was written anew"), "{:?}", holds(&other));
        // A head that somebody has made up proves nothing.
        let mut head: Value = serde_json::from_str(&head.out).unwrap();
        head["number"] = json!(1);
        std::fs::write(&kept, head.to_string()).unwrap();
        assert_ne!(holds(&options).code, 0);
    }
}

/// The verifier of the page, which needs nothing of this program, holds a real export and head
/// against each other, and finds what was done to them.
#[test]
fn the_verifier_of_the_page_proves_an_export() {
    let Some(verifier) = Python::with("audit", &["cryptography==48.0.0"]) else { return };
    let options = PortalOptions::default();
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    for name in ["boole", "curie"] {
        admin.make_person(name, &["user"]);
    }
    // What is not ASCII, and what must be escaped.
    let group = json!({ "name": "lab", "description": "Gr\u{fc}n \"\\ \u{1f52c}", "members": [] });
    assert_eq!(admin.post("/groups", &group).status, 201);
    let head = running.run(&options, ["audit", "head"]).succeeds().out;
    // The trail goes on after its head was kept.
    admin.make_person("dirac", &["user"]);
    let export = running.run(&options, ["audit", "export"]).succeeds().out;
    let served = admin.get("/audit/export").text();
    assert_eq!(served, export, "the API's export is the command's");
    let room = folder();
    let script = block("portal-operations.md", "python");
    let verify = |export: &str, head: &str| {
        let [trail, kept] = [("trail", export), ("head", head)].map(|(name, text)| {
            let path = room.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.display().to_string()
        });
        verifier.run(["-c", &script, &trail, &kept])
    };
    let whole = verify(&export, &head).succeeds().out;
    let count = export.lines().count();
    assert!(whole.contains(&format!("{count} entries, whole; {} of them", count - 1)), "{whole}");
    let lines: Vec<&str> = export.lines().collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().join("\n");
    let shorter = lines[..count - 2].join("\n");
    let mut forged: Value = serde_json::from_str(&head).unwrap();
    forged["signature"] = json!("00".repeat(64));
    let forged = forged.to_string();
    for (trail, head, expected) in [
        (export.replace("boole", "bowle"), &head, "was changed"),
        (export.replace("\"before\":null", "\"before\": null"), &head, "was changed"),
        (without(2), &head, "entry 3 is missing"),
        (without(0), &head, "entry 1 is missing"),
        (shorter, &head, "and not the signed entry"),
        (export.clone(), &forged, "InvalidSignature"),
    ] {
        let ran = verify(&trail, head);
        assert!(ran.code != 0 && ran.err.contains(expected), "{expected}: {ran:?}");
    }
}

fn rewrite(database: &Sql) -> String {
    let rows = database.run("SELECT number, body FROM audit ORDER BY number");
    let room = folder();
    let input = room.path().join("rows");
    std::fs::write(&input, rows).unwrap();
    python(REWRITE, &[&input.display().to_string()]).succeeds().out
}
