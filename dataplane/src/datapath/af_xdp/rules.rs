//! Rules in the NIC that direct packets for a lane's UDP port to the lane's queue, whatever the
//! NIC's hash says.
//!
//! ```text
//!  lanes' ports and queues ── set ──> table of the NIC ([`RuleTable`], [`ethtool`])
//!                                       │ what was set
//!                                       └──> keeper ([`crate::keeper`]) removes it when the data plane has ended
//! ```
//!
//! A rule of exactly our form on a lane's port was left by a killed data plane and its killed rule
//! keeper: it is replaced, and removed in the end. Rules of any other form are somebody else's and
//! stay. If rules are not possible, the hash decides.

pub mod ethtool;
pub mod kept;
pub mod spec;

use std::io;

use culvert_link::kernel_bypass::{Family, Rule, SetRule};
use serde::{Deserialize, Serialize};
use spec::Spec;

/// Rules that are examined. A NIC with more has an owner who manages them.
const RULES_MAX: u32 = 8_192;

/// The rules that are in place, and why others are not, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// In place.
    pub set: Vec<SetRule>,
    /// Why there are not more.
    pub missing: Vec<String>,
}

impl Rules {
    /// None, for a reason.
    #[must_use]
    pub fn none(why: impl Into<String>) -> Self {
        Self { set: Vec::new(), missing: vec![why.into()] }
    }

    /// Whether all wanted rules are in place.
    #[must_use]
    pub const fn is_complete(&self) -> bool {
        !self.set.is_empty() && self.missing.is_empty()
    }

    /// Notes a reason once.
    fn lack(&mut self, why: String) {
        if !self.missing.contains(&why) {
            self.missing.push(why);
        }
    }
}

/// A table's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableState {
    /// Rules in it.
    pub rules: u32,
    /// Rules that fit.
    pub size: u32,
    /// Whether the driver chooses a new rule's location.
    pub chooses_locations: bool,
    /// Whether the NIC follows its rules.
    pub is_on: bool,
}

/// The location for a rule whose place the driver chooses (`RX_CLS_LOC_ANY`).
pub const ANY_LOCATION: u32 = u32::MAX;

/// A NIC's receive rules.
pub trait RuleTable {
    /// How full the table is, and whether it is used.
    ///
    /// # Errors
    /// `EOPNOTSUPP` where the NIC or its driver has no rules.
    fn state(&mut self) -> io::Result<TableState>;

    /// Where there are rules: up to `count` of them.
    ///
    /// # Errors
    /// The driver's.
    fn locations(&mut self, count: u32) -> io::Result<Vec<u32>>;

    /// The rule at a location.
    ///
    /// # Errors
    /// The driver's; `ENOENT` and others if there is none.
    fn get(&mut self, location: u32) -> io::Result<Spec>;

    /// Sets a rule at its location, or anywhere. Returns where it is.
    ///
    /// # Errors
    /// The driver's.
    fn insert(&mut self, spec: &Spec) -> io::Result<u32>;

    /// Removes the rule at a location.
    ///
    /// # Errors
    /// The driver's.
    fn delete(&mut self, location: u32) -> io::Result<()>;
}

/// Sets rules, as far as the NIC accepts them. `interface` is its name, for messages.
#[must_use]
pub fn set(table: &mut impl RuleTable, wanted: &[Rule], interface: &str) -> Rules {
    let unreadable = |error: io::Error| Rules::none(format!("the NIC's receive rules cannot be read: {error}"));
    let state = match table.state() {
        Ok(state) => state,
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
            return Rules::none(format!("{interface} has no receive rules in its hardware: the NIC's hash decides"));
        }
        Err(error) => return unreadable(error),
    };
    if !state.is_on {
        return Rules::none(format!(
            "{interface} does not use receive rules: turn them on (ethtool -K {interface} ntuple on)"
        ));
    }
    if state.rules > RULES_MAX {
        return Rules::none(format!("{interface} has {} receive rules, too many to look through", state.rules));
    }
    let mut present = match if state.rules == 0 { Ok(Vec::new()) } else { table.locations(state.rules) } {
        // A rule that disappeared in between does not count.
        Ok(locations) => locations.into_iter().filter_map(|location| table.get(location).ok()).collect::<Vec<_>>(),
        Err(error) => return unreadable(error),
    };
    let mut rules = Rules::default();
    for &rule in wanted {
        match set_one(table, &state, &mut present, rule, interface) {
            Ok(set) => rules.set.push(set),
            Err(why) => rules.lack(why),
        }
    }
    rules
}

