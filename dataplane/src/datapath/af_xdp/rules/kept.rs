//! The rules of a data plane's lanes: set while it is still privileged, and handed to the keeper.

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use culvert_link::kernel_bypass::{AfXdpStart, Family, Rule};
use culvert_link::say_aside;

use super::ethtool::EthtoolTable;
use super::{RuleTable as _, Rules, are_left, remove, set};
use crate::datapath::af_xdp::ladder::LaneDatapath;
use crate::keeper::Keeper;

/// The running program itself: an update may have replaced the file.
const THIS_PROGRAM: &str = "/proc/self/exe";

/// A rule keeper acts at once. One that has not acted by then was killed too, and its rules are
/// taken over.
const KEEPER_PATIENCE: Duration = Duration::from_secs(2);

/// Rules, and the process that removes them when this is gone.
#[derive(Debug, Default)]
pub struct RuleGuard {
    /// The installed rules.
    pub rules: Rules,
    keeper: Option<Keeper>,
}

impl RuleGuard {
    /// Sets the rules of lanes that are bound to `bind`, as far as the NIC takes them, and starts a
    /// keeper for them.
    #[must_use]
    pub fn set(start: &AfXdpStart, bind: IpAddr, lanes: &[LaneDatapath]) -> Self {
        match lanes.len() {
            // All queues belong to the only lane.
            0 | 1 => Self::none(format!("one lane has all queues of {}: no receive rule is needed", start.name)),
            _ => Self::set_in(start, &wanted(bind, lanes)),
        }
    }

    fn set_in(start: &AfXdpStart, wanted: &[Rule]) -> Self {
        let mut table = match EthtoolTable::open(start.interface) {
            Ok(table) => table,
            Err(error) => return Self::none(format!("the NIC's receive rules cannot be reached: {error}")),
        };
        // A data plane that is started again at once finds the rules of the one before. Its keeper
        // must not remove them when they are ours.
        let began = Instant::now();
        while are_left(&mut table, wanted) && began.elapsed() < KEEPER_PATIENCE {
            std::thread::sleep(KEEPER_PATIENCE / 100);
        }
        let rules = set(&mut table, wanted, &start.name);
        // That a NIC has no rules is not worth a message at each start; the status shows it.
        if table.state().is_ok() {
            for why in &rules.missing {
                say_aside!("culvert dataplane: {why}");
            }
        }
        if rules.set.is_empty() {
            return Self { rules, keeper: None };
        }
        match Keeper::start(Path::new(THIS_PROGRAM), start.interface, &rules.set) {
            Ok(keeper) => Self { rules, keeper: Some(keeper) },
            Err(error) => {
                // Nothing would remove them later.
                let mut missing = remove(&mut table, &rules.set);
                missing.push(format!("receive rules need the rule keeper, which cannot be started: {error}"));
                say_aside!("culvert dataplane: {}", missing.join("; "));
                Self { rules: Rules { set: Vec::new(), missing }, keeper: None }
            }
        }
    }

    fn none(why: String) -> Self {
        Self { rules: Rules::none(why), keeper: None }
    }

    /// What the keeper's sandbox lacks, in words.
    #[must_use]
    pub fn sandbox_gaps(&self) -> &[String] {
        self.keeper.as_ref().map_or(&[], Keeper::sandbox_gaps)
    }
}

/// For each lane the rule that directs its port to its first queue.
fn wanted(bind: IpAddr, lanes: &[LaneDatapath]) -> Vec<Rule> {
    let ports = (0u32..).zip(lanes).filter_map(|(queue, lane)| Some((queue, lane.udp().port().ok()?)));
    let families = Family::served_by(bind);
    ports.flat_map(|(queue, port)| families.iter().map(move |&family| Rule { family, port, queue })).collect()
}
