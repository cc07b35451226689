//! `doctor`: one page on the host.

use super::arguments::DoctorArgs;
use super::context::{CommandContext, Failure, exit};
use super::source::Examined;
use crate::doctor::{Doctor, Verdict};
use crate::measure::EffectLedger;

pub(super) fn doctor(arguments: &DoctorArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let Examined { facts, audit, .. } = arguments.source.examine(context)?;
    let ledger = EffectLedger::at(&context.state_directory);
    // Measured effects are optional: an unreadable ledger must not hide the page.
    let effects = ledger.all().unwrap_or_default();
    let measured = |rule: &str| effects.iter().rfind(|effect| effect.rule == rule).cloned();
    // Probe results hold for this host only.
    let readiness = if arguments.source.facts.is_some() { &[] } else { context.readiness.as_slice() };
    let doctor = Doctor::examine(&facts, &audit, &context.versions, readiness, context.has_af_xdp, &measured);
    if arguments.json {
        context.json(&doctor)?;
    } else {
        context.text(&doctor.to_text())?;
    }
    Ok(if doctor.verdict == Verdict::No { exit::BAD_HOST } else { exit::DONE })
}
