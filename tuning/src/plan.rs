//! Turns findings into a plan: the settings whose current values differ from the recommended ones.
//!
//! Making a plan only reads settings.

use std::collections::{BTreeMap, BTreeSet};

use culvert_host::setting::{Risk, Setting, Value};
use culvert_host::{Host, HostError};
use serde::Serialize;

use crate::audit::Audit;
use crate::finding::Finding;
use crate::rules;

/// Which findings the plan covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Only these rules, unless empty. A named rule is covered even if it applies on request only.
    pub only: Vec<String>,
    /// Rules to leave out.
    pub skip: Vec<String>,
    /// The highest risk of a change.
    pub risk_max: Option<Risk>,
}

/// One setting that would be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedChange {
    /// The rule that requires it.
    pub rule: String,
    /// The setting.
    pub setting: Setting,
    /// The current value.
    pub from: Value,
    /// The new value.
    pub to: Value,
    /// The risk while the change takes effect.
    pub risk: Risk,
}

/// One setting that cannot be written from here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BlockedChange {
    /// The rule that requires it.
    pub rule: String,
    /// The setting.
    pub setting: Setting,
    /// The new value.
    pub to: Value,
    /// The reason.
    pub reason: String,
    /// The command for the host's admin.
    pub command: Option<String>,
    /// Whether the setting does not exist, which is a mistake rather than a lack of permission.
    pub missing: bool,
}

/// Settings that would be changed, settings that cannot be, and steps for the admin.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Settings that would be written, in the order of writing.
    pub changes: Vec<PlannedChange>,
    /// Settings that cannot be written from here.
    pub blocked: Vec<BlockedChange>,
    /// Open findings that need the admin.
    pub advice: Vec<Finding>,
    /// Rules with changes that apply on request only.
    pub on_request: Vec<String>,
}

impl Selection {
    fn takes(&self, finding: &Finding, enabled: &[String]) -> bool {
        let named = |list: &[String]| list.contains(&finding.rule);
        if named(&self.skip) || self.risk_max.is_some_and(|most| finding.risk() > most) {
            return false;
        }
        if !self.only.is_empty() {
            return named(&self.only);
        }
        let on_request = rules::find(&finding.rule).is_ok_and(|rule| rule.on_request);
        !on_request || named(enabled)
    }
}

impl Plan {
    /// Makes the plan for a host.
    #[must_use]
    pub fn make(audit: &Audit, selection: &Selection, host: &mut dyn Host) -> Self {
        let mut plan = Self::default();
        let mut taken: BTreeMap<Setting, (String, Value)> = BTreeMap::new();
        for finding in audit.findings.iter().filter(|finding| finding.is_open()) {
            if !selection.takes(finding, &audit.targets.site.enable) {
                let waits = selection.only.is_empty() && !finding.changes.is_empty();
                if waits && !plan.on_request.contains(&finding.rule) {
                    plan.on_request.push(finding.rule.clone());
                }
                continue;
            }
            if finding.changes.is_empty() || !finding.steps.is_empty() {
                plan.advice.push(finding.clone());
            }
            for change in &finding.changes {
                if let Some((first, to)) = taken.get(&change.setting) {
                    if *to != change.to {
                        let reason = format!("{first} wants {to}: leave out one of the two rules with --skip");
                        plan.block(finding, &change.setting, &change.to, reason, false);
                    }
                    continue;
                }
                taken.insert(change.setting.clone(), (finding.rule.clone(), change.to.clone()));
                plan.take(finding, &change.setting, &change.to, host);
            }
        }
        plan.changes.sort_by_key(|change| change.setting.stage());
        let distinct: BTreeSet<&Setting> = plan.changes.iter().map(|change| &change.setting).collect();
        // Invariant I-tuning-plan-once: A plan writes each setting at most once.
        assert_eq!(distinct.len(), plan.changes.len(), "two rules would write the same setting");
        plan
    }

    fn take(&mut self, finding: &Finding, setting: &Setting, to: &Value, host: &mut dyn Host) {
        let current = host.read(setting).and_then(|from| host.may_write(setting).map(|()| from));
        match current {
            Ok(from) if setting.same(to, &from) => {}
            Ok(from) => self.changes.push(PlannedChange {
                rule: finding.rule.clone(),
                setting: setting.clone(),
                from,
                to: to.clone(),
                risk: setting.risk(),
            }),
            Err(error) => self.block(finding, setting, to, reason_of(&error), error.is_missing()),
        }
    }

