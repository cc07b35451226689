//! `status`: settings in force, transactions that wait for confirmation or were rolled back.

use std::fmt::Write;

use culvert_host::setting::{Setting, Value};
use culvert_host::{Host, RealHost};
use culvert_protocol::counted::{agree, counted};
use serde::Serialize;

use super::context::{CommandContext, Failure, exit};
use crate::guard;
use crate::transaction::{Left, State, Transaction};
use crate::watch::held_here;

/// The number of finished transactions to show.
const OVER_SHOWN: usize = 5;

#[derive(Serialize)]
struct Status {
    transactions: Vec<TransactionStatus>,
    held: usize,
    drifted: Vec<DriftStatus>,
}

#[derive(Serialize)]
struct TransactionStatus {
    id: String,
    state: State,
    began_unix_s: u64,
    profile: String,
    persistent: bool,
    network_namespace: String,
    settings: usize,
    seconds_left: Option<u64>,
    guard_alive: Option<bool>,
    reason: Option<String>,
    left: Vec<Left>,
}

#[derive(Serialize)]
struct DriftStatus {
    setting: Setting,
    wanted: Value,
    found: Option<Value>,
}

pub(super) fn status(as_json: bool, context: &mut CommandContext<'_>) -> Result<u8, Failure> {
    let mut host = RealHost::open();
    context.recover_if_possible(&mut host);
    let transactions = context.store().transactions()?;
    let held = held_here(&transactions, &host);
    let now = host.now_boot_ms();
    let drifted = held.iter().filter_map(|(setting, wanted)| {
        let found = host.read(setting).ok();
        let same = found.as_ref().is_some_and(|found| setting.same(wanted, found));
        (!same).then(|| DriftStatus { setting: setting.clone(), wanted: wanted.clone(), found })
    });
    let status = Status {
        drifted: drifted.collect(),
        held: held.len(),
        transactions: transactions.iter().map(|one| describe(one, now, context)).collect(),
    };
    if as_json {
        context.json(&status)?;
    } else {
        context.text(&to_text(&status))?;
    }
    Ok(exit::DONE)
}

fn describe(one: &Transaction, now_boot_ms: u64, context: &CommandContext<'_>) -> TransactionStatus {
    let pending = one.state == State::Pending;
    TransactionStatus {
        id: one.id.clone(),
        state: one.state,
        began_unix_s: one.began_unix_s,
        profile: one.profile.clone(),
        persistent: one.persistent,
        network_namespace: one.place.network_namespace.clone(),
        settings: one.intents.len(),
        seconds_left: one
            .deadline_boot_ms
            .filter(|_| pending)
            .map(|deadline| deadline.saturating_sub(now_boot_ms).div_ceil(1000)),
        guard_alive: pending.then(|| guard::lives(&context.state_directory, &one.id)),
        reason: one.reason.clone(),
        left: one.left.clone(),
    }
}

fn to_text(status: &Status) -> String {
    if status.transactions.is_empty() {
        return "nothing has been changed on this host\n".to_owned();
    }
    let mut out = String::new();
    let over = |one: &&TransactionStatus| matches!(one.state, State::RolledBack | State::Ended);
    let hidden = status.transactions.iter().filter(over).count().saturating_sub(OVER_SHOWN);
    let mut skipped = 0;
    for one in &status.transactions {
        if over(&one) && skipped < hidden {
            skipped += 1;
            continue;
        }
        let state = match one.state {
            State::Applying => "being applied".to_owned(),
            State::Pending => format!("waits for `culvert tune confirm`, {} s left", one.seconds_left.unwrap_or(0)),
            State::Held if one.persistent => "kept, also after a restart".to_owned(),
            State::Held => "kept until the host restarts".to_owned(),
            State::RollingBack => "being rolled back".to_owned(),
            State::RolledBack => format!("rolled back: {}", one.reason.as_deref().unwrap_or("nothing was changed")),
            State::Ended => "ended with a reboot, or was forgotten".to_owned(),
        };
        let place =
            if one.network_namespace == "initial" { String::new() } else { format!(", {}", one.network_namespace) };
        let _ = writeln!(out, "{}  {} ({}{place}): {state}", one.id, one.profile, counted(one.settings, "setting"));
        for left in &one.left {
            let command = left.setting.command(&left.value).map(|command| format!("; by hand: {command}"));
            let _ = writeln!(out, "  not restored: {}{}", left.reason, command.unwrap_or_default());
        }
    }
    let are_held = format!("{} {} held", counted(status.held, "setting"), agree(status.held, "is", "are"));
    let held = match (status.held, status.drifted.len()) {
        (0, _) => "nothing is held here".to_owned(),
        (1, 0) => format!("{are_held}, and has its value"),
        (_, 0) => format!("{are_held}, and all have their values"),
        (_, drifted) => format!("{are_held}; with another value now: {drifted}"),
    };
    let _ = writeln!(out, "\n{held}");
    for drift in &status.drifted {
        let found = drift.found.as_ref().map_or("cannot be read".to_owned(), |found| format!("is '{found}'"));
        let _ = writeln!(out, "  {}: it {found}, should be '{}'", drift.setting, drift.wanted);
    }
    out
}
