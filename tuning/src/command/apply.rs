//! `apply`, `confirm`, `rollback`: the commands that change the host.

use std::path::Path;
use std::process::{Command, Stdio};

use culvert_host::{Host, RealHost};
use culvert_protocol::counted::{agree, counted};
use serde_json::{Value as Json, json};

use super::arguments::{ApplyArgs, RollbackArgs};
use super::context::{CommandContext, Failure, exit};
use super::source::load_site;
use crate::audit::Audit;
use crate::persist;
use crate::plan::{BlockedChange, Plan};
use crate::report::{Detail, plan_text};
use crate::transaction::{
    ApplyOptions, Intent, Recovered, State, Store, Transaction, TransactionError, apply as apply_transaction,
    confirm as confirm_transaction, forget, held_settings, refuse_if_waiting, roll_back as roll_back_transaction,
    roll_back_all,
};

pub(super) fn apply(arguments: &ApplyArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let site = load_site(arguments.site.as_deref())?;
    let mut host = RealHost::open();
    let mut store = context.store();
    let _lock = store.lock(false)?;
    context.recover(&mut store, &mut host, false)?;
    refuse_if_waiting(&store)?;

    let facts = host.facts(&site.partners_to_ask(), false);
    let audit = Audit::run(&facts, &site, arguments.profile);
    let plan = Plan::make(&audit, &arguments.selection.selection(), &mut host);
    refuse_mistakes(&plan.blocked)?;
    let mut intents: Vec<Intent> = plan.changes.iter().map(Intent::from).collect();
    if arguments.persist {
        intents.extend(files(&store, &intents, context, &mut host)?);
    }
    if intents.is_empty() {
        return nothing_to_change(&plan, &audit, arguments.json, context);
    }
    let options = ApplyOptions {
        profile: audit.targets.profile.to_string(),
        confirm_within: (!arguments.confirmed).then_some(arguments.timeout),
        persistent: arguments.persist,
        attended: false,
    };
    let launcher = context.launcher();
    let mut start_guard = |id: &str| launcher.start(id);
    let done = apply_transaction(&mut store, &mut host, intents, &options, &mut start_guard)?;
    if done.state == State::Held {
        after_confirming(&done, context);
    }
    if arguments.json {
        let within = options.confirm_within.map(|within| within.as_secs());
        context.json(&applied_json(&plan, &audit, Some(&done), within))?;
    } else {
        context.text(&plan_text(&plan, Detail::Open))?;
    }
    match options.confirm_within {
        Some(within) => context.say(&format!(
            "\n{}: {} changed. Everything is undone in {} s unless you type: {} confirm",
            done.id,
            counted(plan.changes.len(), "setting"),
            within.as_secs(),
            context.tune
        )),
        None => context.say(&format!("\n{}: {} changed and kept", done.id, counted(plan.changes.len(), "setting"))),
    }
    Ok(exit::DONE)
}

pub(super) fn confirm(as_json: bool, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let mut store = context.store();
    let _lock = store.lock(true)?;
    context.recover(&mut store, &mut host, true)?;
    let done = match confirm_transaction(&mut store, &mut host) {
        // A transaction that timed out is a failure: its changes are not in force.
        Err(TransactionError::NothingPending(why)) if why.is_empty() => {
            let document = json!({"transaction": null, "state": null, "persistent": false});
            return context.nothing_to_do("nothing waits to be confirmed", as_json.then_some(&document));
        }
        done => done?,
    };
    after_confirming(&done, context);
    if as_json {
        context.json(&json!({"transaction": done.id, "state": done.state, "persistent": done.persistent}))?;
    } else {
        let until = if done.persistent { "" } else { " until the host restarts (--persist keeps them longer)" };
        context.text(&{
            let kept = done.wanted().len();
            format!("{}: {} {} kept{until}\n", done.id, counted(kept, "setting"), agree(kept, "is", "are"))
        })?;
    }
    Ok(exit::DONE)
}

