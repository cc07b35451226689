//! Values that look as if they meant something: each is accepted because it does, or refused by a
//! sentence that says which setting it was, where it came from and what may stand there.

use std::path::Path;

use culvert_model::setting::{Row, Section};

use super::tests::{none, typed};
use super::values::default_state;
use super::{Flags, SECTIONS, Settings, SettingsError};

/// As the file has them; [`LONG`] stands for a text of 5,000 characters.
const VALUES: &[&str] = &[
    "0",
    "1",
    "-1",
    "65536",
    "4294967296",
    "9223372036854775807",
    "99999999999999999999",
    "true",
    "\"\"",
    "\" \"",
    "\"0\"",
    "\"-1\"",
    "\"99999999999999999999\"",
    "\"9-1\"",
    "\"7,7\"",
    "\"a\\u0000b\"",
    "\"a\\nb\"",
    "\"[::]:0\"",
    "\"0.0.0.0:70000\"",
    "\"224.0.0.1:7272\"",
    "\"224.0.0.1\"",
    "\"https://\"",
    "\"https://h:70000/\"",
    "\"https://u:p@h/\"",
    "[]",
    "[0, 0]",
    "[0, 1]",
    "[9, 1]",
    "[1, 65536]",
    "[-1, 1]",
    "[\"\"]",
    "[\"a\\u0000b\"]",
    LONG,
];
const LONG: &str = "long";

/// Those of the values above that mean something, by section and setting.
const MEANT: &[(&str, &str, &[&str])] = &[
    // Any text is the name of some file.
    ("", "state", PATHS),
    ("", "dataplane_socket", PATHS),
    ("responder", "stamp_key_file", PATHS),
    ("archive", "ca_file", PATHS),
    // Any visible text is a name.
    ("", "name", NAMES),
    ("archive", "observer", NAMES),
    // Any port that is free.
    ("", "listen", &["\"0\"", "\"[::]:0\""]),
    ("", "metrics", &["\"[::]:0\""]),
    // An interface may have such a name; longer ones are none.
    ("", "interface", &["\"0\"", "\"-1\"", "\"9-1\"", "\"7,7\"", "\"224.0.0.1\""]),
    // A core may have several lanes.
    ("", "cores", &["\"0\"", "\"7,7\"", "[0, 0]", "[0, 1]", "[9, 1]", "[1, 65536]"]),
    // Interrupts; no limit.
    ("", "busy_poll_us", &["0", "1"]),
    ("", "patience_s", &["0", "1", "65536"]),
    ("path", "answer", &["true"]),
    // Nobody.
    ("path", "refuse", &["[]"]),
    ("path", "seconds", &["1", "65536"]),
    ("path", "port", &["1"]),
    // Never.
    ("path", "fresh_hours", &["0", "1", "65536"]),
    ("responder", "allow", &["[]"]),
    ("responder", "sessions", &["1"]),
    ("responder", "packets_per_second", &["65536"]),
    ("archive", "spool_documents", &["1", "65536"]),
    ("archive", "spool_bytes", &["65536", "4294967296"]),
    ("psconfig", "address", &["\"0\"", "\"99999999999999999999\"", "\"9-1\"", "\"224.0.0.1\""]),
    ("psconfig", "hosts", &["[]"]),
];

const PATHS: &[&str] = &[
    "\" \"",
    "\"0\"",
    "\"-1\"",
    "\"99999999999999999999\"",
    "\"9-1\"",
    "\"7,7\"",
    "\"a\\nb\"",
    "\"[::]:0\"",
    "\"0.0.0.0:70000\"",
    "\"224.0.0.1:7272\"",
    "\"224.0.0.1\"",
    "\"https://\"",
    "\"https://h:70000/\"",
    "\"https://u:p@h/\"",
];

const NAMES: &[&str] = &[
    "\"0\"",
    "\"-1\"",
    "\"99999999999999999999\"",
    "\"9-1\"",
    "\"7,7\"",
    "\"[::]:0\"",
    "\"0.0.0.0:70000\"",
    "\"224.0.0.1:7272\"",
    "\"224.0.0.1\"",
    "\"https://\"",
    "\"https://h:70000/\"",
    "\"https://u:p@h/\"",
];

