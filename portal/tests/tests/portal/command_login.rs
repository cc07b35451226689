//! `culvert login`: let in by somebody with a browser, or with a token that there is.

use std::os::unix::fs::PermissionsExt as _;
use std::thread;

use culvert_portal_tests::command_line::CommandLine;
use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::live_on_both_databases;
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::process::{Process, folder};
use culvert_portal_tests::program::{Browser, PortalOptions, RunningPortal};
use culvert_portal_tests::scripted_server::ScriptedServer;
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::PATIENCE;
use crate::command_tokens::{assert_of_schema, token_file};

/// The code that a command shows.
#[track_caller]
pub fn shown_code(process: &Process) -> String {
    let mut code = None;
    process.until("showing a code", PATIENCE, || {
        let output = process.output();
        code = output.split("must show the code ").nth(1).and_then(|rest| rest.get(..9)).map(str::to_owned);
        code.is_some()
    });
    code.expect("a code")
}

#[track_caller]
pub fn approve(browser: &mut Browser, code: &str, days: Option<u32>) {
    let answer = browser.post("/device/approve", &json!({ "user_code": code, "days": days }));
    assert_eq!(answer.status, 204, "{}", answer.text());
}

/// The exit code of a command, and the JSON that it printed.
#[track_caller]
pub fn ended(mut process: Process) -> (i32, Value) {
    let status = process.wait(PATIENCE).unwrap_or_else(|| panic!("it waits on:\n{}", process.output()));
    let output = process.output();
    let json = output.lines().find(|line| line.starts_with('{')).and_then(|line| serde_json::from_str(line).ok());
    (status.code().unwrap_or(-1), json.unwrap_or(Value::String(output)))
}

live_on_both_databases! {
    /// From the code to the end of the token: let in by another session, asked who one is, logged
    /// out.
    fn somebody_with_a_browser_lets_a_command_in(portal) {
        let mut ada = portal.with_admin();
        let (here, outputs) = (CommandLine::new(), folder());
        let scopes = "people:read,audit:read";
        let login = here.start(["login", &portal.url, "--json", "--scope", scopes, "--days", "7"], &outputs);
        let code = shown_code(&login);
        let shown = ada.get(&format!("/device?user_code={code}")).json();
        assert_eq!((&shown["scopes"], &shown["days"]), (&json!(["people:read", "audit:read"]), &json!(7)));
        assert!(shown["client"].as_str().unwrap().starts_with("culvert on "), "{shown}");
        approve(&mut ada, &code, None);
        let (exit_code, document) = ended(login);
        assert_eq!(exit_code, 0, "{document}");
        assert_of_schema(&document, "portal-login");
        assert_eq!((&document["portal"], &document["account"]), (&json!(portal.url), &json!("ada")));
        let mode = here.kept_file().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let secret = here.kept()["portals"][0]["secret"].as_str().unwrap().to_owned();
        assert!(secret.starts_with("culvert_pat_") && !document.to_string().contains(&secret));
        let whoami = here.run(["whoami", "--json"]).succeeds().json();
        assert_of_schema(&whoami, "portal-account");
        assert_eq!((&whoami["roles"], &whoami["token"]), (&json!(["admin"]), &whoami["token"]));
        assert_eq!(whoami["token"]["id"], document["token"]["id"]);
        let words = here.run(["whoami"]).succeeds().out;
        for word in [portal.url.as_str(), "ada", "admin", "people:read, audit:read", "culvert on "] {
            assert!(words.contains(word), "{word}: {words}");
        }
        let out = here.run(["logout", "--json"]).succeeds().json();
        assert_of_schema(&out, "portal-logout");
        assert_eq!(out["revoked"], true);
        here.run(["whoami"]).fails(4, &["not logged in", "culvert login URL"]);
        here.run(["logout"]).fails(4, &["not logged in"]);
        let request = Request::new("GET", &format!("{}/api/v1/me", portal.url));
        let asked = Client::new().send(&request.with("authorization", &format!("Bearer {secret}"))).unwrap();
        assert_eq!(asked.status, 401, "the token is no longer good at the portal either");
        let told = ada.get("/audit?action=token.give-up").json();
        assert_eq!(told["items"][0]["entry"]["who"]["kind"], "token", "{told}");
        assert!(!portal.process.output().contains(&secret));
    }

    /// Nobody decides in time, somebody refuses, or only a part is granted.
    fn a_command_that_is_not_let_in_says_why(portal) {
        let mut ada = portal.with_admin();
        let here = CommandLine::new();
        let begin = |outputs: &tempfile::TempDir| here.start(["login", &portal.url, "--json"], outputs);
        let outputs = [folder(), folder(), folder()];
        let denied = begin(&outputs[0]);
        let answer = ada.post("/device/deny", &json!({ "user_code": shown_code(&denied) }));
        assert_eq!(answer.status, 204);
        let (code, document) = ended(denied);
        assert_eq!((code, &document["error"]["code"]), (4, &json!("not_permitted")), "{document}");
        let late = begin(&outputs[1]);
        let _ = shown_code(&late);
        portal.database().execute("UPDATE device_grants SET expires_at = 1");
        let (code, document) = ended(late);
        assert_eq!((code, &document["error"]["code"]), (10, &json!("timed_out")), "{document}");
        let part = begin(&outputs[2]);
        let approval = json!({ "user_code": shown_code(&part), "scopes": ["transfers:read"], "days": 1 });
        assert_eq!(ada.post("/device/approve", &approval).status, 204);
        part.until("ending", PATIENCE, || part.output().contains("not granted, transfers:write"));
        assert_eq!(ended(part).0, 0);
        assert_eq!(here.portals(), [portal.url.as_str()]);
    }
}

