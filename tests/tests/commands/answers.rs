//! What commands answer to programs: always one JSON document, which conforms to a schema, and exit
//! codes from one table.

use std::fs;
use std::path::Path;

use clap::CommandFactory as _;
use culvert_cli::args::Cli;
use culvert_model::exit_code::ExitCode;
use culvert_tests::node::{Pair, RunningNode, wait_for};
use culvert_tests::program::{Ran, command, run};
use culvert_tests::schema::assert_valid;
use serde_json::Value;

/// The only document of a command that was given `--json`.
#[track_caller]
fn document(ran: &Ran) -> Value {
    let mut documents = serde_json::Deserializer::from_str(&ran.out).into_iter::<Value>();
    let first = documents.next().unwrap_or_else(|| panic!("it answers nothing: {ran:?}"));
    assert!(documents.next().is_none(), "it answers more than once: {ran:?}");
    first.unwrap_or_else(|error| panic!("{error}: {ran:?}"))
}

#[track_caller]
fn answers(ran: &Ran, schema: &str) -> Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    let document = document(ran);
    assert_valid(&document, schema);
    document
}

/// A failure: its document, checked for the exit code and for the word.
#[track_caller]
fn fails(ran: &Ran, code: i32, word: &str) -> Value {
    let document = document(ran);
    assert_valid(&document, "failure");
    assert_eq!((ran.code, &document["error"]["code"]), (code, &word.into()), "{ran:?}");
    assert_eq!(document["error"]["exit_code"], code);
    // People read the same text.
    let text = document["error"]["text"].as_str().unwrap();
    assert!(ran.err.contains(text.lines().next().unwrap()), "{ran:?}");
    document
}

