//! The program on its host: commands beside a service that has an account of its own, keys that are
//! missing, copies that are put back, files that everybody may read, and a database that comes
//! later than the portal.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_portal_tests::http::{Client, Request};
use culvert_portal_tests::ports::Port;
use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::process::{Process, Ran, folder, run as run_command, write_secret};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal, portal, run};
use culvert_portal_tests::sql::Sql;
use rustix::process::Signal;
use serde_json::json;

use crate::{PATIENCE, until};

/// Whose the service's files are.
const SERVICE: u32 = 65534;

/// A state directory of a service with an account of its own, and the program where it can run it.
struct OfService {
    room: tempfile::TempDir,
    program: PathBuf,
}

impl OfService {
    fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root runs programs as somebody else");
            return None;
        }
        let room = folder();
        std::os::unix::fs::chown(room.path(), Some(SERVICE), Some(SERVICE)).unwrap();
        std::fs::set_permissions(room.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let program = room.path().join("culvert-portal");
        std::fs::copy(portal(), &program).unwrap();
        Some(Self { room, program })
    }

    fn state(&self) -> PathBuf {
        self.room.path().join("state")
    }

    fn command(&self, user: u32) -> Command {
        let mut command = Command::new(&self.program);
        command.env_clear().arg("--state").arg(self.state());
        command.uid(user).gid(user);
        command
    }

    /// Serves until it prints a link; gives what it printed.
    fn serve(&self) -> String {
        let mut command = self.command(SERVICE);
        command.args(["--listen", "127.0.0.1:0", "--metrics", "off"]);
        let folder = folder();
        let mut process = Process::spawn("portal", command, &folder);
        process.until("printing a setup link", PATIENCE, || process.output().contains("setup#"));
        process.end_by(Signal::TERM);
        process.output()
    }

    fn run(&self, user: u32, words: &[&str]) -> Ran {
        let mut command = self.command(user);
        command.current_dir(self.room.path()).args(words);
        run_command("portal-command", command, PATIENCE)
    }

    fn owners(&self) -> Vec<(PathBuf, u32, u32)> {
        let entries = std::fs::read_dir(self.state()).unwrap().map(|entry| entry.unwrap().path());
        entries
            .map(|path| {
                let metadata = std::fs::metadata(&path).unwrap();
                (path, metadata.uid(), metadata.mode() & 0o777)
            })
            .collect()
    }
}

#[test]
fn what_root_does_on_the_host_leaves_the_service_its_files() {
    let Some(service) = OfService::new() else { return };
    assert!(service.serve().contains("Nobody administers this portal yet"));
    // Also what is made anew: this was lost, for instance in a copy of the directory.
    std::fs::remove_file(service.state().join("in-use.lock")).unwrap();
    drop(service.run(0, &["users", "create", "boole"]).succeeds());
    drop(service.run(0, &["audit", "verify"]).succeeds());
    drop(service.run(0, &["backup", "copy.db"]).succeeds());
    drop(service.run(0, &["restore", "copy.db"]).succeeds());
    let new = service.state().join("new.key").display().to_string();
    drop(service.run(0, &["reseal", "--new-key", &new]).succeeds());
    for (path, owner, mode) in service.owners() {
        assert_eq!((owner, mode), (SERVICE, 0o600), "{}", path.display());
    }
    std::fs::rename(&new, service.state().join("sealing.key")).unwrap();
    // A person without the role does not end setup.
    assert!(service.serve().contains("setup#"));
}

