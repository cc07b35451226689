//! A NIC's receive rules by ethtool's ioctl.

use std::io;

use super::spec::Spec;
use super::{RuleTable, TableState};
use crate::kernel_calls::{ETH_FLAG_NTUPLE, EthtoolSocket};

/// The uppermost bit of what a driver says of its table (`RX_CLS_LOC_SPECIAL`): it chooses
/// locations itself.
const CHOOSES_LOCATIONS: u32 = 1 << 31;

/// The table of an interface.
#[derive(Debug)]
pub struct EthtoolTable {
    socket: EthtoolSocket,
}

impl EthtoolTable {
    /// The table of the interface with this index. Changing it takes `CAP_NET_ADMIN`.
    ///
    /// # Errors
    /// The operating system's.
    pub fn open(interface: u32) -> io::Result<Self> {
        Ok(Self { socket: EthtoolSocket::open(interface)? })
    }
}

impl RuleTable for EthtoolTable {
    fn state(&mut self) -> io::Result<TableState> {
        let (rules, data) = self.socket.rule_count()?;
        let is_on = self.socket.flags()? & ETH_FLAG_NTUPLE != 0;
        let chooses_locations = data & CHOOSES_LOCATIONS != 0;
        Ok(TableState { rules, size: data & !CHOOSES_LOCATIONS, chooses_locations, is_on })
    }

    fn locations(&mut self, count: u32) -> io::Result<Vec<u32>> {
        self.socket.rule_locations(count)
    }

    fn get(&mut self, location: u32) -> io::Result<Spec> {
        self.socket.rule(location).map(Spec)
    }

    fn insert(&mut self, spec: &Spec) -> io::Result<u32> {
        self.socket.insert_rule(&spec.0)
    }

    fn delete(&mut self, location: u32) -> io::Result<()> {
        self.socket.delete_rule(location)
    }
}
