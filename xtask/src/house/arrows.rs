//! Which crate may use which: the map of the rooms.

use std::collections::BTreeSet;

use super::finding::Finding;
use super::module_paths::paths_of;
use super::sources::{Crate, Tree};

/// A crate, and the crates of the workspace that it may use.
///
/// In the order of dependencies, from the ground up: a crate may use some of those above it, and
/// none below.
const MAP: &[(&str, &[&str])] = &[
    ("culvert-protocol", &[]),
    ("culvert-link", &["culvert-protocol"]),
    ("culvert-dataplane", &["culvert-link", "culvert-protocol"]),
    ("culvert-system", &["culvert-protocol", "culvert-link"]),
    ("culvert-model", &["culvert-protocol"]),
    ("culvert-objects", &["culvert-protocol", "culvert-system", "culvert-model"]),
    ("culvert-state", &["culvert-protocol", "culvert-link", "culvert-system"]),
    ("culvert-connection", &["culvert-protocol", "culvert-system"]),
    ("culvert-journal", &["culvert-protocol", "culvert-link", "culvert-system", "culvert-objects"]),
    ("culvert-host", &["culvert-system"]),
    ("culvert-tuning", &["culvert-protocol", "culvert-system", "culvert-host"]),
    ("culvert-perfsonar", &["culvert-protocol"]),
    ("culvert-plane", &["culvert-protocol", "culvert-link", "culvert-system", "culvert-model", "culvert-host"]),
    (
        "culvert-transfer",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-system",
            "culvert-model",
            "culvert-objects",
            "culvert-connection",
            "culvert-journal",
            "culvert-plane",
        ],
    ),
    (
        "culvert-engine",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-system",
            "culvert-model",
            "culvert-objects",
            "culvert-connection",
            "culvert-journal",
            "culvert-plane",
            "culvert-transfer",
        ],
    ),
    (
        "culvert-path",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-system",
            "culvert-model",
            "culvert-state",
            "culvert-perfsonar",
            "culvert-engine",
        ],
    ),
    (
        "culvert-node",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-system",
            "culvert-model",
            "culvert-objects",
            "culvert-state",
            "culvert-host",
            "culvert-tuning",
            "culvert-perfsonar",
            "culvert-plane",
            "culvert-engine",
            "culvert-path",
        ],
    ),
    (
        "culvert",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-dataplane",
            "culvert-system",
            "culvert-model",
            "culvert-objects",
            "culvert-state",
            "culvert-host",
            "culvert-tuning",
            "culvert-perfsonar",
            "culvert-plane",
            "culvert-engine",
            "culvert-path",
            "culvert-node",
        ],
    ),
    // The portal knows nothing of the node but its API. Its service knows no HTTP, its API no SQL.
    ("culvert-portal-seams", &[]),
    ("culvert-portal-model", &[]),
    ("culvert-portal-store", &["culvert-portal-model"]),
    ("culvert-portal-service", &["culvert-portal-seams", "culvert-portal-model", "culvert-portal-store"]),
    ("culvert-portal-api", &["culvert-portal-seams", "culvert-portal-model", "culvert-portal-service"]),
    ("culvert-portal-outside", &["culvert-portal-seams"]),
    (
        "culvert-portal",
        &[
            "culvert-protocol",
            "culvert-link",
            "culvert-system",
            "culvert-model",
            "culvert-state",
            "culvert-portal-seams",
            "culvert-portal-model",
            "culvert-portal-store",
            "culvert-portal-service",
            "culvert-portal-api",
            "culvert-portal-outside",
        ],
    ),
];

/// Crates that only test, measure or build the others: they may use every room, and no room uses
/// them.
const WORKSHOP: &[&str] = &["culvert-simulator", "culvert-tests", "culvert-portal-tests", "culvert-benches", "xtask"];

/// Dependencies, in manifests and in code, that are not on the map.
pub fn check(tree: &Tree) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for one in &tree.crates {
        if WORKSHOP.contains(&one.name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAP.iter().find(|(name, _)| *name == one.name) else {
            let text = format!("{} is not on the map: say in xtask/src/house/arrows.rs whom it may know", one.name);
            findings.push(Finding::of_file(one.directory.join("Cargo.toml"), text));
            continue;
        };
        for dependency in one.dependencies.iter().filter(|name| !allowed.contains(&name.as_str())) {
            let text = format!("{} may not know {dependency}", one.name);
            findings.push(Finding::of_file(one.directory.join("Cargo.toml"), text));
        }
        findings.extend(check_code(tree, one, allowed)?);
    }
    Ok(findings)
}

/// The crates that a crate's code, except its tests, names but may not use.
fn check_code(tree: &Tree, one: &Crate, allowed: &[&str]) -> anyhow::Result<Vec<Finding>> {
    let libraries: Vec<(&str, &str)> =
        tree.crates.iter().map(|one| (one.library.as_str(), one.name.as_str())).collect();
    let mut findings = Vec::new();
    for source in &one.sources {
        let mut said = BTreeSet::new();
        for path in paths_of(source)? {
            let Some((_, name)) = libraries.iter().find(|(library, _)| *library == path.segments[0]) else { continue };
            if *name != one.name && !allowed.contains(name) && said.insert(*name) {
                findings.push(Finding::of_line(&source.path, path.line, format!("{} may not know {name}", one.name)));
            }
        }
    }
    Ok(findings)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::house::sources::Source;

    fn room(name: &str, dependencies: &[&str], code: &str) -> Crate {
        let directory = PathBuf::from(name);
        Crate {
            name: name.to_owned(),
            library: name.replace('-', "_"),
            dependencies: dependencies.iter().map(|&name| name.to_owned()).collect(),
            sources: vec![Source { path: directory.join("src/lib.rs"), text: code.to_owned() }],
            beside: Vec::new(),
            directory,
        }
    }

    fn found(crates: Vec<Crate>) -> Vec<String> {
        check(&Tree { root: PathBuf::new(), crates }).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn an_arrow_against_the_map_is_found_in_manifest_and_code() {
        let ground = room("culvert-protocol", &["culvert-tuning"], "use culvert_tuning::plan;");
        let other = room("culvert-tuning", &[], "use culvert_link::ring;");
        assert_eq!(
            found(vec![ground, other, room("culvert-link", &[], "")]),
            [
                "culvert-protocol/Cargo.toml: culvert-protocol may not know culvert-tuning",
                "culvert-protocol/src/lib.rs:1: culvert-protocol may not know culvert-tuning",
                "culvert-tuning/src/lib.rs:1: culvert-tuning may not know culvert-link",
            ]
        );
    }

    #[test]
    fn an_arrow_of_the_map_and_what_tests_use_are_no_findings() {
        let ground = room("culvert-protocol", &[], "#[cfg(test)] mod tests { use culvert_tuning::plan; }");
        let lanes = room("culvert-dataplane", &["culvert-protocol"], "use culvert_protocol::wire;");
        assert_eq!(found(vec![ground, lanes, room("culvert-tuning", &[], "")]), Vec::<String>::new());
    }

    #[test]
    fn a_crate_that_nobody_drew_is_found() {
        let text = "culvert-cellar/Cargo.toml: culvert-cellar is not on the map: \
                    say in xtask/src/house/arrows.rs whom it may know";
        assert_eq!(found(vec![room("culvert-cellar", &[], "")]), [text]);
    }
}
