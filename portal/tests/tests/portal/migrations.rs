//! Databases of every earlier schema, with data in them, open in this version.
//!
//! A schema that is released gets its fixtures: run the ignored test at the end by its name, and
//! check in what it writes.

use std::path::{Path, PathBuf};

use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::process::folder;
use culvert_portal_tests::program::{PortalOptions, RunningPortal, run};
use culvert_portal_tests::sql::python;
use rustix::process::Signal;
use serde_json::json;

/// The schemas that have fixtures.
const SCHEMAS: &[u32] = &[1];
/// The key that the fixtures are sealed under.
const KEY: [u8; 32] = *b"a key of fixtures, nobody's own.";
/// Reads an SQLite database of its text, or writes the text.
const LOAD: &str = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).executescript(open(sys.argv[2]).read())";
const DUMP: &str = "
import sqlite3, sys
open(sys.argv[2], 'w').write('\\n'.join(sqlite3.connect(sys.argv[1]).iterdump()) + '\\n')
";

fn fixture(schema: u32, database: &str) -> PathBuf {
    let name = format!("schema-{schema}.{database}.sql");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)
}

fn state_with_key(room: &Path) -> PathBuf {
    use std::os::unix::fs::PermissionsExt as _;
    let state = room.join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::write(state.join("sealing.key"), KEY).unwrap();
    std::fs::set_permissions(state.join("sealing.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    state
}

/// What is in each fixture is there and works.
fn check(state: &Path, options: &PortalOptions) {
    let running = RunningPortal::start_again(state, options);
    let mut admin = running.log_in("ada");
    let people = admin.get("/users").json();
    let names: Vec<&str> =
        people["items"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["ada", "boole", "curie"]);
    assert_eq!(people["items"][2]["state"], "deactivated");
    let group = &admin.get("/groups").json()["items"][0];
    assert_eq!((&group["name"], group["members"].as_array().unwrap().len()), (&json!("lab"), 2));
    assert_eq!(admin.get("/settings").json()["registration"], "invitation");
    let webhook = admin.get("/webhooks").json()["items"][0]["id"].as_str().unwrap().to_owned();
    // Its secret is opened to sign.
    assert_eq!(admin.post(&format!("/webhooks/{webhook}/test"), &json!({})).status, 202);
    assert_eq!(admin.get("/tokens").json()["items"][0]["name"], "of a fixture");
    assert_eq!(admin.get("/invitations").json()["items"].as_array().unwrap().len(), 1);
    assert_eq!(admin.post("/groups", &json!({ "name": "new", "members": [] })).status, 201);
    assert!(running.run(options, ["audit", "verify"]).succeeds().out.contains("is whole"));
}

#[test]
fn every_earlier_sqlite_database_opens() {
    for schema in SCHEMAS {
        let room = folder();
        let state = state_with_key(room.path());
        let database = state.join("portal.db").display().to_string();
        drop(python(LOAD, &[&database, &fixture(*schema, "sqlite").display().to_string()]).succeeds());
        check(&state, &PortalOptions::default());
    }
}

#[test]
fn every_earlier_postgresql_database_opens() {
    let Some(server) = Postgres::shared() else { return };
    for schema in SCHEMAS {
        let room = folder();
        let state = state_with_key(room.path());
        let database = server.new_database();
        let file = fixture(*schema, "postgresql").display().to_string();
        drop(server.run_client(
            "psql",
            ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--dbname", &database, "--file", &file],
        ));
        check(&state, &PortalOptions { database: Some(database), ..PortalOptions::default() });
    }
}

#[test]
fn a_database_of_a_newer_program_is_left_alone() {
    let room = folder();
    let state = state_with_key(room.path());
    drop(RunningPortal::start_again(&state, &PortalOptions::default()));
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99, 'later', 1, x'00', 1)";
    drop(culvert_portal_tests::sql::Sql::File(state.join("portal.db")).run(newer));
    let ran = run(&state, &PortalOptions::default(), ["users", "list"]);
    assert!(ran.code == 1 && ran.err.contains("has version 99") && ran.err.contains("use a newer program"), "{ran:?}");
}

/// Makes the fixtures of the newest schema, with what [`check`] looks for.
#[test]
#[ignore = "writes portal/tests/fixtures"]
fn write_the_fixtures_of_the_newest_schema() {
    let Some(server) = Postgres::shared() else { return };
    let schema = SCHEMAS[SCHEMAS.len() - 1];
    let url = server.new_database();
    for database in [None, Some(url.clone())] {
        let room = folder();
        let state = state_with_key(room.path());
        let options = PortalOptions { database: database.clone(), ..PortalOptions::default() };
        let mut running = RunningPortal::start_again(&state, &options);
        fill(&running);
        running.process.end_by(Signal::TERM);
        std::fs::create_dir_all(fixture(schema, "").parent().unwrap()).unwrap();
        match database {
            None => {
                let from = state.join("portal.db").display().to_string();
                drop(python(DUMP, &[&from, &fixture(schema, "sqlite").display().to_string()]).succeeds());
            }
            Some(url) => {
                let file = fixture(schema, "postgresql").display().to_string();
                drop(server.run_client("pg_dump", ["--inserts", "--no-owner", "--file", &file, &url]));
                // Which version has dumped it is nobody's concern.
                let text = std::fs::read_to_string(&file).unwrap();
                let lines = text.lines().filter(|line| !line.starts_with("-- Dumped") && !line.starts_with('\\'));
                std::fs::write(&file, lines.collect::<Vec<_>>().join("\n") + "\n").unwrap();
            }
        }
    }
}

fn fill(running: &RunningPortal) {
    let mut admin = running.with_admin();
    let boole = admin.make_person("boole", &["user", "operator"]);
    let curie = admin.make_person("curie", &["auditor"]);
    let done = |answer: culvert_portal_tests::http::Answer| assert!(answer.status < 300, "{}", answer.text());
    let state = json!({ "state": "deactivated" });
    done(admin.send("PATCH", &format!("/users/{curie}"), &[("if-match", "\"v1\"")], Some(&state)));
    done(admin.post("/groups", &json!({ "name": "lab", "description": "Gr\u{fc}n", "members": [boole, curie] })));
    let mut settings = admin.get("/settings").json();
    settings["registration"] = json!("invitation");
    done(admin.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&settings)));
    let wish = json!({ "url": "https://receiver.example.org/", "events": ["user.created"], "enabled": true });
    done(admin.post("/webhooks", &wish));
    done(admin.post("/tokens", &json!({ "name": "of a fixture", "scopes": ["people:read"], "days": 365 })));
    done(admin.post("/invitations", &json!({ "roles": ["user"], "days": 30 })));
    done(admin.post("/me/second-factor", &json!({})));
    // Its log has a failed login, too.
    let wrong = json!({ "name": "boole", "password": "not this one either" });
    let url = format!("{}/api/v1/sessions", running.url);
    assert_eq!(culvert_portal_tests::http::Client::new().post_json(&url, &wrong).status, 401);
}
