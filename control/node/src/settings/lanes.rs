//! The configuration of the data plane, derived from the settings and this host.

use std::net::IpAddr;

use culvert_link::kernel_bypass::AfXdpStart;
use culvert_link::plane_handle::{BUFFERS_PER_LANE_MIN, PlaneConfig};
use culvert_model::units::show_bytes;
use culvert_plane::next_hop::Tables;
use culvert_plane::next_hop::interface::InterfaceError;
use culvert_protocol::chunk_map::CHUNK_BYTES_DEFAULT;
use culvert_protocol::counted::{agree, counted};

use crate::settings::Settings;
use crate::settings::origin::SettingsError;
use crate::settings::values::{Ports, join};

/// The most lanes if no cores are named: more help only with a 100 Gb/s NIC.
const LANES_DEFAULT_MAX: usize = 4;
/// Chunk buffers per lane if `memory` is not set: what is in flight at 10 Gb/s over 50 ms, and
/// small enough for any host.
const LANE_MEMORY_BYTES: usize = 64 << 20;
/// Buffer bytes requested for each lane's socket; hosts grant at most `net.core.rmem_max`. 16 MiB
/// hold 3 ms at 40 Gb/s.
pub const SOCKET_BUFFER_BYTES: usize = 16 << 20;

impl Settings {
    /// The configuration of the data plane. `is_node`: this process is a node with ports of its
    /// own, not an embedded one for a single transfer. `partner` is that transfer's partner, if
    /// known.
    ///
    /// # Errors
    /// [`SettingsError`]: cores that this process may not use, too little memory or too few ports
    /// for the lanes, or an interface that does not exist.
    pub fn engine(&self, is_node: bool, partner: Option<IpAddr>) -> Result<PlaneConfig, SettingsError> {
        let cores = self.lane_cores()?;
        let memory_bytes = match self.memory.value as usize {
            0 => cores.len() * LANE_MEMORY_BYTES,
            bytes => bytes,
        };
        let least = cores.len() * BUFFERS_PER_LANE_MIN * CHUNK_BYTES_DEFAULT as usize;
        if memory_bytes < least {
            let origin = self.memory.origin.clone();
            let reason = format!(
                "{} is too little for {}: write {} or more, or use fewer cores",
                show_bytes(memory_bytes as u64),
                counted(cores.len(), "lane"),
                show_bytes(least as u64)
            );
            return Err(SettingsError::Value { name: "memory", origin, reason });
        }
        let first = self.listen.value.port();
        let ports = match &self.ports.value {
            Ports::Automatic if is_node && first > 0 => {
                (1..=cores.len() as u16).map(|lane| first.saturating_add(lane)).collect()
            }
            Ports::Automatic | Ports::Any => Vec::new(),
            Ports::These(ports) => ports.clone(),
        };
        // Partners' firewalls name a node's ports, so each lane gets one of the first; the lanes of
        // a single transfer take any that are free.
        let ports = if is_node { ports.into_iter().take(cores.len()).collect() } else { ports };
        if !ports.is_empty() && ports.len() < cores.len() {
            return Err(SettingsError::Value {
                name: "ports",
                origin: self.ports.origin.clone(),
                reason: format!(
                    "{} {} too few for {}: each lane has one of its own",
                    counted(ports.len(), "port"),
                    agree(ports.len(), "is", "are"),
                    counted(cores.len(), "lane")
                ),
            });
        }
        let (af_xdp, refusals) = self.af_xdp(partner)?;
        Ok(PlaneConfig {
            cores: cores.into_iter().map(Some).collect(),
            memory_bytes,
            buffer_bytes: CHUNK_BYTES_DEFAULT as usize,
            bind: self.bind.value,
            ports,
            socket_buffer_bytes: SOCKET_BUFFER_BYTES,
            af_xdp,
            refusals,
        })
    }

    /// Whether AF_XDP is requested without naming its interface.
    #[must_use]
    pub fn seeks_interface(&self) -> bool {
        self.datapath.value == "af_xdp" && self.interface.value.is_none()
    }

    /// The interface for AF_XDP, or why there is none. The datapath `auto` uses AF_XDP only on an
    /// interface that is named.
    fn af_xdp(&self, partner: Option<IpAddr>) -> Result<(Option<AfXdpStart>, Vec<String>), SettingsError> {
        let name = self.interface.value.as_deref();
        let is_wanted = match self.datapath.value.as_str() {
            "af_xdp" => true,
            "auto" => name.is_some(),
            _ => false,
        };
        if !is_wanted {
            return Ok((None, Vec::new()));
        }
        let found = Tables::open().map_err(InterfaceError::from).and_then(|tables| tables.interface(name, partner));
        let (only, busy_poll_us) = (self.af_xdp_mode.value, self.busy_poll_us.value);
        let busy_poll_us = (busy_poll_us > 0).then_some(busy_poll_us);
        match found {
            Ok(start) => Ok((Some(AfXdpStart { only, busy_poll_us, ..start }), Vec::new())),
            Err(error @ InterfaceError::Unclear { .. }) => Ok((None, vec![format!("{error}; UDP sockets are used")])),
            Err(error) => Err(SettingsError::Host {
                name: "interface",
                origin: self.interface.origin.clone(),
                reason: error.to_string(),
            }),
        }
    }

    fn lane_cores(&self) -> Result<Vec<usize>, SettingsError> {
        let usable: Vec<usize> =
            core_affinity::get_core_ids().unwrap_or_default().into_iter().map(|core| core.id).collect();
        if let Some(core) = self.cores.value.iter().find(|core| !usable.contains(core)) {
            return Err(SettingsError::Value {
                name: "cores",
                origin: self.cores.origin.clone(),
                reason: format!("core {core} is not one that this process may use ({})", join(&usable)),
            });
        }
        if !self.cores.value.is_empty() {
            return Ok(self.cores.value.clone());
        }
        // Half of the cores, starting at a different one in each process, so that two nodes on a
        // host rarely share any.
        let lanes = (usable.len() / 2).clamp(1, LANES_DEFAULT_MAX);
        let begin = std::process::id() as usize;
        Ok((0..lanes).map(|lane| usable.get((begin + lane) % usable.len().max(1)).copied().unwrap_or(0)).collect())
    }
}
