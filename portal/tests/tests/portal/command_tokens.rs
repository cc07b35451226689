//! The tokens that `culvert` keeps, and those that it lists, makes and revokes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use culvert_portal_model::scope::Scope;
use culvert_portal_tests::command_line::{CommandLine, culvert};
use culvert_portal_tests::process::{folder, need, or_skip, run};
use culvert_portal_tests::program::{Browser, PASSWORD, PortalOptions, RunningPortal};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::command_login::{approve, ended, shown_code};

/// Somebody's new token, and a file that has it.
pub fn token_file(here: &CommandLine, browser: &mut Browser, name: &str) -> (String, String) {
    let secret = browser.make_token(&["people:read"]);
    let file = here.write(name, &format!("{secret}\n"));
    (secret, file)
}

/// Makes sure that a document has what its schema in `docs/schemas` requires, and nothing else.
#[track_caller]
pub fn assert_of_schema(document: &Value, name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../../docs/schemas/{name}.json"));
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    for required in schema["required"].as_array().unwrap() {
        assert!(document.get(required.as_str().unwrap()).is_some(), "{required} is missing: {document}");
    }
    for (field, value) in document.as_object().unwrap() {
        let kind = &schema["properties"][field];
        let of = |value: &Value, kind: &Value| match kind["type"].as_str() {
            None => assert_of_schema(value, kind["$ref"].as_str().unwrap().trim_end_matches(".json")),
            Some("string") => assert!(value.is_string(), "{field}: {document}"),
            Some("boolean") => assert!(value.is_boolean(), "{field}: {document}"),
            Some(other) => assert!(other == "array" && value.is_array(), "{field}: {document}"),
        };
        of(value, kind);
        value.as_array().into_iter().flatten().for_each(|item| of(item, &kind["items"]));
    }
}

/// Somebody who is logged in, with a portal, the browser of its administrator, and the password's
/// file.
fn logged_in() -> (RunningPortal, Browser, CommandLine, String) {
    let portal = RunningPortal::start(&PortalOptions::default());
    let mut ada = portal.with_admin();
    let here = CommandLine::new();
    let (_, file) = token_file(&here, &mut ada, "token");
    let _ = here.run(["login", &portal.url, "--token-file", &file]).succeeds();
    let password = here.write("password", &format!("{PASSWORD}\n"));
    (portal, ada, here, password)
}

/// The token's owner ends it elsewhere.
#[test]
fn a_revoked_token_is_told_and_logged_out_of() {
    let (portal, mut ada, here, _) = logged_in();
    let id = ada.get("/tokens").json()["items"][0]["id"].as_str().unwrap().to_owned();
    assert_eq!(ada.send("DELETE", &format!("/tokens/{id}"), &[], None).status, 204);
    here.run(["whoami"]).fails(4, &["no longer good", &format!("culvert login {}", portal.url)]);
    let failure = here.run(["whoami", "--json"]).json();
    assert_eq!(failure["error"]["exit_code"], 4, "{failure}");
    let out = here.run(["logout", "--json"]).succeeds().json();
    assert_eq!(out["revoked"], true, "{out}");
    assert!(here.portals().is_empty());
}

/// The portal cannot be told: the token is forgotten here, and it is said how it is ended there.
#[test]
fn logging_out_of_a_portal_that_is_away() {
    let (mut portal, _, here, password) = logged_in();
    let login = here.kept()["portals"][0].clone();
    portal.process.end_by(Signal::KILL);
    here.run(["whoami"]).fails(5, &["cannot connect", &portal.url[7..]]);
    let out = here.run(["logout", "--json"]);
    let until = login["token"]["expires_at"].as_str().unwrap().split('.').next().unwrap();
    let id = login["token"]["id"].as_str().unwrap();
    let line = format!("culvert token revoke {id} --portal {} --account ada", portal.url);
    out.fails(5, &["stays good", until, &line]);
    assert_eq!(out.json()["revoked"], false);
    assert!(here.portals().is_empty());
    // What was said is true.
    let address = portal.url[7..].parse().unwrap();
    let options = PortalOptions { listen: Some(address), ..PortalOptions::default() };
    let again = RunningPortal::start_again(&portal.state, &options);
    assert_eq!(again.log_in("ada").get("/tokens").json()["items"][0]["id"], id);
    let typed: Vec<&str> = line.split(' ').skip(1).chain(["--password-file", &password]).collect();
    let _ = here.run(typed).succeeds();
    assert_eq!(again.log_in("ada").get("/tokens").json()["items"], json!([]));
}

