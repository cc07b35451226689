use std::collections::BTreeSet;

use culvert_link::kernel_bypass::Mode;

use super::*;
use crate::settings::values::{parse_af_xdp_mode, parse_busy_poll};

pub(super) fn none(_: &str) -> Option<String> {
    None
}

/// An example as flags and variables have it.
pub(super) fn typed(example: &str) -> String {
    let table: toml::Table = toml::from_str(&format!("x = {example}")).unwrap();
    match &table["x"] {
        toml::Value::String(text) => text.clone(),
        toml::Value::Array(values) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        value => value.to_string(),
    }
}

#[test]
fn modes_and_polling_of_af_xdp() {
    assert_eq!(parse_af_xdp_mode("auto"), Ok(None));
    assert_eq!(parse_af_xdp_mode("zerocopy"), Ok(Some(Mode::ZeroCopy)));
    assert!(parse_af_xdp_mode("zero").unwrap_err().contains("zerocopy, copy or skb"));
    assert_eq!(parse_busy_poll("50"), Ok(50));
    for wrong in ["-1", "10001", "fast"] {
        assert!(parse_busy_poll(wrong).unwrap_err().contains(wrong));
    }
}

#[test]
fn flags_beat_variables_beat_the_file_beats_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("culvert.toml");
    std::fs::write(&path, "name = 'file'\nmtu = 1500\ncores = [0]\n").unwrap();
    let flags = Flags { config: Some(path.display().to_string()), ..Flags::default() };
    let variables = |name: &str| (name == "CULVERT_NAME").then(|| "variable".to_owned());
    let settings = Settings::resolve_with(&flags, &variables).unwrap();
    assert_eq!((settings.name.value.as_str(), &settings.name.origin), ("variable", &Origin::Variable("CULVERT_NAME")));
    assert_eq!((settings.mtu.value, settings.mtu.origin), (Some(1500), Origin::File { path, line: Some(2) }));
    assert_eq!(settings.datapath.origin, Origin::Default);
    let flags = Flags { name: Some("flag".into()), ..flags };
    assert_eq!(Settings::resolve_with(&flags, &variables).unwrap().name.value, "flag");
}

#[test]
fn mistakes_are_named_with_their_origin() {
    let fails = |flags: Flags| Settings::resolve_with(&flags, &none).unwrap_err().to_string();
    let error = fails(Flags { mtu: Some("9k".into()), ..Flags::default() });
    assert!(error.contains("--mtu cannot be used") && error.contains("1280"), "{error}");
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("culvert.toml");
    std::fs::write(&path, "nmae = 'typo'\n").unwrap();
    let error = fails(Flags { config: Some(path.display().to_string()), ..Flags::default() });
    assert!(error.contains("nmae"), "{error}");
    let error = fails(Flags { config: Some("/nowhere/culvert.toml".into()), ..Flags::default() });
    assert!(error.contains("/nowhere"), "{error}");
}

#[test]
fn lists_are_read() {
    assert_eq!(parse_cores("2,4-6"), Ok(vec![2, 4, 5, 6]));
    assert_eq!(parse_ports("7273-7275"), Ok(Ports::These(vec![7273, 7274, 7275])));
    assert_eq!(parse_ports("any"), Ok(Ports::Any));
    for text in ["", "a", "3-1", "1,,2", "0-99999"] {
        assert!(parse_cores(text).is_err(), "{text}");
    }
    assert!(parse_ports("7280-7273").unwrap_err().contains("write 7273-7280"));
    assert!(parse_cores("1,5-2").unwrap_err().contains("write 2-5"));
    assert!(parse_ports("0").is_err() && parse_ports("70000").is_err());
}

#[test]
fn a_core_that_is_not_there_is_refused() {
    let settings = Settings::resolve_with(&Flags { cores: Some("63".into()), ..Flags::default() }, &none).unwrap();
    if core_affinity::get_core_ids().unwrap_or_default().len() < 64 {
        assert!(settings.engine(false, None).unwrap_err().to_string().contains("core 63"));
    }
}

#[test]
fn each_lane_has_a_port() {
    let flags = Flags { ports: Some("7000".into()), cores: Some("0".into()), ..Flags::default() };
    let settings = Settings::resolve_with(&flags, &none).unwrap();
    assert_eq!(settings.engine(true, None).unwrap().ports, [7000]);
}

/// A table of its own, made as the real one is.
pub(super) mod trial {
    use crate::settings::file::CoreList;
    use crate::settings::row::settings;
    use crate::settings::values::{join, parse_cores};

    settings! {
        /// Level of the
        /// water
        water_level_m: u16, in file u16 {
            flag: DataPlane "--water-level" "METERS",
            variable: "CULVERT_WATER_LEVEL",
            example: 3,
            default: |_| 0, "not measured",
            parse: |text| text.parse().map_err(|_| format!("'{text}' is not a level")),
            show: u16::to_string,
            note: "Read at the gauge.",
        }
        /// Gates that are open
        gates: Vec<usize>, in file CoreList {
            variable: "CULVERT_GATES",
            example: [1, 2],
            default: |_| Vec::new(), "all",
            parse: parse_cores,
            show: |gates| join(gates),
        }
    }
}

