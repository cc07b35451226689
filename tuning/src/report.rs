//! Audits and plans as text, for people and for golden audits.

use std::collections::BTreeMap;
use std::fmt::Write;

use culvert_host::netlink::QdiscTree;
use culvert_host::setting::{Risk, Setting, Value};
use culvert_protocol::counted::counted;

use crate::audit::Audit;
use crate::finding::{Finding, Status};
use crate::plan::{Plan, PlannedChange};
use crate::rules;
use crate::targets::gigabits;

/// The most changes shown of those that look alike.
const ALIKE_SHOWN: usize = 3;

/// How much of an audit to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Findings that call for action.
    Open,
    /// All findings.
    All,
}

/// The audit as text.
#[must_use]
pub fn audit_text(audit: &Audit, detail: Detail) -> String {
    let mut out = String::new();
    let targets = &audit.targets;
    let _ = writeln!(out, "host     {}", if audit.host.is_empty() { "unknown" } else { &audit.host });
    let _ = writeln!(out, "profile  {}, because {}", targets.profile, targets.chosen_because);
    let links = if targets.data_links.is_empty() { "none".to_owned() } else { targets.data_links.join(", ") };
    let _ = writeln!(
        out,
        "for      {} at {} ms, {}, {}; links {links}",
        gigabits(targets.rate_bits_per_second),
        targets.rtt_ms,
        counted(targets.streams, "stream"),
        counted(targets.lanes, "lane")
    );
    out.push('\n');
    for finding in &audit.findings {
        if detail == Detail::All || finding.is_open() || finding.status == Status::Unknown {
            finding_text(&mut out, finding);
        }
    }
    let counts = &audit.counts;
    let _ = writeln!(
        out,
        "\n{} critical, {} high, {} warning, {} info; {} unknown",
        counts.critical, counts.high, counts.warning, counts.info, counts.unknown
    );
    out
}

/// The plan as text: old and new value of each setting.
#[must_use]
pub fn plan_text(plan: &Plan, detail: Detail) -> String {
    let mut out = String::new();
    let mut shown: BTreeMap<(String, String), usize> = BTreeMap::new();
    let mut alike: BTreeMap<(String, String), usize> = BTreeMap::new();
    for change in &plan.changes {
        *alike.entry(likeness(change)).or_default() += 1;
    }
    for change in &plan.changes {
        let key = likeness(change);
        let count = shown.entry(key.clone()).or_default();
        *count += 1;
        let all = alike[&key];
        if detail == Detail::All || all <= ALIKE_SHOWN + 1 || *count <= ALIKE_SHOWN {
            let risk = match change.risk {
                Risk::None => "",
                Risk::LinkReset => "  (the link goes down for seconds)",
                Risk::Reachability => "  (peers with another MTU cannot be reached)",
            };
            let _ = writeln!(out, "{}  [{}]{risk}", change.setting, change.rule);
            let _ = writeln!(out, "  - {}", value_text(&change.setting, &change.from));
            let _ = writeln!(out, "  + {}", value_text(&change.setting, &change.to));
        } else if *count == ALIKE_SHOWN + 1 {
            let _ = writeln!(out, "  … and {} more like it  [{}]", all - ALIKE_SHOWN, change.rule);
        }
    }
    if plan.changes.is_empty() {
        out.push_str("nothing to change from here\n");
    }
    if !plan.blocked.is_empty() {
        out.push_str("\ncannot be changed from here:\n");
        for blocked in &plan.blocked {
            let _ = writeln!(out, "  {}  [{}]: {}", blocked.setting, blocked.rule, blocked.reason);
            if let Some(command) = &blocked.command {
                let _ = writeln!(out, "    on the host: {}", shorten(command));
            }
        }
    }
    if !plan.advice.is_empty() {
        out.push_str("\nto do by hand:\n");
        for finding in &plan.advice {
            let scope = if finding.scope.is_empty() { String::new() } else { format!(" [{}]", finding.scope) };
            let _ = writeln!(out, "  {:<9}{}{scope}: {}", finding.severity, finding.rule, finding.why);
            for step in &finding.steps {
                let _ = writeln!(out, "    {step}");
            }
        }
    }
    if !plan.on_request.is_empty() {
        let _ = writeln!(out, "\nonly on request (--rule, or enable in the site file): {}", plan.on_request.join(", "));
    }
    out
}