#[test]
fn what_is_denied_is_told_with_its_owner() {
    let Some(service) = OfService::new() else { return };
    drop(service.serve());
    let told = |ran: &Ran, words: &[&str]| {
        assert!(ran.code == 1 && words.iter().all(|word| ran.err.contains(word)), "{words:?}: {ran:?}");
    };
    let ran = service.run(1, &["users", "list"]);
    told(&ran, &["permission denied", "belongs to UID 65534", "this runs as UID 1", "chown"]);
    std::fs::set_permissions(service.state(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::chown(service.state().join("portal.db"), Some(0), Some(0)).unwrap();
    let ran = service.run(SERVICE, &["--listen", "127.0.0.1:0", "--metrics", "off"]);
    told(&ran, &["cannot open", "portal.db", "permission denied", "belongs to UID 0", "this runs as UID 65534"]);
    assert!(!ran.err.contains("cannot be reached"), "{ran:?}");
    std::os::unix::fs::chown(service.state().join("in-use.lock"), Some(0), Some(0)).unwrap();
    told(&service.run(SERVICE, &["users", "list"]), &["in-use.lock", "belongs to UID 0"]);
}

#[test]
fn a_missing_sealing_key_is_told_and_never_replaced() {
    let options = PortalOptions::default();
    let mut running = RunningPortal::start(&options);
    drop(running.with_admin());
    running.process.end_by(Signal::TERM);
    let key = running.state.join("sealing.key");
    let kept = std::fs::read(&key).unwrap();
    std::fs::remove_file(&key).unwrap();
    for words in [&["users", "list"][..], &["audit", "verify"], &["--listen", "127.0.0.1:0", "--metrics", "off"]] {
        let ran = run(&running.state, &options, words);
        assert!(ran.code == 1 && ran.err.contains("sealing.key is missing"), "{words:?}: {ran:?}");
        assert!(ran.err.contains("--sealing-key-file") && !key.exists(), "{words:?}: {ran:?}");
    }
    write_secret(&key, kept);
    drop(RunningPortal::start_again(&running.state, &options).log_in("ada"));
}

#[test]
fn portals_of_one_database_are_told_that_they_need_one_key() {
    let Some(server) = Postgres::shared() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    let room = folder();
    // Commands make no portal of an empty database.
    let ran = run(&room.path().join("none"), &options, ["users", "list"]);
    assert!(ran.code == 1 && ran.err.contains("no portal has used it"), "{ran:?}");
    assert!(!room.path().join("none").exists());
    let first = RunningPortal::start(&options);
    until("it warns", || first.process.output().contains("a sealing key was made in this portal's state directory"));
    let other = room.path().join("other");
    let ran = run(&other, &options, ["--listen", "127.0.0.1:0", "--metrics", "off"]);
    assert!(ran.code == 1 && ran.err.contains("sealing.key is missing"), "{ran:?}");
    assert!(!other.join("sealing.key").exists());
    // With the key, commands need no state directory.
    let key = first.state.join("sealing.key").display().to_string();
    drop(run(&room.path().join("none"), &options, ["users", "list", "--sealing-key-file", &key]).succeeds());
}

#[test]
fn a_copy_is_looked_at_before_it_is_put_back() {
    let options = PortalOptions::default();
    let mut running = RunningPortal::start(&options);
    drop(running.with_admin());
    let room = folder();
    let path = |name: &str| room.path().join(name);
    drop(running.run(&options, ["backup".as_ref(), path("good.db").as_os_str()]).succeeds());
    running.process.end_by(Signal::TERM);
    let other = RunningPortal::start(&options);
    drop(other.with_admin());
    drop(other.run(&options, ["backup".as_ref(), path("of-another-key.db").as_os_str()]).succeeds());
    drop(Sql::File(path("of-another-program.db")).run("CREATE TABLE a(b)"));
    std::fs::copy(path("good.db"), path("changed.db")).unwrap();
    drop(Sql::File(path("changed.db")).run("UPDATE audit SET body = body || ' ' WHERE number = 1"));
    let before = std::fs::read(running.state.join("portal.db")).unwrap();
    let restore = |name: &str| run(&running.state, &options, ["restore".as_ref(), path(name).as_os_str()]);
    for (name, words) in [
        ("of-another-program.db", "no portal has used it"),
        ("of-another-key.db", "it is sealed under another key"),
        ("changed.db", "audit trail is not whole"),
    ] {
        let ran = restore(name);
        assert!(ran.code == 1 && ran.err.contains(words) && ran.err.contains(name), "{name}: {ran:?}");
        assert_eq!(std::fs::read(running.state.join("portal.db")).unwrap(), before, "{name}");
        let files = std::fs::read_dir(&running.state).unwrap().map(|entry| entry.unwrap().file_name());
        let mut files: Vec<_> = files.map(|name| name.into_string().unwrap()).collect();
        files.sort();
        assert_eq!(files, ["in-use.lock", "portal.db", "sealing.key"], "{name}");
    }
    let restored = restore("good.db").succeeds();
    for words in ["accounts: 1; entries of the audit trail: ", ", the last of 20", "restored "] {
        assert!(restored.out.contains(words), "{words}: {restored:?}");
    }
    // A database that cannot be read any more is why a copy is put back.
    std::fs::write(running.state.join("portal.db"), "no database any more\n".repeat(500)).unwrap();
    let ran = run(&running.state, &options, ["users", "list"]);
    assert!(ran.code == 1 && ran.err.contains("not a database") && ran.err.contains("restore"), "{ran:?}");
    assert!(!ran.err.contains("cannot be reached") && !ran.err.contains("ERROR"), "{ran:?}");
    drop(restore("good.db").succeeds());
    drop(RunningPortal::start_again(&running.state, &options).log_in("ada"));
    // On a host that takes another's place, the key must be there first.
    let ran = run(&path("new"), &options, ["restore".as_ref(), path("good.db").as_os_str()]);
    assert!(ran.code == 1 && ran.err.contains("there is no") && ran.err.contains("sealing.key"), "{ran:?}");
    assert!(!path("new").exists());
}

#[test]
fn setup_stays_open_until_somebody_administers_the_portal() {
    let options = PortalOptions::default();
    let mut running = RunningPortal::start(&options);
    drop(running.run(&options, ["users", "create", "boole"]).succeeds());
    running.process.end_by(Signal::TERM);
    let running = RunningPortal::start_again(&running.state, &options);
    let secret = running.setup_secret();
    drop(running.with_admin());
    let body = json!({ "secret": secret, "account": { "name": "eve", "password": PASSWORD } });
    let again = Client::new().post_json(&format!("{}/api/v1/setup", running.url), &body);
    assert_eq!((again.status, again.json()["code"].as_str()), (410, Some("spent")), "{}", again.text());
    let detail = again.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("an administrator exists") && detail.contains("--role admin"), "{detail}");
    let again = RunningPortal::start_again(&running.state, &options);
    assert!(!again.process.output().contains("setup#"), "{}", again.process.output());
}

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn what_everybody_could_read_is_made_private_or_refused() {
    let room = folder();
    let state = room.path().join("state");
    std::fs::create_dir(&state).unwrap();
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
    let options = PortalOptions::default();
    let nowhere = ["--listen", "127.0.0.1:0", "--metrics", "off"];
    let ran = run(&state, &options, nowhere);
    assert!(ran.code == 1 && ran.err.contains("chmod 700"), "{ran:?}");
    std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o755)).unwrap();
    // As an earlier program, or a copy by hand, has left it.
    std::fs::write(state.join("portal.db"), "").unwrap();
    std::fs::set_permissions(state.join("portal.db"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let running = RunningPortal::start_again(&state, &options);
    drop(running.with_admin());
    for name in ["portal.db", "portal.db-wal", "portal.db-shm", "sealing.key", "in-use.lock"] {
        assert_eq!(mode_of(&state.join(name)), 0o600, "{name}");
    }
    let public = room.path().join("secret");
    std::fs::write(&public, "a passphrase of some length\n").unwrap();
    std::fs::set_permissions(&public, std::fs::Permissions::from_mode(0o644)).unwrap();
    let file = public.display().to_string();
    let authority = culvert_portal_tests::tls::Authority::shared();
    let [certificate, _] = authority.issue(&["localhost"]).write(room.path());
    let certificate = certificate.display().to_string();
    let mail = ["--smtp", "smtp://a@localhost", "--mail-from", "a@example.org", "--smtp-password-file", &file];
    for flags in [
        &["--sealing-passphrase-file", &file][..],
        &["--sealing-key-file", &file],
        &["--database", "postgresql://a@127.0.0.1:1/b", "--database-password-file", &file],
        &["--tls-cert", &certificate, "--tls-key", &file],
        &mail,
    ] {
        let ran = run(&room.path().join("other"), &options, nowhere.iter().chain(flags));
        assert!(ran.code == 1 && ran.err.contains("everybody on this host may use"), "{flags:?}: {ran:?}");
    }
}

#[test]
fn a_portal_waits_for_its_database_and_says_so() {
    let Some(server) = Postgres::start() else { return };
    let options = PortalOptions { database: Some(server.new_database()), ..PortalOptions::default() };
    server.stop();
    let port = Port::reserve();
    let room = folder();
    let state = room.path().join("state");
    let listening = PortalOptions {
        arguments: ["--listen", &port.address().to_string(), "--metrics", "off"].map(str::to_owned).to_vec(),
        ..options.clone()
    };
    let mut command = Command::new(portal());
    command.arg("--state").arg(&state).args(["--database", listening.database.as_ref().unwrap()]);
    let process = Process::spawn(
        "portal",
        {
            command.args(&listening.arguments);
            command
        },
        &room,
    );
    let asked = |path: &str| Client::new().send(&Request::new("GET", &format!("http://{}{path}", port.address())));
    until("it lives", || asked("/healthz").is_ok_and(|answer| answer.status == 200));
    let answer = asked("/readyz").unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (503, "starting\n"));
    assert!(crate::is_unavailable(&asked("/api/v1/me").unwrap()));
    until("it says why", || process.output().contains("Connection refused"));
    // Commands do not wait: whoever typed one reads the cause.
    let ran = run(&state, &options, ["users", "list"]);
    assert!(ran.code == 1 && ran.err.contains("cannot be reached: Connection refused"), "{ran:?}");
    server.restart();
    until("it is ready", || asked("/readyz").is_ok_and(|answer| answer.status == 200));
    assert!(process.is_running());
    // What no waiting mends ends it at once, in the server's own words only.
    let none = options.database.as_ref().unwrap().rsplit_once('/').unwrap().0.to_owned() + "/nodb";
    let none = PortalOptions { database: Some(none), ..PortalOptions::default() };
    let ran = run(&room.path().join("other"), &none, ["--listen", "127.0.0.1:0", "--metrics", "off"]);
    assert!(ran.code == 1 && ran.err.contains("\"nodb\" does not exist\n"), "{ran:?}");
}

