//! `measure`: the effect of a rule on this host.

use culvert_host::RealHost;
use serde_json::json;

use super::arguments::MeasureArgs;
use super::context::{CommandContext, Failure, exit};
use super::source::load_site;
use crate::audit::Audit;
use crate::measure::{
    CommandWorkload, EffectLedger, LoopbackWorkload, MeasureError, MeasureOptions, Workload, WorkloadError,
    measure as run_measurement,
};
use crate::plan::{Plan, Selection};
use crate::transaction::Intent;

pub(super) fn measure(arguments: &MeasureArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let ledger = EffectLedger::at(&context.state_directory);
    let Some(rule) = &arguments.rule else { return show(&ledger, arguments.json, context) };
    let site = load_site(arguments.site.as_deref())?;
    let mut workload = workload(arguments).map_err(|error| Failure::new(exit::USAGE, error.to_string()))?;
    let mut host = RealHost::open();
    let mut store = context.store();
    let _lock = store.lock(false)?;
    context.recover(&mut store, &mut host, false)?;

    let facts = host.facts(&site.partners_to_ask(), false);
    let audit = Audit::run(&facts, &site, arguments.profile);
    let selection = Selection { only: vec![rule.clone()], ..Selection::default() };
    let plan = Plan::make(&audit, &selection, &mut host);
    if let Some(blocked) = plan.blocked.first() {
        let text = format!("{}: {}: {}", rule, blocked.setting, blocked.reason);
        return Err(Failure::new(exit::BAD_HOST, text));
    }
    if plan.is_empty() {
        let why = format!("{rule}: there is nothing to change on this host, so there is nothing to compare");
        let document = json!({ "effects": [] });
        return context.nothing_to_do(&why, arguments.json.then_some(&document));
    }
    let intents: Vec<Intent> = plan.changes.iter().map(Intent::from).collect();
    let options = MeasureOptions {
        rule: rule.clone(),
        pairs: usize::from(arguments.pairs),
        run: arguments.run,
        kernel: facts.system.kernel_release,
    };
    let launcher = context.launcher();
    let mut start_guard = |id: &str| launcher.start(id);
    let (quiet, messages) = (context.quiet, &mut *context.err);
    let mut progress = |text: &str| {
        if !quiet {
            let _ = writeln!(messages, "{text}");
        }
    };
    let effect =
        run_measurement(&mut store, &mut host, &intents, workload.as_mut(), &options, &mut start_guard, &mut progress);
    let effect = effect.map_err(|error| match error {
        MeasureError::Transaction(error) => error.into(),
        MeasureError::Workload(_) => Failure::new(exit::FAILED, error.to_string()),
    })?;
    ledger.add(&effect).map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
    if arguments.json {
        context.json(&effect)?;
    } else {
        context.text(&format!("{}\n", effect.text()))?;
    }
    Ok(exit::DONE)
}

fn workload(arguments: &MeasureArgs) -> Result<Box<dyn Workload>, WorkloadError> {
    if let Some(server) = &arguments.iperf3 {
        let seconds = arguments.run.as_secs().to_string();
        let streams = arguments.streams.to_string();
        let words = ["iperf3", "-J", "-c", server, "-t", &seconds, "-P", &streams];
        return Ok(Box::new(CommandWorkload::new(words.map(str::to_owned).to_vec())?));
    }
    if arguments.command.is_empty() {
        return Ok(Box::new(LoopbackWorkload::new(usize::from(arguments.streams))));
    }
    Ok(Box::new(CommandWorkload::new(arguments.command.clone())?))
}

fn show(ledger: &EffectLedger, as_json: bool, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let effects = ledger.all().map_err(|error| Failure::new(exit::FAILED, error.to_string()))?;
    if as_json {
        context.json(&json!({ "effects": effects }))?;
    } else if effects.is_empty() {
        context.say("nothing has been measured yet; name a rule, such as: culvert tune measure cpu.governor");
    } else {
        for effect in &effects {
            context.text(&format!("{} [{}, kernel {}]\n", effect.text(), effect.workload, effect.kernel))?;
        }
    }
    Ok(exit::DONE)
}