/// The portal is killed while a command waits, is away, and comes back.
#[test]
fn a_portal_that_comes_back_is_asked_again() {
    let port = Port::reserve();
    let options = PortalOptions { listen: Some(port.address()), ..PortalOptions::default() };
    let mut first = RunningPortal::start(&options);
    drop(first.with_admin());
    let (here, outputs) = (CommandLine::new(), folder());
    let login = here.start(["login", &first.url, "--json"], &outputs);
    let code = shown_code(&login);
    first.process.end_by(Signal::KILL);
    login.until("noticing it", PATIENCE, || login.output().contains("asking again as long as the code is good"));
    let second = RunningPortal::start_again(&first.state, &options);
    approve(&mut second.log_in("ada"), &code, None);
    let (exit_code, document) = ended(login);
    assert_eq!((exit_code, &document["account"]), (0, &json!("ada")), "{document}");
    let _ = here.run(["whoami"]).succeeds();
}

/// Interrupted: nothing is kept, and the terminal hears it.
#[test]
fn a_login_is_interrupted() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let here = CommandLine::new();
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let outputs = folder();
        let login = here.start(["login", &portal.url, "--json"], &outputs);
        let _ = shown_code(&login);
        login.signal(signal);
        let (exit_code, document) = ended(login);
        assert_eq!((exit_code, &document["state"]), (code, &json!("canceled")), "{document}");
    }
    assert!(here.portals().is_empty());
}

/// What a portal may say that the real one says seldom: to go slower, for so long that the code
/// ends first.
#[test]
fn a_portal_that_asks_for_patience_is_asked_no_more_often() {
    let mut polls = 0;
    let server = ScriptedServer::start(move |request| {
        let json = "content-type: application/json";
        let problem = "400 Bad\r\ncontent-type: application/problem+json";
        if request.starts_with("GET /api/v1/login/providers ") {
            return (format!("200 OK\r\n{json}"), "{\"items\":[]}".to_owned());
        }
        if request.starts_with("POST /api/v1/device/code ") {
            let codes = json!({ "device_code": "culvert_dev_x", "user_code": "BCDF-GHJK", "expires_in": 8,
                "interval": 1, "verification_uri_complete": "http://x/\u{1b}[31m", "new": 1 });
            return (format!("201 Created\r\n{json}"), codes.to_string());
        }
        polls += 1;
        let code = ["authorization-pending", "slow-down", "authorization-pending"][polls.min(3) - 1];
        (format!("{problem}\r\nretry-after: 4"), json!({ "code": code, "detail": "wait" }).to_string())
    });
    let here = CommandLine::new();
    let ran = here.run(["login", &format!("http://{}", server.address())]);
    ran.fails(10, &["nobody let this host in", "BCDF-GHJK"]);
    assert!(!ran.err.contains('\u{1b}'), "{}", ran.err);
    // After 1 s, told to wait for 4 s after 2 s, and after 6 s; the next would be after 8 s.
    assert_eq!(server.seen().matches("POST /api/v1/device/token").count(), 3);
}

