//! TLS of the portal itself, whose certificate is renewed while it runs.

use std::path::Path;
use std::process::Command;

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::process::{Process, folder, write_secret};
use culvert_portal_tests::program::{PortalOptions, RunningPortal, portal};
use culvert_portal_tests::tls::{Authority, Certified};
use serde_json::json;

use crate::until;

fn install(certified: &Certified, place: &Path) {
    // As renewing programs do: written beside, and renamed.
    for (name, text) in [("certificate.pem", &certified.certificate), ("key.pem", &certified.key)] {
        let new = place.join(format!("{name}.new"));
        write_secret(&new, text);
        std::fs::rename(new, place.join(name)).unwrap();
    }
}

#[test]
fn a_renewed_certificate_is_used_and_streams_go_on() {
    let place = folder();
    let (first, second) = (Authority::new(), Authority::new());
    install(&first.issue(&["localhost"]), place.path());
    let file = |name: &str| place.path().join(name).display().to_string();
    let options = PortalOptions {
        arguments: vec!["--tls-cert".to_owned(), file("certificate.pem"), "--tls-key".to_owned(), file("key.pem")],
        authority: Some(first.pem().to_owned()),
        ..PortalOptions::default()
    };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let is_served = |authority: &Authority| {
        let request = Request::new("GET", &format!("{}/healthz", running.url));
        Client::trusting(authority.pem()).send(&request).is_ok_and(|answer| answer.status == 200)
    };
    let answer = admin.get("/me");
    // For this name only: what is below it may be other services.
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
    // Over its own TLS, cookies are for TLS only; and nobody speaks in clear.
    assert!(Client::new().send(&Request::new("GET", &running.url.replace("https://", "http://"))).is_err());
    let secret = admin.make_token(&["transfers:read"]);
    let request = Request::new("GET", &format!("{}/api/v1/events", running.url));
    let mut events =
        admin.client.open(&request.with("authorization", &format!("Bearer {secret}"))).expect("a stream over TLS");
    events.wait_for("begun");
    // A key that does not belong to the certificate: everything stays as it is, and the log says
    // so.
    let strange = second.issue(&["localhost"]);
    write_secret(&place.path().join("key.pem"), &strange.key);
    until("the log names the file", || running.process.output().contains("does not belong to the certificate"));
    assert!(is_served(&first) && !is_served(&second));
    install(&strange, place.path());
    until("the new certificate is used", || is_served(&second));
    assert!(!is_served(&first));
    // The stream from before goes on.
    let mut later = admin.at(&running.url);
    later.client = Client::trusting(second.pem());
    let bearer = format!("Bearer {}", admin_token(&mut later, &running));
    let body = json!({ "name": "after", "members": [] });
    let made = later.send("POST", "/groups", &[("authorization", &bearer)], Some(&body));
    assert_eq!(made.status, 201, "{}", made.text());
    events.wait_for(made.json()["id"].as_str().unwrap());
}

/// Somebody who trusts the new certificate logs in, and makes a token.
fn admin_token(browser: &mut culvert_portal_tests::program::Browser, running: &RunningPortal) -> String {
    let body = json!({ "name": "ada", "password": culvert_portal_tests::program::PASSWORD });
    let answer = browser.client.post_json(&format!("{}/api/v1/sessions", running.url), &body);
    assert_eq!(answer.status, 201, "{}", answer.text());
    browser.make_token(&["people:write"])
}

#[test]
fn what_cannot_be_served_is_told_at_the_start() {
    let place = folder();
    let authority = Authority::new();
    let (one, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let write = |name: &str, text: &str| {
        let path = place.path().join(name);
        write_secret(&path, text);
        path.display().to_string()
    };
    let (certificate, key) = (write("certificate.pem", &one.certificate), write("key.pem", &other.key));
    let (empty, missing) = (write("empty.pem", ""), place.path().join("none.pem").display().to_string());
    for (certificate, key, words) in [
        (&certificate, &key, "does not belong to the certificate"),
        (&empty, &key, "contains no certificate"),
        (&missing, &key, "cannot read the certificate"),
        (&certificate, &empty, "cannot read the key"),
    ] {
        let arguments = ["--listen", "127.0.0.1:0", "--metrics", "off", "--tls-cert", certificate, "--tls-key", key];
        let ran = culvert_portal_tests::program::run(&place.path().join("state"), &PortalOptions::default(), arguments);
        assert!(ran.code == 1 && ran.err.contains(words), "{words}: {ran:?}");
    }
}

/// Whoever forgets to renew hears of it in the log and in the metrics.
#[test]
fn the_end_of_a_certificate_is_told_in_time() {
    let authority = Authority::new();
    for (days, words) in [(3, "the certificate ends soon"), (-1, "the certificate has expired"), (60, "")] {
        let place = folder();
        let end = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed() + days * 86_400;
        let [certificate, key] = authority.issue_until(&["localhost"], end).write(place.path());
        write_secret(&key, std::fs::read(&key).unwrap());
        let (state, port) = (place.path().join("state"), Port::reserve());
        let metrics = port.address().to_string();
        let flags = ["--tls-cert".as_ref(), certificate.as_os_str(), "--tls-key".as_ref(), key.as_os_str()];
        let mut command = Command::new(portal());
        command.arg("--state").arg(&state).args(["--listen", "127.0.0.1:0", "--metrics", &metrics]).args(flags);
        let process = Process::spawn("portal", command, &place);
        let mut client = Client::new();
        let request = Request::new("GET", &format!("http://{metrics}/metrics"));
        let mut text = String::new();
        until("metrics are there", || {
            text = client.send(&request).map(|answer| answer.text()).unwrap_or_default();
            !text.is_empty()
        });
        assert!(text.contains(&format!("culvert_portal_certificate_end_seconds {end}\n")), "{text}");
        let output = process.output();
        assert!(output.contains(words) && (!words.is_empty() || !output.contains("the certificate ")), "{output}");
    }
}