#[test]
fn each_value_in_the_file_means_something_or_is_refused_by_name() {
    let mut wrong = Vec::new();
    for (section, row) in rows() {
        for value in VALUES {
            let text = document(section, row, &written(value));
            let is_meant = means(section, row, value);
            let line = text.lines().position(|line| line.starts_with(&format!("{} =", row.name))).unwrap() + 1;
            match Settings::from_toml(&text, Path::new("/etc/x.toml")).map_err(|error| error.to_string()) {
                Ok(_) if is_meant => {}
                Ok(_) => wrong.push(format!("[{}] {} = {value} is accepted", section.name, row.name)),
                Err(error) if is_meant => wrong.push(format!("[{}] {} = {value}: {error}", section.name, row.name)),
                Err(error) => {
                    for told in ["/etc/x.toml", row.name, &format!("line {line}")] {
                        assert!(error.contains(told), "{told}: {error}");
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What the file accepts, variables and flags accept, and nothing else.
#[test]
fn each_value_of_a_variable_and_a_flag_is_judged_as_in_the_file() {
    for row in SECTIONS[0].rows {
        for value in VALUES.iter().filter(|value| !value.starts_with('[')) {
            let text = if value.starts_with(['"', 'l']) { typed(&written(value)) } else { (*value).to_owned() };
            let quoted = toml::Value::String(text.clone()).to_string();
            let in_file =
                [&quoted, &text].map(|value| Settings::from_toml(&document(&SECTIONS[0], row, value), Path::new("x")));
            let is_meant = in_file.iter().any(Result::is_ok);
            let judge = |settled: Result<Settings, SettingsError>, origin: &str| match settled {
                Ok(_) => assert!(is_meant, "{origin} accepts {value}"),
                Err(error) => assert!(!is_meant && error.to_string().contains(origin), "{origin}, {value}: {error}"),
            };
            let variable = row.variable.unwrap();
            let by_variable = |name: &str| (name == variable).then(|| text.clone());
            judge(Settings::resolve_with(&Flags::default(), &by_variable), variable);
            let mut flags = Flags::default();
            let Some((_, place)) = flags.places().find(|(other, _)| other.name == row.name) else { continue };
            *place = Some(text.clone());
            judge(Settings::resolve_with(&flags, &none), row.flag.unwrap().typed);
        }
    }
}

/// Regression: beneath an empty one was the current directory.
#[test]
fn homes_that_are_not_absolute_are_none() {
    for home in ["", "x", "."] {
        let variables = |name: &str| ["HOME", "XDG_STATE_HOME"].contains(&name).then(|| home.to_owned());
        assert!(default_state(&variables).is_absolute(), "{home:?}");
    }
}

#[test]
fn an_empty_name_of_the_file_is_refused_by_name() {
    let flags = Flags { config: Some(String::new()), ..Flags::default() };
    let error = Settings::resolve_with(&flags, &none).unwrap_err();
    assert!(error.is_of_command_line() && error.to_string().contains("--config cannot be used"), "{error}");
    let empty = |name: &str| (name == "CULVERT_CONFIG").then(String::new);
    let error = Settings::resolve_with(&Flags::default(), &empty).unwrap_err().to_string();
    assert!(error.contains("variable CULVERT_CONFIG") && error.contains("is empty"), "{error}");
}

#[test]
fn settings_that_need_each_other_are_refused_alone() {
    for (table, told) in [
        ("user = 'x'", "archive.user"),
        ("password_file = '/x'", "archive.password_file"),
        ("ca_file = '/x'\ntrust = 'pin'", "archive.ca_file"),
        ("trust = 'maybe'", "archive.trust"),
        ("user = 'a:b'\npassword_file = '/x'", "archive.user"),
    ] {
        let text = format!("[archive]\nurl = 'https://h/'\n{table}\n");
        let error = Settings::from_toml(&text, Path::new("/etc/x.toml")).unwrap_err().to_string();
        assert!(error.contains(&format!("{told} (from /etc/x.toml, line 3)")) || told == "archive.trust", "{error}");
        assert!(error.contains(told), "{error}");
    }
}

/// All rows, except those that another one must accompany.
fn rows() -> impl Iterator<Item = (&'static Section, &'static Row)> {
    let all = SECTIONS.iter().flat_map(|section| section.rows.iter().map(move |row| (section, row)));
    all.filter(|(_, row)| !["user", "password_file"].contains(&row.name))
}

/// A file with one setting and those that its table must have.
fn document(section: &Section, row: &Row, value: &str) -> String {
    let mut lines = vec!["# A comment.".to_owned()];
    if !section.name.is_empty() {
        lines.push(format!("[{}]", section.name));
    }
    lines.push(format!("{} = {value}", row.name));
    let required = section.rows.iter().filter(|other| other.default == "none; required" && other.name != row.name);
    lines.extend(required.map(|other| format!("{} = {}", other.name, other.example)));
    lines.join("\n")
}

fn written(value: &str) -> String {
    if value == LONG { format!("\"{}\"", "x".repeat(5_000)) } else { value.to_owned() }
}

fn means(section: &Section, row: &Row, value: &str) -> bool {
    let meant = MEANT.iter().find(|(of, name, _)| *of == section.name && *name == row.name);
    meant.is_some_and(|(.., values)| values.contains(&value))
}
