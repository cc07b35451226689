use super::*;
use crate::settings::values::{parse_af_xdp_mode, parse_busy_poll};

fn none(_: &str) -> Option<String> {
    None
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
    assert_eq!((settings.mtu.value, settings.mtu.origin), (Some(1500), Origin::File(path)));
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