#[test]
fn the_log_says_what_runs_and_who_asks() {
    let options = PortalOptions { arguments: vec!["--log".to_owned(), "json".to_owned()], ..PortalOptions::default() };
    let running = RunningPortal::start(&options);
    let mut admin = running.with_admin();
    let id = admin.get("/me").json()["id"].as_str().unwrap().to_owned();
    let wrong = json!({ "name": "nobody", "password": PASSWORD });
    assert_eq!(Client::new().post_json(&format!("{}/api/v1/sessions", running.url), &wrong).status, 401);
    let line = |words: &[&str]| {
        let output = running.process.output();
        let found = output.lines().find(|line| words.iter().all(|word| line.contains(word)));
        serde_json::from_str::<serde_json::Value>(found.unwrap_or_else(|| panic!("no {words:?} in {output}"))).unwrap()
    };
    let started = line(&["the portal serves"]);
    assert!(started["version"].is_string() && started["state"] == running.state.display().to_string(), "{started}");
    assert_eq!(started["database"], format!("sqlite:{}", running.state.join("portal.db").display()));
    let link = line(&["setup_link"]);
    assert!(link["setup_link"].as_str().unwrap().contains("/setup#culvert_lnk_"), "{link}");
    let me = line(&["answered", "/api/v1/me\""]);
    assert_eq!((me["account"].as_str(), me["address"].as_str()), (Some(id.as_str()), Some("127.0.0.1")), "{me}");
    let refused = line(&["answered", "\"status\":401"]);
    assert!(refused["address"] == "127.0.0.1" && refused["account"].is_null(), "{refused}");
}

