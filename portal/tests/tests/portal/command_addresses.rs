//! What `culvert login` and those who come after it make of wrong addresses: one sentence with the
//! right one, an exit code, and no secret where it does not belong.

use std::fs;

use culvert_portal_tests::command_line::CommandLine;
use culvert_portal_tests::nginx::{Nginx, NginxOptions};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::program::{PortalOptions, RunningPortal};
use culvert_portal_tests::scripted_server::ScriptedServer;
use serde_json::json;

use crate::command_tokens::token_file;

/// nginx on the plain port leads to https, in each of the ways that it can.
#[test]
fn no_redirect_is_followed_and_no_token_crosses_the_plain_port() {
    let (port, here) = (Port::reserve(), CommandLine::new());
    let portal = RunningPortal::start_at(&port, &PortalOptions::default());
    let (secret, file) = token_file(&here, &mut portal.with_admin(), "token");
    for status in [301, 302, 307, 308] {
        let options = NginxOptions { redirect_status: status, ..NginxOptions::new(port.address()) };
        let Some(nginx) = Nginx::start(&options) else { return };
        let ca = nginx.authority_file().display().to_string();
        let plain = nginx.plain_url().rsplit(':').next().unwrap().parse().unwrap();
        let heard = ScriptedServer::before(([127, 0, 0, 1], plain).into());
        let wrong = format!("http://localhost:{}", heard.address().port());
        let right = format!("culvert login {}", nginx.url());
        let told = [wrong.as_str(), &format!("status {status}"), &right];
        for how in [&["--token-file", &file][..], &[]] {
            here.run([&["login", &wrong], how].concat()).fails(1, &told);
        }
        // Whoever logged in before the portal had TLS.
        let _ = here.run(["login", &portal.url, "--token-file", &file]).succeeds();
        let kept = fs::read_to_string(here.kept_file()).unwrap().replace(&portal.url, &wrong);
        fs::write(here.kept_file(), kept).unwrap();
        here.run(["whoami"]).fails(1, &told);
        here.run(["token", "list", "--password-file", &file]).fails(1, &told);
        let out = here.run(["logout"]);
        out.fails(1, &[&right, "stays good at", "culvert token revoke"]);
        let seen = heard.seen();
        assert_eq!(seen.matches("GET /api/v1/login/providers HTTP/1.1").count(), 5, "{seen}");
        assert!(!seen.contains(&secret) && !seen.to_lowercase().contains("authorization"), "{seen}");
        assert!(!seen.contains("POST ") && !seen.contains("DELETE "), "{seen}");
        // The right one, for which its CA must be known, also later, and from elsewhere.
        here.run(["login", &nginx.url(), "--token-file", &file]).fails(11, &["--ca-file"]);
        fs::copy(&ca, here.path("ca.pem")).unwrap();
        let _ = here.run(["login", &nginx.url(), "--token-file", &file, "--ca-file", "ca.pem"]).succeeds();
        let mut elsewhere = here.command(["whoami", "--json"]);
        elsewhere.current_dir("/");
        let whoami = culvert_portal_tests::process::run("culvert", elsewhere, crate::PATIENCE).succeeds().json();
        assert_eq!(whoami["portal"], json!(nginx.url()));
        fs::remove_file(here.path("ca.pem")).unwrap();
        here.run(["whoami"]).fails(2, &["ca.pem"]);
        fs::remove_file(here.kept_file()).unwrap();
    }
}

/// To another host, nothing at all is sent over http: the name would not even be looked up.
#[test]
fn plain_http_goes_to_this_host_alone() {
    let here = CommandLine::new();
    let file = here.write("token", &format!("culvert_pat_{}\n", "A".repeat(43)));
    for (url, right) in [
        ("http://portal.example.org", "https://portal.example.org"),
        ("http://192.0.2.1:7280/", "https://192.0.2.1:7280"),
        ("http://portal.example.org/setup#culvert_lnk_hidden", "https://portal.example.org"),
        ("https://ada:hidden@portal.example.org", "https://portal.example.org"),
        ("https://portal.example.org/device?code=hidden", "https://portal.example.org"),
    ] {
        let ran = here.run(["login", url, "--token-file", &file, "--json"]);
        ran.fails(2, &[right]);
        assert!(!ran.err.contains("hidden") && !ran.out.contains("hidden"), "{ran:?}");
    }
    here.run(["login", "portal with blanks"]).fails(2, &["https://portal.example.org"]);
    let kept = json!({ "version": 1, "portals": [{ "url": "http://192.0.2.1", "account": "ada", "secret": "x",
        "token": { "id": "1", "name": "x", "scopes": [], "expires_at": "2027-01-01T00:00:00Z" } }] });
    fs::create_dir_all(here.kept_file().parent().unwrap()).unwrap();
    fs::write(here.kept_file(), kept.to_string()).unwrap();
    here.run(["whoami"]).fails(7, &["portals.json is damaged", "https://192.0.2.1"]);
}

