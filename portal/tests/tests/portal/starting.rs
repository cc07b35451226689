//! How it starts: with nothing, with what clusters put into the environment, with secrets in files.

use std::process::Command;

use culvert_portal_tests::http::Client;
use culvert_portal_tests::postgres::Postgres;
use culvert_portal_tests::process::{folder, need, or_skip, run, write_secret};
use culvert_portal_tests::program::{PASSWORD, PortalOptions, RunningPortal, portal};
use rustix::process::Signal;
use serde_json::json;

use crate::{PATIENCE, on_both_databases, until};

/// Alone on a host of its own: it listens where the documentation says.
const WITH_NOTHING: &str = r#"
ip link set lo up
setpriv --reuid=65534 --regid=65534 --clear-groups env -i HOME="$1" "$2" > "$1/out" 2> "$1/err" &
for try in $(seq 600); do
    curl --silent --fail http://127.0.0.1:7280/readyz && break
    sleep 0.1
done
curl --silent --fail http://127.0.0.1:7280/api/v1/openapi.json | head -c 20
curl --silent --fail http://127.0.0.1:7281/metrics | grep build_info
stat -c '%a' "$1/.local/state/culvert/portal"
kill %1
wait %1
echo "ended with $?"
cat "$1/out" "$1/err"
"#;

#[test]
fn it_starts_with_no_configuration() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root makes a network of its own");
        return;
    }
    let (Some(unshare), Some(_)) = (or_skip(need("unshare")), or_skip(need("curl"))) else { return };
    let home = folder();
    std::os::unix::fs::chown(home.path(), Some(65534), Some(65534)).unwrap();
    let program = home.path().join("culvert-portal");
    std::fs::copy(portal(), &program).unwrap();
    let mut command = Command::new(unshare);
    command.args(["--net", "--", "bash", "-mc", WITH_NOTHING, "bash"]).arg(home.path()).arg(&program);
    let ran = run("unshare", command, PATIENCE);
    for expected in [
        "ready\n",
        "{\"components\":{",
        "culvert_portal_build_info",
        "\n700\n",
        "ended with 0",
        "http://127.0.0.1:7280/setup#culvert_lnk_",
    ] {
        assert!(ran.out.contains(expected), "no '{expected}': {ran:?}");
    }
}