/// Regression: standard output was empty, and a program had to parse the sentence.
#[test]
fn every_failure_is_an_object_with_code_text_and_exit_code() {
    let pair = Pair::new();
    let here = |arguments: &[&str]| run(&pair.here, arguments);
    fails(&here(&["identity", "--json", "--state", pair.path("empty").to_str().unwrap()]), 3, "not_found");
    fails(&here(&["status", "--json"]), 3, "not_found");
    fails(&here(&["send", "--json", "one"]), 2, "usage");
    fails(&here(&["send", "--json", "/not/there", "nobody:/x"]), 3, "not_found");
    fails(&here(&["send", "--json", "--mode", "fixed", "a", "second:b"]), 2, "usage");
    fails(&here(&["send", "--json", "--remote-ports", "5000", "/etc/hostname", "culvert://127.0.0.1:1/x"]), 2, "usage");
    fails(&here(&["transfer", "show", "--json", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"]), 3, "not_found");
    fails(&here(&["transfer", "wait", "--json", "01M7Y66XEYQTB0R7Z4Z4Y0DQVK"]), 3, "not_found");
    fails(&here(&["transfer", "receipt", "--json", "/not/there"]), 3, "not_found");
    fails(&here(&["profile", "show", "--json", "nobody"]), 3, "not_found");
    fails(&here(&["profile", "add", "--json", "x", "--key", "nonsense"]), 2, "usage");
    fails(&here(&["profile", "verify", "--json", "nobody"]), 3, "not_found");
    fails(&here(&["path", "check", "--json", "nobody"]), 3, "not_found");
    fails(&here(&["path", "history", "--json"]), 3, "not_found");
    fails(&here(&["bench", "limit", "--json", "--core", "4095"]), 2, "usage");
    fails(&here(&["config", "show", "--json", "--config", "/not/there.toml"]), 7, "bad_host");
    fails(&here(&["demo", "--json", "--directory", "/not/there"]), 7, "bad_host");
    // A host that does not exist; no resolver is asked about such a name.
    let unknown =
        fails(&here(&["send", "--json", "--retries", "0", "/etc/hostname", "culvert://a..b/x"]), 3, "not_found");
    assert!(unknown["transfer"].as_str().is_some_and(|id| id.len() == 26), "{unknown}");
}

/// Regression: errors that clap finds were only reported on standard error.
#[test]
fn a_command_line_that_is_none_is_answered_like_every_failure() {
    let room = tempfile::tempdir().unwrap();
    for line in [
        "send --json --rate 10x a lab:s5",
        "send --json --bogus a lab:s5",
        "send --bogus a lab:s5 --json",
        "send --json",
        "sned --json a lab:s5",
        "profile add --json x",
        "profile --json",
        "transfer show --json",
        "tune --json nonsense",
    ] {
        let ran = run(room.path(), line.split(' '));
        let document = fails(&ran, 2, "usage");
        let text = document["error"]["text"].as_str().unwrap();
        assert!(!text.starts_with("error") && !text.contains("--help"), "{text}");
    }
    for line in ["send --bogus a lab:s5", "send --bogus -- --json", "transfer show"] {
        assert_eq!(run(room.path(), line.split(' ')).exits(2).out, "");
    }
    assert!(run(room.path(), ["send", "--json", "--help"]).exits(0).out.contains("Usage"));
}

#[test]
fn every_answer_is_one_document_of_its_schema() {
    let pair = Pair::new();
    let node = pair.start();
    let here = |arguments: &[&str]| run(&pair.here, arguments);
    let there = |arguments: &[&str]| run(&pair.there, arguments);
    answers(&here(&["identity", "--json"]), "identity");
    answers(&here(&["identity", "init", "--json"]), "identity");
    answers(&here(&["version", "--json"]), "version");
    answers(&here(&["config", "show", "--json"]), "config");
    answers(&here(&["profile", "list", "--json"]), "profiles");
    answers(&here(&["profile", "show", "second", "--json"]), "profile");
    answers(&here(&["profile", "pending", "--json"]), "pending-keys");
    answers(&there(&["status", "--json"]), "status");
    let file = pair.path("file");
    fs::write(&file, "content").unwrap();
    let sent = answers(&pair.send(&file, "copy", &[]), "transfer-result");
    let id = sent["transfer"].as_str().unwrap();
    answers(&pair.get("copy", &pair.path("back"), &[]), "transfer-result");
    answers(&here(&["transfer", "show", id, "--json"]), "transfer-record");
    answers(&here(&["transfer", "receipt", id, "--json"]), "receipt");
    let list = here(&["transfer", "list", "--json"]).exits(0);
    assert_eq!(list.out.lines().count(), 2);
    list.out.lines().for_each(|line| assert_valid(&serde_json::from_str(line).unwrap(), "transfer-record"));
    let key = "a".repeat(64);
    answers(&here(&["profile", "add", "third", "--key", &key, "--json"]), "profile");
    answers(&here(&["profile", "remove", "third", "--json"]), "profile-removed");
    answers(&here(&["profile", "verify", "second", "--json"]), "profile-verified");
    answers(&here(&["path", "check", "second", "--seconds", "0.2", "--no-rate", "--json"]), "path-check");
    let history = here(&["path", "history", "--json"]).exits(0);
    history.out.lines().for_each(|line| assert_valid(&serde_json::from_str(line).unwrap(), "path-record"));
    answers(&here(&["bench", "limit", "--seconds", "0.2", "--json"]), "bench-limit");
    let room = pair.path("").display().to_string();
    answers(&here(&["bench", "disk", &room, "--size", "16M", "--json"]), "bench-disk");
    answers(&here(&["demo", "--size", "1M", "--json"]), "transfer-result");
    for (arguments, schema) in [
        (&["tune", "audit", "--json"][..], "tune-audit"),
        (&["tune", "plan", "--json"], "tune-plan"),
        (&["tune", "status", "--json"], "tune-status"),
        (&["tune", "facts", "--json"], "tune-facts"),
        (&["tune", "measure", "--json"], "tune-measure"),
        (&["tune", "watch", "--once", "--json"], "tune-watch-line"),
        (&["tune", "confirm", "--json"], "tune-confirm"),
        (&["tune", "rollback", "--json"], "tune-rollback"),
        (&["doctor", "--json"], "doctor"),
    ] {
        assert_valid(&document(&here(arguments)), schema);
    }
    drop(node);
}

/// Regression: the record was printed, and only the sentence after it gave the reason; without a
/// record there was nothing.
#[test]
fn transfers_of_a_node_are_answered_with_their_states_and_a_missing_source_at_once() {
    let pair = Pair::new();
    let node = pair.start();
    let arguments = ["node", "--listen", "127.0.0.1:0", "--ports", "any", "--metrics", "127.0.0.1:0"];
    let ours = RunningNode::start(&pair.here, &mut command(&pair.here, arguments));
    let here = |arguments: &[&str]| run(&pair.here, arguments);
    let destination = format!("second:{}", pair.shared.join("in").display());
    let missing = here(&["transfer", "submit", "--json", "/not/there", &destination]);
    fails(&missing, 3, "not_found");
    fails(&here(&["transfer", "submit", "--json", "/dev/null", &destination]), 1, "failed");
    fails(&here(&["transfer", "submit", "--json", "/etc/hostname", "nobody:/x"]), 3, "not_found");
    let list = here(&["transfer", "list", "--json"]).exits(0);
    assert_eq!(list.out, "", "a refused request is not a transfer");
    let file = pair.path("file");
    fs::write(&file, vec![1; 32 << 20]).unwrap();
    let file = file.display().to_string();
    let submitted = here(&["transfer", "submit", "--json", "--rate", "20M", &file, &destination]);
    let submitted = answers(&submitted, "transfer-submitted");
    let id = submitted["transfer"].as_str().unwrap();
    wait_for("it to move", || {
        let record = here(&["transfer", "show", id, "--json"]).json();
        (record["progress"]["bytes_done"].as_u64() > Some(0)).then_some(())
    });
    // Any unambiguous prefix will do.
    let paused = answers(&here(&["transfer", "pause", &id[..16], "--json"]), "transfer-state");
    assert_eq!(paused["state"], "paused");
    // The partner used to read that somebody had canceled it.
    let record = wait_for("the partner's record", || {
        let record = run(&pair.there, ["transfer", "show", id, "--json"]).json();
        (record["state"] != "active").then_some(record)
    });
    assert_eq!((&record["state"], &record["error"]["code"]), (&"failed".into(), &"interrupted".into()), "{record}");
    answers(&here(&["transfer", "resume", id, "--json"]), "transfer-state");
    answers(&here(&["transfer", "cancel", id, "--json"]), "transfer-state");
    let ended = here(&["transfer", "wait", id, "--json"]);
    assert_eq!((ended.code, &document(&ended)["state"]), (130, &"canceled".into()), "{ended:?}");
    assert_valid(&document(&ended), "transfer-record");
    let watched = here(&["transfer", "watch", id, "--json"]);
    let last: Value = serde_json::from_str(watched.out.lines().last().unwrap()).unwrap();
    assert_eq!((watched.code, &last["error"]["exit_code"]), (130, &130.into()));
    answers(&here(&["transfer", "restart", id, "--json"]), "transfer-state");
    let (state, restarted) = (pair.here.clone(), id.to_owned());
    let watching = std::thread::spawn(move || run(&state, ["transfer", "watch", &restarted, "--json"]));
    wait_for("it to move again", || {
        let record = here(&["transfer", "show", id, "--json"]).json();
        (record["progress"]["bytes_done"].as_u64() > Some(0)).then_some(())
    });
    answers(&here(&["transfer", "cancel", id, "--json"]), "transfer-state");
    let watched = watching.join().unwrap();
    let lines: Vec<Value> = watched.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, before) = lines.split_last().unwrap();
    assert!(!before.is_empty());
    before.iter().for_each(|line| assert_valid(line, "transfer-line"));
    assert_valid(last, "transfer-record");
    let table = here(&["transfer", "list"]).exits(0).out;
    assert!(table.starts_with("ID ") && table.contains("STARTED") && table.contains(id), "{table}");
    // Options that only make sense for a data plane of the command's own are not silently ignored.
    for option in [["--mtu", "1500"], ["--cores", "0"], ["--memory", "1G"], ["--ports", "any"]] {
        let refused = here(&[&["send", "--json", &file, &destination][..], &option].concat());
        let answer = fails(&refused, 2, "usage");
        let text = answer["error"]["text"].as_str().unwrap();
        assert!(text.contains(option[0]) && text.contains("--state"), "{text}");
    }
    let small = pair.path("small");
    fs::write(&small, "content").unwrap();
    here(&["send", small.to_str().unwrap(), &destination]).exits(0).says("the node running with");
    // Both nodes report what went well, too.
    wait_for("a line of each", || {
        let said = |log: &str| log.contains("stored 1 file, 7 B");
        (said(&node.log()) && said(&ours.log())).then_some(())
    });
}

/// The schemas of each command's `--json`.
const SCHEMAS: &[(&str, &[&str])] = &[
    ("bench disk", &["bench-disk"]),
    ("bench ledger", &["bench-ledger"]),
    ("bench limit", &["bench-limit"]),
    ("bench net", &["transfer-result"]),
    ("capture", &["capture"]),
    ("config show", &["config"]),
    ("demo", &["transfer-result"]),
    ("doctor", &["doctor"]),
    ("get", &["transfer-result"]),
    ("identity", &["identity"]),
    ("identity init", &["identity"]),
    ("login", &["portal-login"]),
    ("logout", &["portal-logout"]),
    ("monitor", &["status"]),
    ("path check", &["path-check"]),
    ("path history", &["path-record"]),
    ("path pscheduler", &["path-pscheduler"]),
    ("path stamp", &["path-two-way"]),
    ("path twamp", &["path-two-way"]),
    ("profile add", &["profile"]),
    ("profile approve", &["profile"]),
    ("profile edit", &["profile"]),
    ("profile invite", &["profile-invite"]),
    ("profile list", &["profiles"]),
    ("profile pending", &["pending-keys"]),
    ("profile remove", &["profile-removed"]),
    ("profile show", &["profile"]),
    ("profile verify", &["profile-verified"]),
    ("send", &["transfer-result"]),
    ("status", &["status"]),
    ("token create", &["portal-token-created"]),
    ("token list", &["portal-tokens"]),
    ("token revoke", &["portal-token-revoked"]),
    ("transfer cancel", &["transfer-state"]),
    ("transfer list", &["transfer-record"]),
    ("transfer pause", &["transfer-state"]),
    ("transfer receipt", &["receipt"]),
    ("transfer restart", &["transfer-state"]),
    ("transfer resume", &["transfer-state"]),
    ("transfer show", &["transfer-record"]),
    ("transfer submit", &["transfer-submitted"]),
    ("transfer wait", &["transfer-record"]),
    ("transfer watch", &["transfer-line", "transfer-result", "transfer-record"]),
    ("tune apply", &["tune-apply"]),
    ("tune audit", &["tune-audit"]),
    ("tune confirm", &["tune-confirm"]),
    ("tune facts", &["tune-facts"]),
    ("tune measure", &["tune-measure"]),
    ("tune plan", &["tune-plan"]),
    ("tune rollback", &["tune-rollback"]),
    ("tune status", &["tune-status"]),
    ("tune watch", &["tune-watch-line"]),
    ("version", &["version"]),
    ("whoami", &["portal-account"]),
];

/// The commands that can be run and have `--json`.
fn with_json(command: &clap::Command, above: &str, found: &mut Vec<String>) {
    let name = format!("{above} {}", command.get_name()).trim().to_owned();
    let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
    if has_json && !command.is_subcommand_required_set() {
        found.push(name.clone());
    }
    let below = command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
    below.for_each(|below| with_json(below, &name, found));
}

/// No perfSONAR host is at hand, but what is printed of its answers is.
#[test]
fn answers_of_a_perfsonar_host_are_of_their_schema() {
    use culvert_perfsonar::pscheduler::{Discovery, Outcome};
    let offered = Discovery { api: 5, hostname: "ps".into(), tests: vec!["rtt".into()], tools: vec!["ping".into()] };
    assert_valid(&serde_json::to_value(offered).unwrap(), "path-pscheduler");
    let hops = vec![Some("192.0.2.1".to_owned()), None];
    let outcome = Outcome { delay_us: Some([1.0, 2.0, 3.0]), mtu_bytes: Some(9_000), hops, ..Outcome::default() };
    let mut found = serde_json::to_value(outcome).unwrap();
    for (name, value) in [("host", "ps"), ("test", "trace"), ("dest", "d"), ("task", "https://ps/task")] {
        found[name] = value.into();
    }
    assert_valid(&found, "path-pscheduler");
}

/// Regression: some had none.
#[test]
fn every_command_with_json_has_a_schema_that_the_table_lists() {
    let mut program = Cli::command();
    program.build();
    let mut found = Vec::new();
    program.get_subcommands().filter(|below| !below.is_hide_set()).for_each(|below| with_json(below, "", &mut found));
    found.sort_unstable();
    let listed: Vec<&str> = SCHEMAS.iter().map(|&(command, _)| command).collect();
    assert_eq!(found, listed, "commands with --json, and those whose schemas are known");
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/schemas");
    let table = fs::read_to_string(directory.join("README.md")).unwrap();
    for &(command, schemas) in SCHEMAS {
        for schema in schemas {
            let title = culvert_tests::schema::schema(&format!("{schema}.json"))["title"].clone();
            assert!(title.is_string(), "{schema}");
            assert!(table.contains(&format!("({schema}.json)")), "{schema}");
        }
        let verb = command.split(' ').next_back().unwrap();
        let is_told =
            |row: &str| row.contains(verb) && schemas.iter().any(|schema| row.contains(&format!("({schema}.json)")));
        assert!(table.lines().any(is_told), "the table of docs/schemas does not mention '{command}'");
    }
}

#[test]
fn the_lists_of_exit_codes_are_those_of_the_program() {
    let documents = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.md");
    let operations = fs::read_to_string(documents).unwrap();
    let table = operations.split("| exit code | meaning | what to do |").nth(1).unwrap();
    let rows: Vec<&str> = table.lines().skip(2).take_while(|line| line.starts_with('|')).collect();
    let rows: Vec<String> = rows.into_iter().map(str::to_owned).collect();
    let expected: Vec<String> = ExitCode::ALL
        .iter()
        .map(|code| format!("| {} | {} | {} |", *code as u8, code.meaning(), code.remedy()).replace("|  |", "| |"))
        .collect();
    assert_eq!(rows, expected, "docs/operations.md");
    let room = tempfile::tempdir().unwrap();
    run(room.path(), ["completion", "man", "--directory", room.path().to_str().unwrap()]).exits(0);
    let page = fs::read_to_string(room.path().join("culvert.1")).unwrap();
    let section = page.split("EXIT STATUS").nth(1).expect("the man page has the list");
    for code in ExitCode::ALL {
        let (_, listed) = section.split_once(&format!("\\fB{}\\fR\n", *code as u8)).expect("each code is listed");
        let first = code.meaning().split(['`', '-', '\'']).next().unwrap();
        assert!(listed.to_lowercase().starts_with(&first.to_lowercase()), "{code:?}: {section}");
    }
}

/// Values that no option of this kind accepts: kinds are the names of values in the help.
fn wrong_values(option: &str, kind: &str) -> &'static [&'static str] {
    match (option, kind) {
        ("memory", _) => &["x", "-1", "1"],
        ("ports" | "remote-ports", _) => &["x", "0", "70000", "9-1"],
        ("cores", _) => &["x", "9-1", "4095"],
        ("remote-cores", _) => &["x", "9-1"],
        ("datapath" | "listen" | "metrics" | "bind" | "af-xdp-mode" | "profile", _) => &["non sense"],
        // For these, zero is a valid number.
        ("dscp" | "retries" | "limit" | "lane" | "timeout" | "busy-poll", _) => &["x", "-1", "99999999999999999999"],
        (_, "N" | "SECONDS" | "BYTES" | "TIME") => &["x", "-1", "0", "99999999999999999999", "nan"],
        (_, "SIZE") => &["x", "-1", "99999999999999999999T"],
        (_, "RATE") => &["x", "0", "-1"],
        (_, "CORE") => &["x", "4095"],
        (_, "MODE" | "HASH" | "CIPHER" | "POLICY" | "HOW" | "RISK" | "SEVERITY" | "TEST" | "RULE" | "KEY") => {
            &["non sense"]
        }
        _ => &[],
    }
}

/// Commands with all of their options that take a value.
fn options_of(command: &clap::Command, path: &[String], found: &mut Vec<(Vec<String>, String, String)>) {
    for argument in command.get_arguments().filter(|argument| argument.get_action().takes_values()) {
        let kind = argument.get_value_names().and_then(|names| names.first()).map_or("", |name| name.as_str());
        if let Some(long) = argument.get_long() {
            found.push((path.to_vec(), long.to_owned(), kind.to_owned()));
        }
    }
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        options_of(below, &[path, &[below.get_name().to_owned()]].concat(), found);
    }
}