/// Something else answers, or nothing.
#[test]
fn what_is_no_portal_gets_no_token() {
    let here = CommandLine::new();
    let token = format!("culvert_pat_{}", "A".repeat(43));
    let file = here.write("token", &token);
    let html = "content-type: text/html".to_owned();
    for (status, body) in [
        ("200 OK", "<html>"),
        ("200 OK", "{}"),
        ("200 OK", ""),
        ("404 Not Found", "<html>"),
        ("401 Unauthorized", "{\"code\": \"not-logged-in\"}"),
        ("500 Oh", ""),
    ] {
        let head = format!("{status}\r\n{html}");
        let server = ScriptedServer::start(move |_| (head.clone(), body.to_owned()));
        let url = format!("http://{}", server.address());
        for how in [&["--token-file", &file][..], &[]] {
            here.run([&["login", &url], how].concat()).fails(1, &[&url, "is not a portal of Culvert"]);
        }
        assert!(!server.seen().contains(&token) && !server.seen().contains("POST"), "{}", server.seen());
    }
    // A proxy whose portal is down will perhaps have one again.
    let server = ScriptedServer::start(|_| ("502 Bad Gateway".to_owned(), "<html>".to_owned()));
    here.run(["login", &format!("http://{}", server.address())]).fails(5, &["does not answer"]);
    let silent = Port::reserve();
    let refused = here.run(["login", &format!("http://{}", silent.address()), "--json"]);
    refused.fails(5, &["cannot connect", "portal runs there"]);
    assert!(!refused.out.contains("os error"), "{refused:?}");
    here.run(["login", "a..b"]).fails(3, &["check the name"]);
    assert!(here.portals().is_empty());
}

/// A portal without TLS, asked with TLS, and the reverse.
#[test]
fn a_portal_without_tls_on_this_host_is_named() {
    let portal = RunningPortal::start(&PortalOptions::default());
    let here = CommandLine::new();
    let bare = portal.url.trim_start_matches("http://");
    here.run(["login", bare]).fails(5, &["does not speak TLS", &format!("is {}", portal.url)]);
}

/// A certificate that nobody has signed but itself: refused, and accepted where it is named as the
/// authority.
#[test]
fn a_certificate_of_ones_own_must_be_named() {
    let here = CommandLine::new();
    let authority = culvert_portal_tests::tls::Authority::new();
    let [certificate, key] = authority.issue(&["localhost"]).write(here.path("").as_path());
    let port = Port::reserve();
    let arguments = ["--tls-cert", &certificate.display().to_string(), "--tls-key", &key.display().to_string()];
    let options = PortalOptions {
        arguments: arguments.map(str::to_owned).to_vec(),
        authority: Some(authority.pem().to_owned()),
        ..PortalOptions::default()
    };
    let portal = RunningPortal::start_at(&port, &options);
    let (_, file) = token_file(&here, &mut portal.with_admin(), "token");
    let ca = here.write("ca.pem", authority.pem());
    here.run(["login", &portal.url, "--token-file", &file]).fails(11, &["not trusted", "--ca-file"]);
    let _ = here.run(["login", &portal.url, "--token-file", &file, "--ca-file", &ca]).succeeds();
    let _ = here.run(["whoami"]).succeeds();
    let other = format!("https://127.0.0.1:{}", port.number());
    here.run(["login", &other, "--token-file", &file, "--ca-file", &ca]).fails(11, &["another host"]);
    let nonsense = here.write("nonsense.pem", "nonsense");
    here.run(["login", &portal.url, "--ca-file", &nonsense]).fails(2, &["nonsense.pem"]);
    here.run(["login", &portal.url, "--ca-file", "not-there.pem"]).fails(3, &["not-there.pem"]);
}