/// The file of tokens, as it should not be.
#[test]
fn the_file_of_tokens_is_looked_at_before_it_is_used() {
    let (portal, _, here, _) = logged_in();
    let file = here.kept_file();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let ran = here.run(["whoami"]).succeeds();
    assert!(ran.err.contains("other accounts could read") && ran.err.contains("644"), "{}", ran.err);
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let ran = here.run(["whoami"]).succeeds();
    assert_eq!(ran.err, "");
    let whole = fs::read_to_string(&file).unwrap();
    for damaged in ["", &whole[..whole.len() / 2], "[]"] {
        fs::write(&file, damaged).unwrap();
        for command in [&["whoami"][..], &["logout"], &["login", &portal.url]] {
            here.run(command).fails(7, &["portals.json is damaged", "move it away"]);
        }
        assert_eq!(fs::read_to_string(&file).unwrap(), damaged, "it is left as it is");
    }
    fs::rename(&file, here.path("away")).unwrap();
    here.run(["whoami"]).fails(4, &["not logged in"]);
}

/// Lists, makes, uses and revokes tokens with the password in a file.
#[test]
fn tokens_are_listed_made_and_revoked_by_a_password() {
    let (portal, mut ada, here, password) = logged_in();
    let token = |arguments: &[&str]| here.run([&["token", "--password-file", &password], arguments].concat());
    let listed = token(&["list", "--json"]).succeeds().json();
    assert_of_schema(&listed, "portal-tokens");
    assert_eq!(listed["tokens"].as_array().unwrap().len(), 1);
    let create = ["create", "inventory", "--scope", "people:read", "--days", "30"];
    let made = token(&create).succeeds();
    let secret = made.out.trim();
    assert!(secret.starts_with("culvert_pat_") && made.out.lines().count() == 1, "{made:?}");
    assert!(!made.err.contains(secret) && made.err.contains("inventory"), "{}", made.err);
    let other = CommandLine::new();
    let given = other.write("given", &made.out);
    let _ = other.run(["login", &portal.url, "--token-file", &given]).succeeds();
    assert_eq!(other.run(["whoami", "--json"]).succeeds().json()["token"]["name"], "inventory");
    let file = here.path("new.token");
    let to_file = [&create[..], &["--output", "new.token", "--json"]].concat();
    let document = token(&to_file).succeeds().json();
    assert_of_schema(&document, "portal-token-created");
    assert!(document["file"] == "new.token" && document.get("secret").is_none(), "{document}");
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&file).unwrap().starts_with("culvert_pat_"));
    token(&to_file).fails(2, &["new.token", "it is there already"]);
    token(&[&create[..], &["--output", "/not/there/x"]].concat()).fails(3, &["/not/there/x"]);
    token(&["create", "x", "--scope", "all"]).fails(2, &["'all'", "transfers:read", "audit:read"]);
    token(&["create", "x", "--days", "1000"]).fails(2, &["1 to 365 days"]);
    let names = |browser: &mut Browser| browser.get("/tokens").json()["items"].as_array().unwrap().len();
    assert_eq!(names(&mut ada), 3, "no token was made for what failed");
    // The command knows every scope that the portal has.
    let all = Scope::ALL.map(|scope| scope.to_string()).join(",");
    let every = token(&["create", "everything", "--scope", &all, "--json"]).succeeds().json();
    assert_eq!(every["token"]["scopes"].as_array().unwrap().len(), Scope::ALL.len());
    let _ = token(&["revoke", every["token"]["id"].as_str().unwrap()]).succeeds();
    let id = document["token"]["id"].as_str().unwrap();
    token(&["revoke", &id[..4]]).fails(2, &["several"]);
    token(&["revoke", "ffff"]).fails(3, &["no token ffff"]);
    let revoked = token(&["revoke", id, "--json"]).succeeds().json();
    assert_of_schema(&revoked, "portal-token-revoked");
    assert_eq!(names(&mut ada), 2);
    // The one that is kept here is forgotten as well.
    let own = here.kept()["portals"][0]["token"]["id"].as_str().unwrap().to_owned();
    let _ = token(&["revoke", &own]).succeeds();
    assert!(here.portals().is_empty());
    let wrong = here.write("wrong", "not the password\n");
    let asked = ["--portal", &portal.url, "--account", "ada"];
    here.run([&["token", "list", "--password-file", &wrong][..], &asked].concat()).fails(4, &["wrong-credentials"]);
    here.run(["token", "list", "--password-file", &wrong, "--portal", &portal.url]).fails(2, &["--account"]);
    here.run(["token", "list", "--password-file", &wrong]).fails(4, &["not logged in"]);
    // Logging in by the password, too.
    let by_password = ["login", &portal.url, "--account", "ada", "--password-file"];
    here.run([&by_password[..], &[&wrong]].concat()).fails(4, &["wrong-credentials"]);
    let _ = here.run([&by_password[..], &[&password]].concat()).succeeds();
    assert!(here.run(["whoami"]).succeeds().out.contains("transfers:read, transfers:write"));
    // No session is left behind.
    let sessions = ada.get("/sessions").json();
    let left = sessions["items"].as_array().unwrap();
    assert!(left.iter().all(|session| session["agent"].as_str().unwrap().is_empty()), "{sessions}");
}