/// Regression: `--mtu 1` was blamed on the host, but `--flows 0` on the command line.
#[test]
fn a_value_out_of_range_is_the_command_lines_fault() {
    let pair = Pair::new();
    let mut found = Vec::new();
    options_of(&Cli::command(), &[], &mut found);
    let (mut count, mut otherwise) = (0, Vec::new());
    for (path, option, kind) in &found {
        let rest: &[&str] = match path.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["send" | "demo"] | ["transfer", "submit"] => &["/etc/hostname", "second:/x"],
            ["get"] => &["second:/x", "/tmp"],
            ["transfer", _] => &["01M7Y66XEYQTB0R7Z4Z4Y0DQVK"],
            ["profile", "add"] => &["third"],
            ["bench", "disk"] => &["/tmp"],
            ["profile", "edit"] | ["path", "check" | "stamp" | "twamp" | "pscheduler"] => &["second"],
            ["capture"] => &["/dev/null"],
            _ => &[],
        };
        let rest = if path == &["demo"] { &[] } else { rest };
        for wrong in wrong_values(option, kind) {
            let mut typed = path.clone();
            typed.push(format!("--{option}={wrong}"));
            typed.extend(rest.iter().map(|word| (*word).to_owned()));
            let ran = run(&pair.here, &typed);
            let is_named = ran.err.contains(wrong) || ran.err.contains(&format!("--{option}"));
            if ran.code != 2 || !is_named {
                otherwise.push(format!("{typed:?}: {ran:?}"));
            }
            count += 1;
        }
    }
    assert!(otherwise.is_empty(), "{}", otherwise.join("\n"));
    assert!(count > 150, "only {count} were tried");
    // A value from a variable or a file belongs to the configuration.
    for (variable, wrong) in
        [("CULVERT_MTU", "1"), ("CULVERT_PORTS", "0"), ("CULVERT_MEMORY", "1"), ("CULVERT_CORES", "4095")]
    {
        let mut sending = command(&pair.here, ["send", "/etc/hostname", "second:/x"]);
        let ran: Ran = sending.env(variable, wrong).output().unwrap().into();
        ran.exits(7).says(variable);
    }
    let configuration = pair.path("culvert.toml");
    fs::write(&configuration, "mtu = 1\n").unwrap();
    let file = configuration.to_str().unwrap();
    run(&pair.here, ["--config", file, "send", "/etc/hostname", "second:/x"]).exits(7).says("culvert.toml");
    fails(&run(&pair.here, ["send", "--json", "--mtu", "1", "/etc/hostname", "second:/x"]), 2, "usage");
}