/// Whether there are rules of our form on the ports of rules that are wanted: of an earlier data
/// plane, whose keeper is about to remove them or is gone.
#[must_use]
pub fn are_left(table: &mut impl RuleTable, wanted: &[Rule]) -> bool {
    let Ok(state) = table.state() else { return false };
    let locations = if state.rules == 0 { Vec::new() } else { table.locations(state.rules).unwrap_or_default() };
    let is_left = |spec: Spec| {
        let port = |found: Rule| wanted.iter().any(|rule| (rule.family, rule.port) == (found.family, found.port));
        spec.rule().is_some_and(port)
    };
    locations.into_iter().any(|location| table.get(location).is_ok_and(is_left))
}

/// Removes the rules that were set, unless they were changed since. Returns what could not be
/// removed, in words.
pub fn remove(table: &mut impl RuleTable, rules: &[SetRule]) -> Vec<String> {
    let mut left = Vec::new();
    for set in rules {
        let is_as_set = table.get(set.location).is_ok_and(|spec| spec.rule() == Some(set.rule()));
        if is_as_set && let Err(error) = table.delete(set.location) {
            left.push(format!(
                "the receive rule at {} for UDP port {} cannot be removed: {error}",
                set.location, set.port
            ));
        }
    }
    left
}

/// Sets one rule in place of those of its form for the same port.
fn set_one(
    table: &mut impl RuleTable,
    state: &TableState,
    present: &mut Vec<Spec>,
    rule: Rule,
    interface: &str,
) -> Result<SetRule, String> {
    let Rule { family, port, queue } = rule;
    let on_port = |spec: &&Spec| spec.concerns(family, port);
    if let Some(other) = present.iter().filter(on_port).find(|spec| spec.rule().is_none()) {
        let location = other.location();
        return Err(format!(
            "{interface} has a receive rule of somebody else's for UDP port {port} (ethtool -n {interface} rule {location})"
        ));
    }
    let stale: Vec<u32> = present.iter().filter(on_port).map(Spec::location).collect();
    for location in stale {
        table
            .delete(location)
            .map_err(|error| format!("a receive rule of an earlier run cannot be replaced: {error}"))?;
        present.retain(|spec| spec.location() != location);
    }
    let location = if state.chooses_locations {
        ANY_LOCATION
    } else {
        let is_free = |location: &u32| present.iter().all(|spec| spec.location() != *location);
        // From the end: an admin's own rules begin at the front, where they win.
        (0..state.size).rev().find(is_free).ok_or_else(|| full(interface))?
    };
    let location = table.insert(&Spec::of(rule, location)).map_err(|error| refused(&error, family, interface))?;
    match table.get(location) {
        Ok(spec) if spec.rule() == Some(rule) => {
            present.push(spec);
            Ok(SetRule::new(rule, location))
        }
        _ => {
            // A rule that was changed by the driver could not be distinguished from somebody else's
            // later.
            let _ = table.delete(location);
            Err(format!(
                "{interface} does not keep a receive rule for {} as it was given: port {port}, queue {queue}",
                family.name()
            ))
        }
    }
}

fn full(interface: &str) -> String {
    format!("the table of receive rules of {interface} is full (ethtool -n {interface} shows it)")
}

fn refused(error: &io::Error, family: Family, interface: &str) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EBUSY) => full(interface),
        Some(libc::EPERM | libc::EACCES) => "CAP_NET_ADMIN is missing for receive rules".to_owned(),
        _ => format!("{interface} refuses a receive rule for {}: {error}", family.name()),
    }
}

#[cfg(test)]
mod tests;