on_both_databases! {
    fn the_setup_link_makes_one_administrator(options) {
        let mut running = RunningPortal::start(&options);
        let first = running.setup_secret();
        running.process.end_by(Signal::TERM);
        // Started again before anybody used it: the newest link is the good one.
        let running = RunningPortal::start_again(&running.state, &options);
        let secret = running.setup_secret();
        assert_ne!(first, secret);
        let post = |secret: &str, name: &str| {
            let body = json!({ "secret": secret, "account": { "name": name, "password": PASSWORD } });
            Client::new().post_json(&format!("{}/api/v1/setup", running.url), &body)
        };
        assert_eq!(post(&first, "eve").status, 410);
        let racing: Vec<u16> = std::thread::scope(|scope| {
            let racers: Vec<_> = ["ada", "boole", "curie", "dirac"]
                .map(|name| scope.spawn({ let (post, secret) = (&post, &secret); move || post(secret, name).status }))
                .into_iter()
                .collect();
            racers.into_iter().map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(racing.iter().filter(|status| **status == 201).count(), 1, "{racing:?}");
        assert!(racing.iter().all(|status| [201, 410].contains(status)), "{racing:?}");
        assert_eq!(post(&secret, "eve").status, 410);
        assert_eq!(running.run(&options, ["users", "list"]).succeeds().out.lines().count(), 1);
        // Whoever has people gets no link.
        let again = RunningPortal::start_again(&running.state, &options);
        assert!(!again.process.output().contains("setup#"), "{}", again.process.output());
    }
}

/// A service called `culvert` or `culvert-portal` puts these into every pod of its namespace.
#[test]
fn variables_that_a_cluster_sets_are_no_settings() {
    let names = ["CULVERT", "CULVERT_PORTAL", "CULVERT_PORTAL_METRICS_"];
    let variables = names.iter().flat_map(|name| {
        [
            (format!("{name}_PORT"), "tcp://10.0.0.1:7280"),
            (format!("{name}_SERVICE_HOST"), "10.0.0.1"),
            (format!("{name}_SERVICE_PORT"), "7280"),
            (format!("{name}_SERVICE_PORT_HTTP"), "7280"),
            (format!("{name}_PORT_7280_TCP"), "tcp://10.0.0.1:7280"),
            (format!("{name}_PORT_7280_TCP_PROTO"), "tcp"),
            (format!("{name}_PORT_7280_TCP_PORT"), "7280"),
            (format!("{name}_PORT_7280_TCP_ADDR"), "10.0.0.1"),
        ]
    });
    let variables = variables.map(|(name, value)| (name, value.to_owned())).collect();
    let running = RunningPortal::start(&PortalOptions { variables, ..PortalOptions::default() });
    assert_eq!(running.with_admin().get("/me").status, 200);
}

/// A file that `echo` has made ends with a line end; everything else in it is the password.
#[test]
fn a_password_file_may_end_with_a_line_end() {
    let Some(server) = Postgres::start() else { return };
    let database = server.new_database();
    drop(server.psql("create role locked login superuser password 'p@ss /:%w'"));
    let rules = "local all all trust\nhost all locked 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust";
    let file = server.psql("show hba_file");
    let lines = rules.replace('\n', "', '");
    drop(server.psql(&format!("copy (select unnest(array['{lines}'])) to '{file}'")));
    drop(server.psql("select pg_reload_conf()"));
    let url = database.replace("culvert@", "locked@");
    let room = folder();
    let secret = room.path().join("password");
    let argument = |name: &str| vec![name.to_owned(), secret.display().to_string()];
    until("the server wants a password", || server.try_psql(&url, "select 1").code != 0);
    for content in ["p@ss /:%w", "p@ss /:%w\n", "p@ss /:%w\r\n"] {
        write_secret(&secret, content);
        let database = Some(url.clone());
        let arguments = argument("--database-password-file");
        let options = PortalOptions { database, arguments, ..PortalOptions::default() };
        drop(RunningPortal::start_again(&room.path().join("state"), &options));
    }
    for content in ["p@ss /:%w ", "p@ss /:%w\n\n", " p@ss /:%w"] {
        write_secret(&secret, content);
        let options = PortalOptions { database: Some(url.clone()), ..PortalOptions::default() };
        let mut arguments = argument("--database-password-file");
        arguments.extend(["users", "list"].map(str::to_owned));
        let ran = culvert_portal_tests::program::run(&room.path().join("state"), &options, arguments);
        assert!(ran.code == 1 && ran.err.contains("cannot open the database"), "{content:?}: {ran:?}");
        // The blanks are told, the password is not.
        assert!(ran.err.contains("blanks, which are part of it") || content.ends_with("\n\n"), "{ran:?}");
        assert!(!ran.err.contains("p@ss") && !ran.err.contains("%70"), "{ran:?}");
    }
}

#[test]
fn a_raw_key_may_end_with_any_byte_and_a_passphrase_with_a_line_end() {
    let room = folder();
    let secret = room.path().join("key");
    let with = |flag: &str| PortalOptions {
        arguments: vec![flag.to_owned(), secret.display().to_string()],
        ..PortalOptions::default()
    };
    let write = |content: &[u8]| write_secret(&secret, content);
    let mut key = [7; 32];
    key[31] = b'\n';
    write(&key);
    let mut running = RunningPortal::start(&with("--sealing-key-file"));
    running.process.end_by(Signal::TERM);
    key[31] = 7;
    for wrong in [&key[..31], &[key.as_slice(), b"\n"].concat()] {
        write(wrong);
        let ran = running.run(
            &PortalOptions::default(),
            ["users".as_ref(), "list".as_ref(), "--sealing-key-file".as_ref(), secret.as_os_str()],
        );
        assert!(ran.code == 1 && ran.err.contains("a key has exactly 32"), "{ran:?}");
    }
    write(b"a passphrase of some length\n");
    let mut running = RunningPortal::start(&with("--sealing-passphrase-file"));
    running.process.end_by(Signal::TERM);
    write(b"a passphrase of some length");
    drop(RunningPortal::start_again(&running.state, &with("--sealing-passphrase-file")));
    write(b"a passphrase of some lengths");
    let ran = running.run(
        &PortalOptions::default(),
        ["users".as_ref(), "list".as_ref(), "--sealing-passphrase-file".as_ref(), secret.as_os_str()],
    );
    assert!(ran.code == 1 && ran.err.contains("sealed under another key"), "{ran:?}");
}
