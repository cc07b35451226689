//! `audit`, `plan`, `facts`, `explain`: commands that only read.

use culvert_host::RealHost;
use serde_json::{Value as Json, json};

use super::arguments::{AuditArgs, FactsArgs, PlanArgs};
use super::context::{CommandContext, Failure, exit};
use super::source::{Examined, load_site};
use crate::audit::Audit;
use crate::finding::Finding;
use crate::plan::Plan;
use crate::report::{Detail, audit_text, plan_text, rule_text};
use crate::rules;

pub(super) fn audit(arguments: &AuditArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let Examined { audit, .. } = arguments.source.examine(context)?;
    if arguments.json {
        context.json(&audit_json(&audit))?;
    } else if !context.quiet {
        let detail = if arguments.all { Detail::All } else { Detail::Open };
        context.text(&audit_text(&audit, detail))?;
    }
    let failed = arguments.fail_on.is_some_and(|most| audit.worst().is_some_and(|worst| worst <= most));
    Ok(if failed { exit::BAD_HOST } else { exit::DONE })
}

/// A finding with its rule's title, sources and so on.
pub(super) fn finding_json(finding: &Finding) -> Json {
    let mut value = json!(finding);
    if let Ok(rule) = rules::find(&finding.rule) {
        let sources: Vec<String> =
            rule.sources.iter().map(|source| format!("{}: {}", source.document, source.section)).collect();
        value["title"] = json!(rule.title);
        value["sources"] = json!(sources);
        value["applies_when"] = json!(rule.applies_when);
        value["conflicts_with"] = json!(rule.conflicts_with);
        value["effect"] = json!(rule.effect.word());
        value["on_request"] = json!(rule.on_request);
        value["risk"] = json!(finding.risk());
    }
    value
}

pub(super) fn plan(arguments: &PlanArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let Examined { audit, mut host, .. } = arguments.source.examine(context)?;
    let plan = Plan::make(&audit, &arguments.selection.selection(), host.as_mut());
    if arguments.json {
        context.json(&plan_json(&plan, &audit))?;
    } else {
        let detail = if arguments.all { Detail::All } else { Detail::Open };
        context.text(&plan_text(&plan, detail))?;
    }
    Ok(exit::DONE)
}

pub(super) fn plan_json(plan: &Plan, audit: &Audit) -> Json {
    let mut value = json!(plan);
    value["host"] = json!(audit.host);
    value["profile"] = json!(audit.targets.profile);
    value["risk"] = json!(plan.risk());
    value["advice"] = plan.advice.iter().map(finding_json).collect();
    value
}

pub(super) fn facts(arguments: &FactsArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    // Facts are always JSON; the option exists because every other command has it.
    let _ = arguments.json;
    let site = load_site(arguments.site.as_deref())?;
    let facts = RealHost::open().facts(&site.partners_to_ask(), arguments.probe);
    context.text(&format!("{}\n", facts.to_json()))?;
    Ok(exit::DONE)
}

pub(super) fn explain(rule: Option<&str>, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    match rule {
        Some(id) => {
            let rule = rules::find(id).map_err(|why| Failure::new(exit::USAGE, why))?;
            context.text(&rule_text(rule))?;
        }
        None => {
            for rule in rules::all() {
                context.text(&format!("{:<32}{}\n", rule.id, rule.title))?;
            }
        }
    }
    Ok(exit::DONE)
}

/// The audit with each rule's description beside its finding.
fn audit_json(audit: &Audit) -> Json {
    let mut value = json!(audit);
    value["findings"] = audit.findings.iter().map(finding_json).collect();
    value
}