/// Without a password: somebody with a browser makes the token.
#[test]
fn a_token_is_made_by_somebody_with_a_browser() {
    let (_portal, mut ada, here, _) = logged_in();
    let outputs = folder();
    let create = here.start(["token", "create", "robot", "--browser", "--output", "robot", "--json"], &outputs);
    let code = shown_code(&create);
    assert_eq!(ada.get(&format!("/device?user_code={code}")).json()["client"], "robot");
    approve(&mut ada, &code, Some(3));
    let (exit_code, document) = ended(create);
    assert_eq!(exit_code, 0, "{document}");
    assert_of_schema(&document, "portal-token-created");
    assert!(fs::read_to_string(here.path("robot")).unwrap().starts_with("culvert_pat_"));
    let outputs = folder();
    let denied = here.start(["token", "create", "robot-2", "--browser", "--output", "robot-2", "--json"], &outputs);
    let answer = ada.post("/device/deny", &json!({ "user_code": shown_code(&denied) }));
    assert_eq!(answer.status, 204);
    assert_eq!(ended(denied).0, 4);
    assert!(!here.path("robot-2").exists(), "an empty file is no token");
}

/// Types a password on a terminal; gives what the terminal shows.
const TYPIST: &str = r#"
import os, pty, sys
process, terminal = pty.fork()
if process == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = b""
while b"password of" not in shown or b": " not in shown.split(b"password of")[1]:
    shown += os.read(terminal, 1024)
os.write(terminal, sys.argv[1].encode() + b"\n")
try:
    while True:
        more = os.read(terminal, 1024)
        if not more:
            break
        shown += more
except OSError:
    pass
sys.stdout.write(shown.decode())
sys.exit(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
"#;

#[test]
fn a_password_is_asked_for_on_the_terminal_and_not_shown() {
    let (portal, _, here, _) = logged_in();
    let Some(python) = or_skip(need("python3")) else { return };
    for (password, code, shown) in [(PASSWORD, 0, "people:read"), ("not the password", 4, "wrong-credentials")] {
        let mut typist = Command::new(&python);
        here.dress(&mut typist);
        typist.args(["-c", TYPIST, password]).arg(culvert()).args(["token", "list"]);
        let ran = run("typist", typist, PATIENCE);
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(ran.out.contains(&format!("password of ada at {}", portal.url)), "{}", ran.out);
        assert!(ran.out.contains(shown) && !ran.out.contains(password), "{}", ran.out);
    }
    // Without a terminal, it is said what to do.
    let mut alone = Command::new("setsid");
    here.dress(&mut alone);
    alone.arg("--wait").arg(culvert()).args(["token", "list"]);
    run("culvert", alone, PATIENCE).fails(2, &["no terminal", "--password-file"]);
}
