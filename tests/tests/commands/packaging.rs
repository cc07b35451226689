//! What `packaging/` ships: units that are as strict as promised, settings that the program
//! accepts, alerts that fire, and a Debian package that lintian accepts.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use culvert_node::settings::Settings;
use culvert_tests::documents::dead_links;
use culvert_tests::node::Pair;
use culvert_tests::program::{Ran, culvert, is_installed};
use culvert_tests::units::Unit;

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging").canonicalize().unwrap()
}

fn run<S: AsRef<OsStr>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Ran {
    Command::new(program).args(arguments).env("LC_ALL", "C.UTF-8").output().expect("it starts").into()
}

fn sorted_files(directory: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Prints why the test is skipped, if a program is missing.
macro_rules! needs {
    ($($program:literal),+) => {
        for program in [$($program),+] {
            if !is_installed(program) {
                eprintln!("skipped: {program} is not installed");
                return;
            }
        }
    };
}

/// The result of `systemd-analyze security` for a unit, in tenths.
fn exposure(unit: &str) -> u32 {
    let path = packaging().join("systemd").join(unit);
    let judged = run("systemd-analyze", ["security".as_ref(), "--offline=true".as_ref(), path.as_os_str()]).exits(0);
    let line = judged.out.lines().find(|line| line.contains("Overall exposure level")).expect("a judgment").to_owned();
    let number = line.split_once(": ").and_then(|(_, rest)| rest.split_whitespace().next()).expect("a number");
    (number.parse::<f64>().expect("a number") * 10.0).round() as u32
}

#[test]
fn the_units_are_as_strict_as_promised() {
    needs!("systemd-analyze");
    let (node, data_plane) = (exposure("culvert.service"), exposure("culvert-dataplane@.service"));
    let portal = exposure("culvert-portal.service");
    assert!(portal <= 13, "the portal's exposure is {portal} tenths");
    assert!(node <= 15, "the node's exposure is {node} tenths");
    assert!(data_plane <= 26, "the data plane's exposure is {data_plane} tenths");
}

#[test]
fn systemd_understands_every_line_of_the_units() {
    needs!("systemd-analyze");
    let room = tempfile::tempdir().unwrap();
    let mut units = Vec::new();
    for entry in fs::read_dir(packaging().join("systemd")).unwrap() {
        let path = entry.unwrap().path();
        let unit = room.path().join(path.file_name().unwrap());
        // The program is where this test has it; the portal's own tests have the portal's.
        let text = fs::read_to_string(&path).unwrap().replace("/usr/bin/culvert-portal", "/usr/bin/culvert portal");
        let text = text.replace("/usr/bin/culvert ", &format!("{} ", culvert().display()));
        fs::write(&unit, text).unwrap();
        units.push(unit);
    }
    assert_eq!(units.len(), 4);
    let verified = run("systemd-analyze", ["verify".into(), "--man=no".into()].into_iter().chain(units));
    assert!(verified.code == 0 && verified.err.is_empty() && verified.out.is_empty(), "{verified:?}");
}

#[test]
fn the_units_agree_with_each_other_and_with_the_accounts() {
    let (node, data_plane) = (Unit::shipped("culvert.service"), Unit::shipped("culvert-dataplane@.service"));
    let socket = Unit::shipped("culvert-dataplane.socket");
    let path = socket.one("ListenSequentialPacket");
    assert!(node.one("Environment").contains(&format!("CULVERT_DATAPLANE_SOCKET={path}")));
    assert_eq!(socket.one("SocketUser"), node.one("User"), "only the node may connect");
    assert_ne!(data_plane.one("User"), node.one("User"));
    let accounts = fs::read_to_string(packaging().join("sysusers.conf")).unwrap();
    for user in [node.one("User"), data_plane.one("User")] {
        assert!(accounts.lines().any(|line| line.split_whitespace().nth(1) == Some(user)), "no account {user}");
    }
    let directories = fs::read_to_string(packaging().join("tmpfiles.conf")).unwrap();
    assert!(directories.contains(&format!("d {} ", Path::new(path).parent().unwrap().display())));
    assert_eq!(node.one("CapabilityBoundingSet"), "", "the node has no capability");
}

#[test]
fn accounts_and_directories_are_made() {
    needs!("systemd-sysusers", "systemd-tmpfiles");
    let root = tempfile::tempdir().unwrap();
    let at = format!("--root={}", root.path().display());
    for directory in ["etc", "run"] {
        fs::create_dir(root.path().join(directory)).unwrap();
    }
    run("systemd-sysusers", [at.as_ref(), packaging().join("sysusers.conf").as_os_str()]).exits(0);
    let accounts = fs::read_to_string(root.path().join("etc/passwd")).unwrap();
    for user in ["culvert", "culvert-dataplane"] {
        let line = accounts.lines().find(|line| line.starts_with(&format!("{user}:"))).expect("an account");
        assert!(line.ends_with("/usr/sbin/nologin"), "{line}");
    }
    run("systemd-tmpfiles", [at.as_ref(), "--create".as_ref(), packaging().join("tmpfiles.conf").as_os_str()]).exits(0);
    assert!(root.path().join("run/culvert").is_dir());
    // Partners are added before the node has ever run: its unit alone would make this too late.
    let state = fs::metadata(root.path().join("var/lib/culvert")).unwrap();
    let account = accounts.lines().find(|line| line.starts_with("culvert:")).unwrap();
    assert_eq!(state.permissions().mode() & 0o7777, 0o700);
    assert_eq!(account.split(':').nth(2), Some(state.uid().to_string().as_str()));
}

/// The fields that the program knows in a table, from its error about one that it does not know.
fn known_fields(table: &str) -> BTreeSet<String> {
    let required = match table {
        "archive" => "url = 'https://x'\n",
        "psconfig" => "listen = '[::]:1'\naddress = 'x'\n",
        _ => "",
    };
    let head = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let error = Settings::from_toml(&format!("{head}{required}no_such_field = 1\n"), Path::new("x")).unwrap_err();
    let text = error.to_string();
    let (_, fields) = text.split_once("expected ").unwrap_or_else(|| panic!("no fields in: {text}"));
    let fields: BTreeSet<String> = fields.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    assert!(fields.len() > 1, "{text}");
    fields
}

#[test]
fn the_settings_file_names_every_setting_and_the_program_takes_them_all() {
    let text = fs::read_to_string(packaging().join("culvert.toml")).unwrap();
    assert!(text.lines().all(|line| line.is_empty() || line.starts_with('#')), "something is set");
    assert!(Settings::from_toml(&text, Path::new("culvert.toml")).unwrap().mtu.value.is_none());
    // A setting is commented out without a space.
    let is_setting = |line: &&str| line.starts_with('#') && !line.starts_with("# ") && line.len() > 1;
    let settings: Vec<&str> = text.lines().filter(is_setting).map(|line| &line[1..]).collect();
    Settings::from_toml(&settings.join("\n"), Path::new("culvert.toml")).unwrap();
    let tables = ["path", "responder", "archive", "psconfig"];
    for table in ["", tables[0], tables[1], tables[2], tables[3]] {
        let header = format!("[{table}]");
        let mut of_table = settings.iter().skip_while(|line| !table.is_empty() && **line != header).peekable();
        of_table.next_if(|line| !table.is_empty() && **line == header);
        let written: BTreeSet<String> = of_table
            .take_while(|line| !line.starts_with('['))
            .map(|line| line.split(' ').next().unwrap().to_owned())
            .collect();
        let known: BTreeSet<String> =
            known_fields(table).into_iter().filter(|field| !table.is_empty() || !tables.contains(&&**field)).collect();
        assert_eq!(written, known, "the table '{table}'");
    }
}

#[test]
fn the_alerts_fire_when_they_should() {
    needs!("promtool");
    let directory = packaging().join("prometheus");
    run("promtool", ["check".as_ref(), "rules".as_ref(), directory.join("culvert.rules.yml").as_os_str()]).exits(0);
    let tests = directory.join("culvert.rules.test.yml");
    run("promtool", ["test".as_ref(), "rules".as_ref(), tests.as_os_str()]).exits(0);
    // Every alert has a test in which it fires.
    let (rules, tests) = (fs::read_to_string(directory.join("culvert.rules.yml")), fs::read_to_string(&tests));
    let (rules, tests) = (rules.unwrap(), tests.unwrap());
    let alerts: Vec<&str> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(!alerts.is_empty());
    let operations = fs::read_to_string(packaging().join("../docs/operations.md")).unwrap();
    for alert in alerts {
        assert!(
            tests.contains(&format!("alertname: {alert}\n        exp_alerts:\n          -")),
            "{alert} never fires"
        );
        assert!(operations.contains(&format!("`{alert}`")), "docs/operations.md does not say what to do for {alert}");
    }
}

#[test]
fn the_alerts_ask_for_metrics_that_there_are() {
    let pair = Pair::new();
    let node = pair.start();
    let source = pair.path("file");
    fs::write(&source, vec![7; 1 << 20]).unwrap();
    pair.send(&source, "file", &[]).exits(0);
    let metrics = node.metrics();
    let rules = fs::read_to_string(packaging().join("prometheus/culvert.rules.yml")).unwrap();
    let is_word = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let mut names: Vec<&str> = rules.split(|character| !is_word(character)).collect();
    names.retain(|word| word.starts_with("culvert_"));
    assert!(names.len() > 5);
    for name in names {
        assert!(metrics.lines().any(|line| line.starts_with(name)), "there is no metric {name}");
    }
    // Labels with values, except those that only a fault makes appear.
    for series in ["culvert_files_total{result=\"failed\"}", "culvert_segments_total{direction=\"send\"}"] {
        assert!(metrics.contains(series), "there is no series {series}");
    }
}

#[test]
fn the_firewall_example_is_one_that_nft_takes() {
    needs!("nft");
    let checked = run("nft", ["-c".as_ref(), "-f".as_ref(), packaging().join("nftables/culvert.nft").as_os_str()]);
    if checked.err.contains("Operation not permitted") || checked.err.contains("not supported") {
        eprintln!("skipped: nft cannot check rules here: {}", checked.err.trim());
        return;
    }
    checked.exits(0);
}

#[test]
fn shells_understand_their_completions() {
    let room = tempfile::tempdir().unwrap();
    for (shell, check) in [("bash", "-n"), ("zsh", "-n"), ("fish", "--no-execute")] {
        let script = room.path().join(shell);
        fs::write(&script, run(culvert().to_str().unwrap(), ["completion", shell]).exits(0).out).unwrap();
        assert!(fs::read_to_string(&script).unwrap().contains("transfer"), "{shell} does not complete 'transfer'");
        if !is_installed(shell) {
            eprintln!("skipped: {shell} is not installed");
            continue;
        }
        let checked = run(shell, [OsStr::new(check), script.as_os_str()]).exits(0);
        assert!(checked.err.is_empty(), "{checked:?}");
    }
}

#[test]
fn the_package_is_accepted_by_lintian_and_what_is_in_it_works() {
    needs!("dpkg-deb", "strip", "lintian", "man", "md5sum");
    let room = tempfile::tempdir().unwrap();
    let package = xtask::deb::Package {
        workspace: packaging().join(".."),
        program: culvert().to_owned(),
        maintainer: xtask::deb::MAINTAINER.to_owned(),
        revision: 1,
    };
    let package = package.build(room.path()).unwrap();
    let judged = run("lintian", [OsStr::new("--fail-on"), "error,warning".as_ref(), package.as_os_str()]).exits(0);
    assert!(judged.out.is_empty(), "{}", judged.out);

    let tree = room.path().join("unpacked");
    run("dpkg-deb", [OsStr::new("-R"), package.as_os_str(), tree.as_os_str()]).exits(0);
    let version = run(tree.join("usr/bin/culvert").to_str().unwrap(), ["version"]).exits(0);
    assert!(version.out.contains(env!("CARGO_PKG_VERSION")), "{}", version.out);
    let sums = Command::new("md5sum").args(["--quiet", "-c", "DEBIAN/md5sums"]).current_dir(&tree).output().unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));

    let dead = dead_links(&tree.join("usr/share/doc/culvert"));
    assert!(dead.is_empty(), "links of the package lead nowhere: {dead:#?}");

    let of_section = |section| fs::read_dir(tree.join("usr/share/man").join(section)).unwrap();
    let entries = of_section("man1").chain(of_section("man5"));
    let pages: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    assert!(pages.len() > 15, "{pages:?}");
    for page in &pages {
        let shown = run("man", [OsStr::new("--warnings"), "-l".as_ref(), page.as_os_str()]).exits(0);
        assert!(shown.err.is_empty() && shown.out.contains("DESCRIPTION"), "{}: {}", page.display(), shown.err);
    }
    if is_installed("mandoc") {
        let room = tempfile::tempdir().unwrap();
        run(culvert().to_str().unwrap(), ["completion", "man", "--directory", room.path().to_str().unwrap()]).exits(0);
        let judged = run(
            "mandoc",
            ["-T", "lint", "-W", "warning"]
                .into_iter()
                .map(OsStr::new)
                .chain(sorted_files(room.path()).iter().map(|page| page.as_os_str())),
        );
        assert!(judged.code == 0 && judged.out.is_empty() && judged.err.is_empty(), "{judged:?}");
        for page in sorted_files(room.path()) {
            let text = fs::read_to_string(&page).unwrap();
            assert!(text.contains(".SH FILES") && !text.contains("EXTRA"), "{}", page.display());
            assert!(text.contains("EXIT STATUS") || page.ends_with("culvert.toml.5"), "{}", page.display());
        }
    } else {
        eprintln!("skipped: mandoc is not installed");
    }
    let page = |name: &str| run("man", [OsStr::new("-l"), tree.join("usr/share/man/man1").join(name).as_os_str()]);
    assert!(page("culvert-node.1.gz").exits(0).out.contains("--dataplane-socket"));
    for file in [
        "etc/culvert/culvert.toml",
        "lib/systemd/system/culvert.service",
        "lib/systemd/system/culvert-dataplane.socket",
        "lib/systemd/system/culvert-dataplane@.service",
        "usr/lib/sysusers.d/culvert.conf",
        "usr/lib/tmpfiles.d/culvert.conf",
        "usr/share/bash-completion/completions/culvert",
        "usr/share/zsh/vendor-completions/_culvert",
        "usr/share/fish/vendor_completions.d/culvert.fish",
        "usr/share/doc/culvert/operations.md",
        "usr/share/doc/culvert/culvert.lua",
        "usr/share/doc/culvert/examples/culvert.rules.test.yml",
    ] {
        assert!(tree.join(file).is_file(), "{file} is not in the package");
    }
}
