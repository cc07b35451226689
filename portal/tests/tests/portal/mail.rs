//! Mail of the real program through a real mail server.

use culvert_portal_tests::http::Client;
use culvert_portal_tests::process::{folder, write_secret};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal};
use culvert_portal_tests::smtp::{Message, Smtp, SmtpOptions, SmtpTls};
use serde_json::json;

use crate::{PATIENCE, until};

/// A mail server that wants a login over TLS, and how a portal is told of it.
fn mail_server(password: &str) -> Option<(Smtp, tempfile::TempDir, PortalOptions)> {
    let login = Some(("portal".to_owned(), "a secret of mail".to_owned()));
    let smtp = Smtp::start(&SmtpOptions { tls: SmtpTls::Required, login })?;
    let room = folder();
    let file = room.path().join("password");
    // As `echo` writes it.
    write_secret(&file, format!("{password}\n"));
    let arguments = [
        "--smtp".to_owned(),
        format!("smtp://portal@localhost:{}", smtp.address().port()),
        "--smtp-password-file".to_owned(),
        file.display().to_string(),
        "--mail-from".to_owned(),
        "Culvert <portal@example.org>".to_owned(),
        "--ca-file".to_owned(),
        smtp.authority_file().display().to_string(),
    ];
    Some((smtp, room, PortalOptions { arguments: arguments.to_vec(), ..PortalOptions::default() }))
}

/// The secret of the link in a mail, whose long lines may be broken.
fn secret_in(message: &Message) -> String {
    let text = message.text.replace("=\r\n", "").replace("=3D", "=");
    let at = text.find('#').unwrap_or_else(|| panic!("no link in {text}"));
    text[at + 1..].split_whitespace().next().unwrap().to_owned()
}

#[test]
fn invitations_and_forgotten_passwords_are_mailed() {
    let Some((smtp, _room, options)) = mail_server("a secret of mail") else { return };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let mut settings = admin.get("/settings").json();
    settings["registration"] = json!("invitation");
    let changed = admin.send("PUT", "/settings", &[("if-match", "\"v0\"")], Some(&settings));
    assert_eq!(changed.status, 200, "{}", changed.text());
    let invited = admin.post("/invitations", &json!({ "roles": ["user"], "email": "boole@example.com", "days": 3 }));
    assert_eq!(invited.status, 201, "{}", invited.text());
    let messages = smtp.wait_for(1, PATIENCE);
    let mail = &messages[0];
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("portal@example.org", ["boole@example.com".to_owned()].as_slice())
    );
    assert!(mail.encrypted && mail.login.as_deref() == Some("portal"), "{mail:?}");
    let mut client = Client::new();
    let account = json!({ "name": "boole", "email": "boole@example.com", "password": PASSWORD });
    let body = json!({ "secret": secret_in(mail), "account": account });
    let made = client.post_json(&format!("{}/api/v1/invitations/accept", running.url), &body);
    assert_eq!(made.status, 201, "{}", made.text());

    // The same answer for who is there and who is not; a mail for the one only.
    for who in ["nobody", "boole@example.com", "nobody@example.com"] {
        let asked = client.post_json(&format!("{}/api/v1/password-resets", running.url), &json!({ "who": who }));
        assert_eq!((asked.status, asked.body.as_slice()), (202, b"".as_slice()), "{who}");
    }
    let messages = smtp.wait_for(2, PATIENCE);
    let body = json!({ "secret": secret_in(&messages[1]), "password": "another engine two" });
    for status in [204, 410] {
        let set = client.post_json(&format!("{}/api/v1/password-resets/complete", running.url), &body);
        assert_eq!(set.status, status, "{}", set.text());
    }
    let body = json!({ "name": "boole", "password": "another engine two" });
    let entered = client.post_json(&format!("{}/api/v1/sessions", running.url), &body);
    assert_eq!(entered.status, 201, "{}", entered.text());
    assert_eq!(smtp.messages().len(), 2);
}

/// A wrong password for the mail server is the portal's own fault: it says so, and the mail waits.
#[test]
fn a_login_that_is_refused_is_told_and_tried_again() {
    let Some((smtp, room, options)) = mail_server("a wrong secret") else { return };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let person = json!({ "name": "boole", "roles": ["user"], "email": "boole@example.com", "password": PASSWORD });
    assert_eq!(admin.post("/users", &person).status, 201);
    let asked = Client::new().post_json(&format!("{}/api/v1/password-resets", running.url), &json!({ "who": "boole" }));
    assert_eq!(asked.status, 202);
    until("the log says what to mend", || {
        let output = running.process.output();
        output.contains("check the user in --smtp and its password") && output.contains("mend the configuration")
    });
    until("it is tried again", || running.process.output().matches("mend the configuration").count() >= 2);
    assert!(!running.process.output().contains("a wrong secret"));
    assert!(smtp.messages().is_empty());
    drop(room);
}
