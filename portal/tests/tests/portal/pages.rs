//! Where the links lead that the portal hands out: a page that says what to do, whose lines do it.

use std::process::Command;

use culvert_portal_tests::http::{Answer, Client, Request};
use culvert_portal_tests::process::{folder, need, or_skip, run};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::{Value, json};

use crate::PATIENCE;

fn ask(url: &str, method: &str, accept: &str) -> Answer {
    let request = Request::new(method, url).with("accept", accept);
    Client::new().send(&request).unwrap()
}

/// The lines that a page shows, typed into a shell with what the reader knows; the last answer.
fn type_lines(page: &Answer, words: &[(&str, &str)]) -> Value {
    let text = page.text();
    let (_, lines) = text.split_once("<pre>").expect("lines to type");
    let (lines, _) = lines.split_once("</pre>").expect("their end");
    let mut script = lines.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    for (word, meaning) in words {
        script = script.replace(word, meaning);
    }
    let room = folder();
    let mut shell = Command::new("bash");
    // One answer a line.
    let script = script.lines().map(|line| format!("{line} --silent --show-error; echo\n")).collect::<String>();
    shell.args(["-euc", &script]).current_dir(room.path());
    let ran = run("bash", shell, PATIENCE).succeeds();
    let last = ran.out.lines().rfind(|line| !line.is_empty()).unwrap_or("null");
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[test]
fn every_link_leads_to_a_page_without_scripts_that_changes_nothing() {
    let running = RunningPortal::start(&PortalOptions::default());
    let policy = ask(&format!("{}/api/v1/login/providers", running.url), "GET", "*/*");
    for path in ["/", "/setup", "/reset", "/join", "/device?code=BCDF-GHJK", "/login", "/login/code?next=%2F"] {
        let url = format!("{}{path}", running.url);
        let page = ask(&url, "GET", "text/html,application/xhtml+xml,*/*;q=0.8");
        assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        for header in ["content-security-policy", "cache-control", "x-content-type-options", "referrer-policy"] {
            assert!(page.header(header).is_some() && page.header(header) == policy.header(header), "{path} {header}");
        }
        let text = page.text();
        assert!(text.contains("<pre>curl -") && text.contains(&running.url), "{path}: {text}");
        for tag in ["<script", "<style", "style=", "<form", "<img", "PORTAL"] {
            assert!(!text.contains(tag), "{path}: {tag} in {text}");
        }
        let head = ask(&url, "HEAD", "text/html");
        assert_eq!((head.status, head.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
        // Who asks for no page hears the same as a problem.
        let told = ask(&url, "GET", "*/*");
        assert_eq!((told.status, told.header("content-type")), (404, Some("application/problem+json")), "{path}");
        assert!(told.json()["detail"].as_str().unwrap().contains(&format!("{}/api/v1/", running.url)), "{path}");
        assert_eq!(ask(&url, "POST", "text/html").status, 405, "{path}");
    }
    let page = ask(&format!("{}/login?problem=account-inactive", running.url), "GET", "text/html").text();
    assert!(page.contains("The account is not active (account-inactive)."), "{page}");
    let page = ask(&format!("{}/login?problem=%3Cscript%3E", running.url), "GET", "text/html").text();
    assert!(!page.contains("script"), "{page}");
}

#[test]
fn the_lines_on_the_pages_do_what_the_links_are_for() {
    let Some(_) = or_skip(need("curl")) else { return };
    let running = RunningPortal::start(&PortalOptions::default());
    let page = |path: &str| ask(&format!("{}{path}", running.url), "GET", "text/html");
    let with = |secret: &str, name: &str| {
        [("SECRET", secret), ("NAME", name), ("PASSWORD", PASSWORD)]
            .map(|(word, meaning)| (word.to_owned(), meaning.to_owned()))
            .to_vec()
    };
    let typed = |path: &str, words: &[(String, String)]| {
        let words: Vec<(&str, &str)> = words.iter().map(|(word, meaning)| (word.as_str(), meaning.as_str())).collect();
        type_lines(&page(path), &words)
    };
    let secret = running.setup_secret();
    assert_eq!(typed("/setup", &with(&secret, "ada"))["roles"], json!(["admin"]));
    let mut admin = running.log_in("ada");
    assert_eq!(typed("/login", &with("", "ada"))["user"]["name"], "ada");

    let mut settings = admin.get("/settings").json();
    settings["registration"] = json!("invitation");
    assert_eq!(admin.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&settings)).status, 200);
    let link = admin.post("/invitations", &json!({ "roles": ["user"], "days": 1 })).json()["link"].clone();
    let secret = link["secret"].as_str().unwrap();
    assert_eq!(link["url"], format!("{}/join#{secret}", running.url));
    assert_eq!(typed("/join", &with(secret, "boole"))["name"], "boole");

    // The command prints the whole link, and the secret.
    let options = PortalOptions::default();
    let ran = running.run(&options, ["users", "reset", "boole", "--public-url", &running.url]).succeeds();
    let begins = format!("{}/reset#culvert_lnk_", running.url);
    assert!(ran.out.lines().any(|line| line.starts_with(&begins)), "{}", ran.out);
    let secret = ran.out.lines().last().unwrap().rsplit(' ').next().unwrap().to_owned();
    let words = [("SECRET".to_owned(), secret), ("PASSWORD".to_owned(), "another engine two".to_owned())];
    assert_eq!(typed("/reset", &words), Value::Null);
    let entered = json!({ "name": "boole", "password": "another engine two" });
    let entered = Client::new().post_json(&format!("{}/api/v1/sessions", running.url), &entered);
    assert_eq!(entered.status, 201, "{}", entered.text());

    let wish = json!({ "client": "a test", "scopes": ["people:read"] });
    let device = Client::new().post_json(&format!("{}/api/v1/device/code", running.url), &wish).json();
    let mut words = with("", "ada");
    words.push(("CODE".to_owned(), device["user_code"].as_str().unwrap().to_owned()));
    // The last line that answers something is the one that shows what asks.
    assert_eq!(typed("/device", &words)["client"], "a test");
    let poll = json!({ "device_code": device["device_code"] });
    let polled = Client::new().post_json(&format!("{}/api/v1/device/token", running.url), &poll);
    assert!(polled.status < 300, "{}", polled.text());
}

/// Whoever has lost phone and password is let in again by two commands.
#[test]
fn a_command_removes_a_second_factor() {
    let options = PortalOptions::default();
    let running = RunningPortal::start(&options);
    let boole = running.with_admin().make_person("boole", &["user"]);
    let column = |running: &RunningPortal| {
        let listed = running.run(&options, ["users", "list"]).succeeds().out;
        let line = listed.lines().find(|line| line.starts_with("boole\t")).expect("a line").to_owned();
        line.rsplit('\t').next().expect("a column").to_owned()
    };
    assert_eq!(column(&running), "-");
    let none = running.run(&options, ["users", "reset", "--second-factor", "boole"]);
    assert!(none.code != 0 && none.err.contains("boole has no second factor"), "{none:?}");
    // As if they had registered a passkey, for which it takes an authenticator.
    drop(culvert_portal_tests::sql::Sql::of(&running.state, None).run(&format!(
        "INSERT INTO passkeys (id, user_id, name, credential_id, public_key, counter, created_at) \
         VALUES ('01a00000-0000-7000-8000-000000000002', '{boole}', 'key', 'key', 'x', 0, 0)"
    )));
    assert_eq!(column(&running), "second-factor");
    let body = json!({ "name": "boole", "password": PASSWORD });
    let log_in = || Client::new().post_json(&format!("{}/api/v1/sessions", running.url), &body);
    assert_eq!(log_in().json()["code"], "second-factor-needed");
    let ran = running.run(&options, ["users", "reset", "--second-factor", "boole"]).succeeds();
    assert!(ran.out.contains("boole has no second factor any more"), "{}", ran.out);
    assert_eq!((log_in().status, column(&running)), (201, "-".to_owned()));
}
