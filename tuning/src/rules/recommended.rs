//! The rules that recommend values. The rules on conflicts evaluate these.

use super::rule::Rule;
use super::{boot, cpu, datapath, interrupts, links, memory, offloads, paths, queueing, sockets, storage, system, tcp};

/// The rules, by area.
pub(super) fn rules() -> impl Iterator<Item = &'static Rule> {
    [
        sockets::RULES,
        tcp::RULES,
        queueing::RULES,
        links::RULES,
        offloads::RULES,
        paths::RULES,
        interrupts::RULES,
        datapath::RULES,
        cpu::RULES,
        memory::RULES,
        boot::RULES,
        storage::RULES,
        system::RULES,
    ]
    .into_iter()
    .flatten()
}
