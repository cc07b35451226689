//! The rules: each is a pure function of facts and targets, with a reason and a source.
//!
//! A rule reads only the facts document and the targets of the profile, so a saved document gives
//! the same findings as the host. A finding names the settings to change; the transaction writes
//! them.

mod boot;
mod conflicts;
mod cpu;
mod datapath;
mod interrupts;
mod links;
mod memory;
mod offloads;
mod paths;
mod queueing;
mod recommended;
mod rule;
mod sockets;
mod storage;
mod support;
mod system;
mod tcp;

pub use rule::{Effect, Rule, Source};

/// Every rule, in the order in which audits list them.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    recommended::rules().chain(conflicts::RULES)
}

/// The rule of this name.
///
/// # Errors
/// A message with the most similar names.
pub fn find(id: &str) -> Result<&'static Rule, String> {
    if let Some(rule) = all().find(|rule| rule.id == id) {
        return Ok(rule);
    }
    let (area, name) = id.split_once('.').unwrap_or(("", id));
    let near = |rule: &&Rule| {
        let (known_area, known_name) = rule.id.split_once('.').unwrap_or(("", rule.id));
        known_area == area || known_name == name || (name.len() > 2 && known_name.contains(name))
    };
    let near: Vec<&str> = all().filter(near).map(|rule| rule.id).collect();
    let near = if near.is_empty() { all().map(|rule| rule.id).collect() } else { near };
    Err(format!("there is no rule '{id}'; the rules are {}", near.join(", ")))
}

#[cfg(test)]
mod tests {
    use culvert_host::facts::Facts;

    use super::*;
    use crate::targets::Targets;
    use std::collections::BTreeSet;

    #[test]
    fn every_rule_is_whole_and_its_name_its_own() {
        let mut ids = BTreeSet::new();
        for rule in all() {
            assert!(ids.insert(rule.id), "{} is there twice", rule.id);
            assert!(rule.id.contains('.') && rule.id.is_ascii(), "{}", rule.id);
            assert!(!rule.sources.is_empty(), "{} has no source", rule.id);
            for text in [rule.title, rule.recommends, rule.reason, rule.applies_when] {
                assert!(!text.is_empty() && !text.contains('|') && !text.contains('\n'), "{}: '{text}'", rule.id);
            }
        }
        assert!(ids.len() > 50, "{} rules", ids.len());
    }

    #[test]
    fn rules_say_nothing_bad_of_a_host_of_which_nothing_is_known() {
        let facts = Facts::default();
        let targets = Targets::choose(&facts, &crate::site::Site::default(), None);
        for rule in all() {
            for finding in rule.check(&facts, &targets) {
                assert!(!finding.is_open(), "{}: {finding:?}", rule.id);
                assert_eq!(finding.rule, rule.id);
            }
        }
    }

    #[test]
    fn a_wrong_name_is_answered_with_near_ones() {
        assert!(find("nic.rings").is_ok());
        let error = find("nic.ring").unwrap_err();
        assert!(error.contains("nic.rings") && !error.contains("cpu.governor"), "{error}");
        assert!(find("x").unwrap_err().contains("cpu.governor"));
    }
}
