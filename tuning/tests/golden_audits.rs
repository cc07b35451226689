//! Compares audits and plans of recorded hosts with reviewed files.
//!
//! `CULVERT_UPDATE_GOLDEN=1 cargo test -p culvert-tuning --test golden_audits` updates the files;
//! the difference then needs a review. The facts were constructed from public documents, which each
//! facts document lists.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_host::facts::Facts;
use culvert_host::fake::FakeHost;
use culvert_tuning::audit::Audit;
use culvert_tuning::plan::{Plan, Selection};
use culvert_tuning::report::{Detail, audit_text, plan_text};
use culvert_tuning::site::Site;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/facts")
}

fn documents() -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    paths.sort();
    paths
}

fn text_of(facts: &Facts, site: &Site) -> String {
    let audit = Audit::run(facts, site, None);
    let plan = Plan::make(&audit, &Selection::default(), &mut FakeHost::from_facts(facts));
    format!("{}\n# plan\n\n{}", audit_text(&audit, Detail::All), plan_text(&plan, Detail::Open))
}

#[test]
fn audits_of_recorded_hosts_are_as_reviewed() {
    let update = std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in documents() {
        let facts = Facts::load(&path).unwrap();
        let site = path.with_extension("site.toml");
        let site = if site.exists() { Site::load(&site).unwrap() } else { Site::default() };
        let site = Site { path: None, ..site };
        let now = text_of(&facts, &site);
        let golden = path.with_extension("audit.txt");
        if update {
            fs::write(&golden, &now).unwrap();
        }
        if fs::read_to_string(&golden).unwrap_or_default() != now {
            wrong.push(golden.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    assert!(wrong.is_empty(), "{wrong:?} differ: read the difference after CULVERT_UPDATE_GOLDEN=1");
}

#[test]
fn every_recorded_host_says_what_it_was_made_from() {
    assert!(documents().len() >= 6);
    for path in documents() {
        let facts = Facts::load(&path).unwrap();
        let from_a_host = facts.origin.collected_unix_s > 0;
        assert!(from_a_host || !facts.origin.constructed_from.is_empty(), "{}", path.display());
        assert_eq!(Facts::from_json(&facts.to_json(), "again").unwrap(), facts);
    }
}

#[test]
fn rules_give_the_same_twice() {
    for path in documents() {
        let facts = Facts::load(&path).unwrap();
        assert_eq!(text_of(&facts, &Site::default()), text_of(&facts, &Site::default()));
    }
}