pub(super) fn roll_back(arguments: &RollbackArgs, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    let mut store = context.store();
    let _lock = store.lock(true)?;
    if let (true, Some(id)) = (arguments.forget, &arguments.transaction) {
        forget(&mut store, id)?;
        context.say(&format!("{id}: closed; nothing was restored"));
        if arguments.json {
            context.json(&json!({"rolled_back": [], "forgotten": id}))?;
        }
        return Ok(exit::DONE);
    }
    let reason = "rollback was requested";
    let rolled_back = if arguments.all {
        roll_back_all(&mut store, &mut host, reason)
    } else {
        let named = arguments.transaction.as_deref();
        roll_back_transaction(&mut store, &mut host, named, reason).map(|one| vec![one])
    };
    let done: Vec<Recovered> = match rolled_back {
        Err(TransactionError::NothingToRollBack) => {
            let document = json!({"rolled_back": []});
            return context
                .nothing_to_do("nothing is in force that could be rolled back", arguments.json.then_some(&document));
        }
        done => done?,
    };
    reload_systemd(&["daemon-reload"], context);
    if arguments.json {
        context.json(&json!({"rolled_back": done}))?;
    } else {
        for one in &done {
            context.text(&format!("{}: {}\n", one.id, one.text))?;
        }
    }
    Ok(if done.iter().any(|one| one.incomplete) { exit::FAILED } else { exit::DONE })
}

/// A sysctl in the site file that does not exist is a mistake in the file, so nothing is changed.
fn refuse_mistakes(blocked: &[BlockedChange]) -> Result<(), Failure> {
    let mistakes: Vec<String> = blocked
        .iter()
        .filter(|one| one.missing && one.rule == "site.sysctl")
        .map(|one| format!("{}: {}", one.setting, one.reason))
        .collect();
    if mistakes.is_empty() {
        return Ok(());
    }
    let text = format!(
        "nothing was changed: the site file asks for something that does not exist here: {}",
        mistakes.join("; ")
    );
    Err(Failure::new(exit::BAD_HOST, format!("{text}; correct it under [sysctl]")))
}

/// The plan and its result; without a transaction, nothing was changed.
fn applied_json(plan: &Plan, audit: &Audit, done: Option<&Transaction>, within_s: Option<u64>) -> Json {
    let mut value = super::audit::plan_json(plan, audit);
    value["transaction"] = json!(done.map(|done| &done.id));
    value["state"] = json!(done.map(|done| done.state));
    value["confirm_within_s"] = json!(within_s);
    value
}

fn nothing_to_change(
    plan: &Plan,
    audit: &Audit,
    as_json: bool,
    context: &mut CommandContext<'_>,
) -> Result<u8, Failure> {
    if as_json {
        context.json(&applied_json(plan, audit, None, None))?;
    } else {
        context.text(&plan_text(plan, Detail::Open))?;
    }
    if plan.blocked.is_empty() {
        context.say("\nnothing to do");
        return Ok(exit::DONE);
    }
    context.say("\nnothing can be changed from here; the commands above are for the host's admin");
    Ok(exit::BAD_HOST)
}

/// The files that preserve these and all held settings across a restart.
fn files(
    store: &Store,
    intents: &[Intent],
    context: &mut CommandContext<'_>,
    host: &mut dyn Host,
) -> Result<Vec<Intent>, Failure> {
    let (persistent, passing): (Vec<Transaction>, Vec<Transaction>) =
        store.transactions()?.into_iter().partition(|one| one.persistent);
    let passing = held_settings(&passing).len();
    if passing > 0 {
        // Their snapshots have the earlier state; a second transaction on top could not restore it.
        context.warn(&format!(
            "{} applied without --persist, until the next reboot; to keep the changes longer: {} \
             rollback --all, then {} apply --persist",
            format_args!("{} {}", counted(passing, "setting"), agree(passing, "was", "were")),
            context.tune,
            context.tune
        ));
    }
    let mut wanted = held_settings(&persistent);
    wanted.extend(intents.iter().map(|intent| (intent.setting.clone(), intent.to.clone())));
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    let program = context.program.display().to_string();
    let command: Vec<&str> =
        [program.as_str()].into_iter().chain(context.arguments.iter().map(String::as_str)).chain(["watch"]).collect();
    persist::intents(&wanted, &command, host).map_err(|error| Failure::new(exit::BAD_HOST, error.to_string()))
}

/// Reloads systemd and starts the service that keeps settings.
fn after_confirming(done: &Transaction, context: &mut CommandContext<'_>) {
    if done.persistent {
        reload_systemd(&["daemon-reload"], context);
        reload_systemd(&["start", "--no-block", persist::SERVICE], context);
    }
}

/// Runs systemctl if systemd runs. The next boot has the same effect, so a failure is only a
/// warning.
fn reload_systemd(arguments: &[&str], context: &mut CommandContext<'_>) {
    if !Path::new("/run/systemd/system").exists() {
        return;
    }
    let output = Command::new("systemctl").args(arguments).stdin(Stdio::null()).output();
    let problem = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    context.warn(&format!("systemctl {}: {problem}", arguments.join(" ")));
}