/// Tokens that there are: from a file and from standard input; anything else is refused unseen.
#[test]
fn a_token_that_somebody_has_is_kept() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let mut ada = portal.with_admin();
    let here = CommandLine::new();
    let (secret, file) = token_file(&here, &mut ada, "token");
    let _ = here.run(["login", &portal.url, "--token-file", &file]).succeeds();
    assert_eq!(here.kept()["portals"][0]["secret"], json!(secret));
    // The same again replaces itself and stays good.
    let _ = here.run(["login", &portal.url, "--token-file", &file]).succeeds();
    let _ = here.run(["whoami"]).succeeds();
    let (other, other_file) = token_file(&here, &mut ada, "other");
    let mut shell = std::process::Command::new("sh");
    here.dress(&mut shell);
    let line = format!("exec \"$0\" login {} --with-token < {other_file}", portal.url);
    shell.args(["-c", &line]).arg(culvert_portal_tests::command_line::culvert());
    let _ = culvert_portal_tests::process::run("shell", shell, PATIENCE).succeeds();
    assert_eq!(here.kept()["portals"].as_array().unwrap().len(), 1);
    assert_eq!(here.kept()["portals"][0]["secret"], json!(other));
    here.run(["login", &portal.url, "--token-file", &file]).fails(4, &["no longer good"]);
    for (content, told) in [("", "has no API token"), ("hidden-password\n", "has no API token")] {
        let wrong = here.write("wrong", content);
        let ran = here.run(["login", &portal.url, "--token-file", &wrong]);
        ran.fails(2, &[told]);
        assert!(!ran.err.contains("hidden"), "{}", ran.err);
    }
    here.run(["login", &portal.url, "--token-file", "/not/there"]).fails(3, &["/not/there"]);
    here.run(["login", &portal.url, "--token-file", &file, "--days", "7"]).fails(2, &["--days"]);
    let _ = here.run(["whoami"]).succeeds();
}

/// Logins at several portals at once are all kept; the last is used, until another is chosen.
#[test]
fn several_portals_are_kept() {
    let portals = [RunningPortal::start(&PortalOptions::default()), RunningPortal::start(&PortalOptions::default())];
    let here = CommandLine::new();
    let files = portals.each_ref().map(|portal| token_file(&here, &mut portal.with_admin(), &portal.url[17..]).1);
    thread::scope(|scope| {
        for (portal, file) in portals.iter().zip(&files) {
            let here = &here;
            scope.spawn(move || here.run(["login", &portal.url, "--token-file", file]).succeeds());
        }
    });
    assert_eq!(here.portals().len(), 2);
    for portal in &portals {
        let _ = here.run(["login", "--switch", &portal.url]).succeeds();
        assert_eq!(here.run(["whoami", "--json"]).succeeds().json()["portal"], json!(portal.url));
    }
    let first = here.run(["whoami", "--portal", &portals[0].url, "--json"]).succeeds().json();
    assert_eq!(first["portal"], json!(portals[0].url));
    let _ = here.run(["logout"]).succeeds();
    assert_eq!(here.portals(), [portals[0].url.as_str()]);
    here.run(["whoami", "--portal", &portals[1].url]).fails(4, &[&portals[0].url, &portals[1].url]);
}

/// The place where tokens are kept is lost while somebody decides: the token does not stay alive
/// without anybody who has it.
#[test]
fn a_token_that_cannot_be_kept_is_given_up() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let mut ada = portal.with_admin();
    let (here, outputs) = (CommandLine::new(), folder());
    let login = here.start(["login", &portal.url, "--json"], &outputs);
    let code = shown_code(&login);
    let state = here.path("state/culvert");
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::write(&state, "").unwrap();
    approve(&mut ada, &code, None);
    let (exit_code, document) = ended(login);
    assert!(exit_code == 7 && document["error"]["text"].as_str().unwrap().contains("state/culvert"), "{document}");
    assert_eq!(ada.get("/tokens").json()["items"], json!([]));
    // Known before: nobody is asked.
    let again = here.run(["login", &portal.url]);
    again.fails(7, &["state/culvert"]);
    assert!(!again.err.contains("must show the code"));
}
