//! Compares `docs/tuning.md` with the program: the table of all rules, and the sections that rules
//! cite as their source.
//!
//! `CULVERT_UPDATE_GOLDEN=1 cargo test -p culvert-tuning --test documentation` updates the table.

use std::fs;
use std::path::{Path, PathBuf};

use culvert_tuning::profile::ProfileName;
use culvert_tuning::report::rules_markdown;
use culvert_tuning::rules;
use culvert_tuning::site::Site;

const BEGIN: &str = "<!-- rules -->\n";
const END: &str = "<!-- /rules -->";

fn page() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tuning.md")
}

#[test]
fn the_table_of_rules_is_the_programs() {
    let text = fs::read_to_string(page()).unwrap();
    let (before, rest) = text.split_once(BEGIN).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let now = format!("\n{}\n", rules_markdown());
    if std::env::var_os("CULVERT_UPDATE_GOLDEN").is_some() {
        fs::write(page(), format!("{before}{BEGIN}{now}{END}{after}")).unwrap();
        return;
    }
    assert!(table == now, "the table in docs/tuning.md is not the program's: run with CULVERT_UPDATE_GOLDEN=1");
}

#[test]
fn every_section_that_a_rule_names_is_there() {
    let text = fs::read_to_string(page()).unwrap();
    let headings: Vec<String> =
        text.lines().filter_map(|line| line.strip_prefix("### ")).map(str::to_lowercase).collect();
    for rule in rules::all() {
        for source in rule.sources.iter().filter(|source| source.document == "Culvert, docs/tuning.md") {
            assert!(
                headings.contains(&source.section.to_lowercase()),
                "{}: docs/tuning.md has no section '{}'",
                rule.id,
                source.section
            );
        }
    }
    for profile in ProfileName::ALL {
        assert!(text.contains(&format!("`{profile}`")) || text.contains(&format!("| {profile} |")), "{profile}");
    }
}

#[test]
fn the_site_file_of_the_page_is_accepted() {
    let text = fs::read_to_string(page()).unwrap();
    let (_, rest) = text.split_once("```toml\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let site = Site::from_toml(example, "docs/tuning.md").unwrap();
    assert_eq!(site.profile, Some(ProfileName::Dtn100g));
    assert_eq!(site.partners.len(), 1);
}