    fn block(&mut self, finding: &Finding, setting: &Setting, to: &Value, reason: String, missing: bool) {
        self.blocked.push(BlockedChange {
            rule: finding.rule.clone(),
            setting: setting.clone(),
            to: to.clone(),
            reason,
            command: setting.command(to).filter(|_| !missing),
            missing,
        });
    }

    /// Whether nothing would be written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The highest risk among the changes.
    #[must_use]
    pub fn risk(&self) -> Risk {
        self.changes.iter().map(|change| change.risk).max().unwrap_or_default()
    }
}

/// The error without the setting's name, which is printed beside it.
fn reason_of(error: &HostError) -> String {
    match error {
        HostError::Missing { reason, .. } => format!("it does not exist here: {reason}"),
        HostError::NotPermitted { reason, .. } => format!("not permitted: {reason}"),
        HostError::Unsupported { reason, .. } | HostError::Refused { reason, .. } => reason.clone(),
        HostError::NotOurs { .. } => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use culvert_host::facts::Facts;
    use culvert_host::fake::{FakeHost, Fault};

    use super::*;
    use crate::site::Site;

    fn facts() -> Facts {
        let mut facts = Facts::default();
        facts.system.root = true;
        for (key, value) in [
            ("net.core.rmem_max", "212992"),
            ("net.core.wmem_max", "212992"),
            ("net.ipv4.tcp_slow_start_after_idle", "1"),
            ("net.core.rmem_default", "536870912"),
        ] {
            facts.sysctls.insert(key.to_owned(), value.to_owned());
        }
        facts
    }

    fn plan(host: &mut FakeHost, site: &str, selection: &Selection) -> Plan {
        let audit = Audit::run(&facts(), &Site::from_toml(site, "site.toml").unwrap(), None);
        Plan::make(&audit, selection, host)
    }

    #[test]
    fn only_what_differs_is_planned() {
        let mut host = FakeHost::from_facts(&facts());
        let made = plan(&mut host, "", &Selection::default());
        let keys: Vec<String> = made.changes.iter().map(|change| change.setting.to_string()).collect();
        assert_eq!(
            keys,
            ["sysctl net.core.rmem_max", "sysctl net.core.wmem_max", "sysctl net.ipv4.tcp_slow_start_after_idle"]
        );
        assert_eq!(made.changes[0].from.text(), "212992");
        assert_eq!(made.on_request, ["net.buffer_defaults"]);
        host.put(Setting::sysctl("net.core.rmem_max"), "67108864");
        assert_eq!(plan(&mut host, "", &Selection::default()).changes.len(), 2);
    }

    #[test]
    fn rules_are_chosen_by_name() {
        let mut host = FakeHost::from_facts(&facts());
        let only = Selection { only: vec!["net.buffer_defaults".to_owned()], ..Selection::default() };
        let made = plan(&mut host, "", &only);
        assert_eq!(made.changes.len(), 1);
        assert_eq!(made.changes[0].to.text(), "212992");
        let skip = Selection { skip: vec!["net.socket_buffers".to_owned()], ..Selection::default() };
        assert_eq!(plan(&mut host, "", &skip).changes.len(), 1);
        assert_eq!(plan(&mut host, "enable = [\"net.buffer_defaults\"]", &Selection::default()).changes.len(), 4);
    }

    #[test]
    fn what_cannot_be_set_is_said_with_the_command_for_the_host() {
        let mut host = FakeHost::from_facts(&facts());
        host.fail(Setting::sysctl("net.core.rmem_max"), Fault::ReadOnly);
        let made = plan(&mut host, "", &Selection::default());
        assert_eq!(made.blocked.len(), 1);
        assert_eq!(made.blocked[0].command.as_deref(), Some("sysctl -w net.core.rmem_max='67108864'"));
        assert!(made.blocked[0].reason.contains("read-only") && !made.blocked[0].missing);
    }

    #[test]
    fn a_key_of_the_site_file_that_is_not_there_is_a_mistake() {
        let mut host = FakeHost::from_facts(&facts());
        let made = plan(&mut host, "[sysctl]\n\"net.core.no_such_key\" = 1", &Selection::default());
        assert!(made.blocked.iter().any(|blocked| blocked.missing && blocked.rule == "site.sysctl"));
    }
}
