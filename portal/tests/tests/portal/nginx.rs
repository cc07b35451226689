//! Behind the real nginx with the shipped configuration.

use std::process::Command;
use std::time::{Duration, Instant};

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::nginx::Nginx;
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::process::{need, or_skip, run};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use serde_json::{Value, json};

use crate::PATIENCE;

/// A portal that believes nginx, and what browsers see of it.
fn behind_nginx() -> Option<(RunningPortal, Nginx, Client)> {
    // nginx must know the portal's port, and the portal the public port: first one that answers
    // nobody, then the portal.
    let arguments = |url: &str| ["--trusted-proxy", "127.0.0.1/32", "--public-url", url].map(str::to_owned).to_vec();
    let port = Port::reserve();
    let nginx = Nginx::start_shipped(&[port.address()])?;
    let options = PortalOptions { arguments: arguments(&nginx.url()), ..PortalOptions::default() };
    let running = RunningPortal::start_at(&port, &options);
    let client = Client::trusting(&std::fs::read_to_string(nginx.authority_file()).unwrap());
    Some((running, nginx, client))
}

#[test]
fn browsers_get_a_secure_cookie_and_no_other_site_gets_in() {
    let Some((running, nginx, mut client)) = behind_nginx() else { return };
    drop(running.with_admin());
    let url = format!("{}/api/v1", nginx.url());
    let answer = client.post_json(&format!("{url}/sessions"), &json!({ "name": "ada", "password": PASSWORD }));
    assert_eq!(answer.status, 201, "{}", answer.text());
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-culvert=culvert_ses_"), "{cookie}");
    for attribute in ["Secure", "HttpOnly", "SameSite=Lax", "Path=/"] {
        assert!(cookie.split("; ").any(|one| one == attribute), "{cookie}");
    }
    let hsts = answer.header("strict-transport-security").unwrap();
    assert!(hsts.contains("max-age=31536000"), "{hsts}");
    assert_eq!(client.get(&format!("{url}/me")).status, 200);
    // Host is forwarded as it is: the same origin may post, another may not.
    for (origin, status) in [(nginx.url(), 201), ("https://evil.example".to_owned(), 403), ("null".to_owned(), 403)] {
        let body = json!({ "name": format!("group-{status}"), "members": [] }).to_string();
        let request = Request::new("POST", &format!("{url}/groups")).with("origin", &origin);
        let request = request.with("sec-fetch-site", if status == 201 { "same-origin" } else { "cross-site" });
        let answer = client.send(&request.with_body("application/json", body)).unwrap();
        assert_eq!(answer.status, status, "{origin}: {}", answer.text());
    }
    let plain = Client::new().get(&format!("{}/api/v1/me", nginx.plain_url()));
    assert_eq!(plain.status, 308);
    assert_eq!(plain.redirect().unwrap().as_str(), format!("{url}/me"));
}

#[test]
fn the_clients_address_is_right_and_nobody_forges_it() {
    let Some((running, nginx, _)) = behind_nginx() else { return };
    let Some(curl) = or_skip(need("curl")) else { return };
    let mut admin = running.with_admin();
    let log_in = |from: &str, base: &str| {
        let mut command = Command::new(&curl);
        command.args(["--silent", "--show-error", "--interface", from, "--cacert"]).arg(nginx.authority_file());
        command.args(["--header", "content-type: application/json", "--header", "x-forwarded-for: 203.0.113.9"]);
        command.args(["--header", "x-real-ip: 203.0.113.9", "--header", "forwarded: for=203.0.113.9", "--data"]);
        command.arg(json!({ "name": "ada", "password": PASSWORD }).to_string()).arg(format!("{base}/api/v1/sessions"));
        let answer: Value = serde_json::from_str(&run("curl", command, PATIENCE).succeeds().out).unwrap();
        (
            answer["session"]["id"].as_str().unwrap().to_owned(),
            answer["session"]["address"].as_str().unwrap().to_owned(),
        )
    };
    // Through nginx; and past it, from where nobody is trusted.
    for (from, base) in [("127.0.0.9", nginx.url()), ("127.0.0.8", running.url.clone())] {
        let base = base.replace("localhost", "127.0.0.1");
        let (session, address) = log_in(from, &base);
        assert_eq!(address, from);
        let told = admin.get(&format!("/audit?action=session.login&id={session}")).json();
        assert_eq!(told["items"][0]["entry"]["address"], from, "{told}");
    }
}

#[test]
fn events_are_not_held_back() {
    let Some((running, nginx, mut client)) = behind_nginx() else { return };
    let mut admin = running.with_admin();
    let secret = admin.make_token(&["transfers:read"]);
    let request = Request::new("GET", &format!("{}/api/v1/events", nginx.url()));
    let mut events = client.open(&request.with("authorization", &format!("Bearer {secret}"))).unwrap();
    assert_eq!(events.answer.header("content-type"), Some("text/event-stream"));
    events.wait_for("begun");
    for number in 0..5 {
        let name = format!("group-{number}");
        let made = admin.post("/groups", &json!({ "name": name, "members": [] }));
        let began = Instant::now();
        events.wait_for(made.json()["id"].as_str().unwrap());
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}