/// The keys that the program knows in a table of the file, from its answer to one that it does not
/// know.
fn known_keys(error: &SettingsError) -> BTreeSet<String> {
    let text = error.to_string();
    let (_, keys) = text.split_once("expected ").unwrap_or_else(|| panic!("no keys in: {text}"));
    keys.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Asserts that each row of a table is found by file, variables, flags and `culvert config show`,
/// and that these have nothing else.
macro_rules! assert_found_everywhere {
    ($($table:ident)::+) => {{
        use $($table)::+ as table;
        let names: Vec<&str> = table::ROWS.iter().map(|row| row.name).collect();
        let settle = |flags: &table::Flags, variables: Variables<'_>, text: &str| {
            let settings = table::Settings::settle(flags, variables, parse_file(text, Path::new("x"))?)?;
            assert!(settings.file.as_deref() == Some(Path::new("x")) && settings.paths.responder.is_none());
            Ok::<_, SettingsError>(settings.table())
        };
        let unset = settle(&table::Flags::default(), &none, "").unwrap();
        assert_eq!(unset.iter().map(|(name, ..)| *name).collect::<Vec<_>>(), names);
        assert!(unset.iter().all(|(_, _, origin)| *origin == Origin::Default));

        let keys = known_keys(&settle(&table::Flags::default(), &none, "no_such_key = 1").unwrap_err());
        let tables = ["path", "responder", "archive", "psconfig"];
        assert_eq!(keys, names.iter().chain(&tables).map(|name| (*name).to_owned()).collect());

        let mut flags = table::Flags::default();
        let places: Vec<&str> = flags.places().map(|(row, _)| row.name).collect();
        let with_flag = table::ROWS.iter().filter(|row| row.flag.is_some());
        assert_eq!(places, with_flag.map(|row| row.name).collect::<Vec<_>>());

        for (number, row) in table::ROWS.iter().enumerate() {
            let text = typed(row.example);
            let variable = row.variable.unwrap();
            let of_variable = |name: &str| (name == variable).then(|| text.clone());
            let in_file = format!("{} = {}", row.name, row.example);
            let mut flags = table::Flags::default();
            if let Some((_, place)) = flags.places().find(|(other, _)| other.name == row.name) {
                *place = Some(text.clone());
            }
            assert_eq!(flags.given().map(|(flag, _)| flag.typed).next(), row.flag.map(|flag| flag.typed));
            assert_eq!(table::Flags::default().or(flags.clone()).given().count(), flags.given().count());

            let from_file = settle(&table::Flags::default(), &none, &in_file).unwrap();
            let from_variable = settle(&table::Flags::default(), &of_variable, &in_file).unwrap();
            let from_flag = settle(&flags, &of_variable, &in_file).unwrap();
            assert_eq!(from_file[number].2, Origin::File { path: "x".into(), line: Some(1) });
            assert_eq!(from_variable[number].2, Origin::Variable(variable));
            let expected = row.flag.map_or(Origin::Variable(variable), |flag| Origin::Flag(flag.typed));
            assert_eq!(from_flag[number].2, expected);
            for settled in [from_file, from_variable, from_flag] {
                assert_eq!(settled.iter().filter(|(_, _, origin)| *origin != Origin::Default).count(), 1);
                // The default is what its words say.
                assert!(!row.has_example_of_default() || settled[number].1 == unset[number].1, "{}", row.name);
            }
        }
    }};
}

#[test]
fn each_row_is_found_everywhere_and_nothing_else_is() {
    assert_found_everywhere!(crate::settings::table);
    let variables: BTreeSet<&str> = ROWS.iter().filter_map(|row| row.variable).collect();
    assert_eq!(variables.len(), ROWS.len(), "two settings have the same variable");
}

#[test]
fn a_row_of_another_table_is_found_everywhere() {
    assert_found_everywhere!(crate::settings::tests::trial);
}

#[test]
fn each_row_of_a_section_is_a_key_of_the_file_and_is_shown_and_nothing_else_is() {
    let all: String = SECTIONS
        .iter()
        .map(|section| {
            let rows: String = section.rows.iter().map(|row| format!("{} = {}\n", row.name, row.example)).collect();
            if section.name.is_empty() { rows } else { format!("[{}]\n{rows}", section.name) }
        })
        .collect();
    let settings = Settings::from_toml(&all, Path::new("x")).unwrap();
    let shown: Vec<(String, bool)> =
        settings.paths.table().into_iter().map(|(name, _, is_set)| (name.to_owned(), is_set)).collect();
    let sections = SECTIONS.iter().filter(|section| !section.name.is_empty());
    let rows =
        sections.flat_map(|section| section.rows.iter().map(|row| (format!("{}.{}", section.name, row.name), true)));
    assert_eq!(shown, rows.collect::<Vec<_>>());
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        let text = all.replace(&format!("[{}]\n", section.name), &format!("[{}]\nno_such_key = 1\n", section.name));
        let keys = known_keys(&Settings::from_toml(&text, Path::new("x")).unwrap_err());
        assert_eq!(keys, section.rows.iter().map(|row| row.name.to_owned()).collect(), "[{}]", section.name);
    }
}

#[test]
fn defaults_of_sections_are_what_their_words_say() {
    let unset =
        Settings::from_toml("[responder]\n[archive]\nurl = 'http://x'\n", Path::new("x")).unwrap().paths.table();
    for section in SECTIONS.iter().filter(|section| !section.name.is_empty()) {
        for row in section.rows.iter().filter(|row| row.has_example_of_default()) {
            let required = if section.name == "archive" { "url = 'http://x'\n" } else { "" };
            let text = format!("[{}]\n{required}{} = {}\n", section.name, row.name, row.example);
            let name = format!("{}.{}", section.name, row.name);
            let value =
                |rows: Vec<(&'static str, String, bool)>| rows.into_iter().find(|(of, ..)| *of == name).unwrap().1;
            let set = Settings::from_toml(&text, Path::new("x")).unwrap().paths.table();
            assert_eq!(value(set), value(unset.clone()), "{name}");
        }
    }
}