/// The explanation of one rule.
#[must_use]
pub fn rule_text(rule: &rules::Rule) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}: {}", rule.id, rule.title);
    let _ = writeln!(out, "  recommends    {}", rule.recommends);
    let _ = writeln!(out, "  because       {}", rule.reason);
    let _ = writeln!(out, "  applies when  {}", rule.applies_when);
    for conflict in rule.conflicts_with {
        let _ = writeln!(out, "  conflicts     {conflict}");
    }
    let _ = writeln!(out, "  effect        {}", rule.effect.word());
    for source in rule.sources {
        let _ = writeln!(out, "  source        {}: {}", source.document, source.section);
    }
    if rule.on_request {
        out.push_str("  only on request: --rule, or enable in the site file\n");
    }
    out
}

/// The rules as the table in `docs/tuning.md`.
#[must_use]
pub fn rules_markdown() -> String {
    let mut out =
        String::from("| rule | recommends | applies when | why | effect | sources |\n|---|---|---|---|---|---|\n");
    for rule in rules::all() {
        let sources: Vec<String> =
            rule.sources.iter().map(|source| format!("{}: {}", source.document, source.section)).collect();
        let request = if rule.on_request { " (on request)" } else { "" };
        let _ = writeln!(
            out,
            "| `{}`{request} | {} | {} | {} | {} | {} |",
            rule.id,
            rule.recommends,
            rule.applies_when,
            rule.reason,
            rule.effect.word(),
            sources.join("; ")
        );
    }
    out
}

fn finding_text(out: &mut String, finding: &Finding) {
    let mark = match finding.status {
        Status::Ok => "ok",
        Status::NotApplicable => "-",
        Status::Unknown => "unknown",
        Status::Differs | Status::Conflict => finding.severity.word(),
    };
    let scope = if finding.scope.is_empty() { String::new() } else { format!(" [{}]", finding.scope) };
    let _ = write!(out, "{mark:<9}{}{scope}", finding.rule);
    match finding.status {
        Status::Ok => {
            let _ = writeln!(out, ": {}", shorten(&finding.current));
        }
        Status::Unknown | Status::NotApplicable => {
            let _ = writeln!(out, ": {}", finding.why);
        }
        Status::Differs | Status::Conflict => {
            let against = if finding.status == Status::Conflict { "conflict: " } else { "" };
            let _ = writeln!(
                out,
                ": {against}{}, recommended: {}",
                shorten(&finding.current),
                shorten(&finding.recommended)
            );
            let _ = writeln!(out, "{:9}{}", "", finding.why);
        }
    }
    for step in &finding.steps {
        let _ = writeln!(out, "{:9}do: {step}", "");
    }
}

/// Shortens long lists of options and addresses to a line.
fn shorten(text: &str) -> String {
    const LENGTH_MAX: usize = 100;
    if text.chars().count() <= LENGTH_MAX {
        return text.to_owned();
    }
    let kept: String = text.chars().take(LENGTH_MAX).collect();
    format!("{kept}…")
}

/// A value in one line; a tree of queueing disciplines in words.
fn value_text(setting: &Setting, value: &Value) -> String {
    if let (Setting::Qdisc { .. }, Ok(tree)) = (setting, serde_json::from_str::<QdiscTree>(value.text())) {
        let mut counts: Vec<(String, usize)> = Vec::new();
        for entry in &tree.0 {
            let rate = entry.max_rate_bits_per_second().map(|rate| format!(" {}", gigabits(rate))).unwrap_or_default();
            let name = format!("{}{rate}", entry.kind);
            match counts.last_mut() {
                Some((last, count)) if *last == name => *count += 1,
                _ => counts.push((name, 1)),
            }
        }
        let words =
            counts.iter().map(|(name, count)| if *count > 1 { format!("{count} × {name}") } else { name.clone() });
        let words: Vec<String> = words.collect();
        return if words.is_empty() { "none".to_owned() } else { words.join(" + ") };
    }
    if let Setting::OwnedFile { .. } = setting {
        return value.0.as_ref().map_or("(absent)".to_owned(), |text| counted(text.lines().count(), "line"));
    }
    shorten(value.text())
}

/// The key by which changes look alike: those of one rule that differ only in numbers.
fn likeness(change: &PlannedChange) -> (String, String) {
    let name = change.setting.to_string();
    let mut pattern = String::new();
    let mut in_digits = false;
    for c in name.chars() {
        if !(c.is_ascii_digit() && in_digits) {
            pattern.push(if c.is_ascii_digit() { '#' } else { c });
        }
        in_digits = c.is_ascii_digit();
    }
    (change.rule.clone(), pattern)
}
