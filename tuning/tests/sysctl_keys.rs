//! The sysctls that rules read are collected: a key that is missing in `KEYS` makes its rule say
//! "unknown" on every host, which no golden audit shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Keys that rules put together, with what they put together.
const ASSEMBLED: &[(&str, &[&str])] = &[
    (
        "net.ipv4.{name}",
        &[
            "net.ipv4.tcp_window_scaling",
            "net.ipv4.tcp_timestamps",
            "net.ipv4.tcp_sack",
            "net.ipv4.tcp_moderate_rcvbuf",
        ],
    ),
    (
        "vm.{name}_{suffix}",
        &["vm.dirty_bytes", "vm.dirty_ratio", "vm.dirty_background_bytes", "vm.dirty_background_ratio"],
    ),
    // The heading of a finding.
    ("vm.{name}", &[]),
];

#[test]
fn every_sysctl_that_a_rule_reads_is_collected() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = fs::read_to_string(root.join("host/src/collect/sysctls.rs")).unwrap();
    let (_, list) = source.split_once("KEYS: [&str;").unwrap();
    let collected: BTreeSet<&str> = texts(list.split("];").next().unwrap()).collect();
    assert!(collected.len() > 40, "{collected:?}");
    let mut used = BTreeSet::new();
    let mut files: Vec<_> = fs::read_dir(root.join("src/rules")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.push(root.join("src/doctor.rs"));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let code: String = text.split("#[cfg(test)]").next().unwrap().lines().filter(is_code).collect();
        for key in texts(&code).filter(|text| is_key(text)) {
            match ASSEMBLED.iter().find(|(template, _)| *template == key) {
                Some((_, keys)) => used.extend(keys.iter().map(|key| (*key).to_owned())),
                None => {
                    assert!(!key.contains('{'), "{}: add what '{key}' becomes to ASSEMBLED", file.display());
                    used.insert(key.to_owned());
                }
            }
        }
    }
    assert!(used.len() > 25, "{used:?}");
    let missing: Vec<_> = used.iter().filter(|key| !collected.contains(key.as_str())).collect();
    assert!(missing.is_empty(), "not in KEYS of tuning/host/src/collect/sysctls.rs: {missing:?}");
}

/// The contents of string literals.
fn texts(code: &str) -> impl Iterator<Item = &str> {
    code.split('"').skip(1).step_by(2)
}

fn is_code(line: &&str) -> bool {
    !line.trim_start().starts_with("//")
}

/// Whether a text is a sysctl's key. Rules have similar names, such as `net.backlog`.
fn is_key(text: &str) -> bool {
    let begins = ["fs.", "kernel.", "vm.", "net.core.", "net.ipv4.", "net.ipv6.", "net.netfilter."];
    begins.iter().any(|begin| text.starts_with(begin) && text.len() > begin.len())
        && text.chars().all(|character| character.is_ascii_alphanumeric() || "._-{}".contains(character))
}