#[test]
fn two_portals_of_one_host_share_one_sqlite() {
    let options = PortalOptions::default();
    let one = RunningPortal::start(&options);
    let admin = one.with_admin();
    let other = RunningPortal::start_again(&one.state, &options);
    std::thread::scope(|scope| {
        for (portal, name) in [(&one, "a"), (&other, "b")] {
            let mut admin = admin.at(&portal.url);
            scope.spawn(move || {
                for number in 0..20 {
                    let made = admin.post("/groups", &json!({ "name": format!("{name}{number}"), "members": [] }));
                    assert_eq!(made.status, 201, "{}", made.text());
                }
            });
        }
    });
    assert_eq!(crate::all_rows(&mut admin.at(&other.url), "/groups").len(), 40);
    assert!(one.run(&options, ["audit", "verify"]).succeeds().out.contains("is whole"));
    // Nobody puts a copy back under either.
    let ran = one.run(&options, ["restore", "/dev/null"]);
    assert!(ran.code == 1 && ran.err.contains("stop it first"), "{ran:?}");
    assert!(!ran.err.contains("would block"), "{ran:?}");
}

#[test]
fn a_clock_before_the_newest_entry_is_told() {
    let options = PortalOptions::default();
    let mut running = RunningPortal::start(&options);
    drop(running.with_admin());
    running.process.end_by(Signal::TERM);
    let warning = "the clock is before the newest entry of the audit trail";
    let again = RunningPortal::start_again(&running.state, &options);
    assert!(!again.process.output().contains(warning));
    drop(again);
    // A day ahead, as a clock was that is right again.
    let later = "UPDATE audit SET at = at + 86400000000 WHERE number = (SELECT MAX(number) FROM audit)";
    drop(Sql::File(running.state.join("portal.db")).run(later));
    let again = RunningPortal::start_again(&running.state, &options);
    assert!(again.process.output().contains(warning), "{}", again.process.output());
}

#[test]
fn an_address_that_is_taken_is_told_with_its_own_flag() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let room = folder();
    for (listen, metrics, flag) in
        [(address.as_str(), "off", "--listen"), ("127.0.0.1:0", address.as_str(), "--metrics")]
    {
        let ran =
            run(&room.path().join("state"), &PortalOptions::default(), ["--listen", listen, "--metrics", metrics]);
        let others = ["--listen", "--metrics"].iter().filter(|other| ran.err.contains(*other)).count();
        assert!(ran.code == 1 && ran.err.contains(&format!("choose another address with {flag}")), "{ran:?}");
        assert_eq!(others, 1, "{ran:?}");
    }
}
